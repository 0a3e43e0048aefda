package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// size is a flag.Value for one of the limits.
type size struct {
	to   *tier.Bytes
	none bool // 0 is allowed, and means none at all
}

func (s size) String() string {
	if s.to == nil || *s.to == 0 {
		return ""
	}
	return s.to.String()
}

func (s size) Set(text string) error {
	b, err := parseSize(text)
	switch {
	case err != nil:
		return err
	case b == 0 && !s.none:
		return errors.New("must be more than nothing")
	case b == 0:
		b = tier.None // in limits, zero is the default
	}
	*s.to = b
	return nil
}

// units by their names, in lower case. As on the wire, 1 GB is 2^30 bytes.
var units = map[string]tier.Bytes{
	"b": 1,
	"k": tier.KiB, "kb": tier.KiB, "kib": tier.KiB,
	"m": tier.MiB, "mb": tier.MiB, "mib": tier.MiB,
	"g": tier.GiB, "gb": tier.GiB, "gib": tier.GiB,
	"t": 1024 * tier.GiB, "tb": 1024 * tier.GiB, "tib": 1024 * tier.GiB,
}

// parseSize reads a size such as "5GB", "320MiB", "0.5 G" or "0".
func parseSize(text string) (tier.Bytes, error) {
	const digits = "0123456789."
	end := len(text) - len(strings.TrimLeft(text, digits))
	number, unit := text[:end], strings.ToLower(strings.TrimSpace(text[end:]))
	if number == "0" && unit == "" {
		return 0, nil
	}
	factor, known := units[unit]
	n, err := strconv.ParseFloat(number, 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return 0, errors.New("must be a size such as 5GB, 320MiB or 0.5G")
	case unit == "":
		return 0, fmt.Errorf("has no unit; did you mean %sGB?", number)
	case !known:
		return 0, fmt.Errorf("has an unknown unit %.20q; known are B, KB, MB, GB and TB, all powers of 1024", text[end:])
	}
	b, err := tier.FromGB(n * factor.GB())
	if err != nil {
		return 0, errors.New("is more than can be counted")
	}
	return b, nil
}
