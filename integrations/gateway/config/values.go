package config

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// A value is what a text in the file stands for. set returns why it cannot; old says that
// the key is one whose name has the unit, by which a number is meant.
type value interface {
	set(text string, old bool) error
}

// Size is a number of bytes: 5GiB, 320MiB, 0.5G. As on the wire, 1 GB is 2^30 bytes.
type Size tier.Bytes

// units by their names, in lower case.
var units = map[string]tier.Bytes{
	"b": 1,
	"k": tier.KiB, "kb": tier.KiB, "kib": tier.KiB,
	"m": tier.MiB, "mb": tier.MiB, "mib": tier.MiB,
	"g": tier.GiB, "gb": tier.GiB, "gib": tier.GiB,
	"t": 1024 * tier.GiB, "tb": 1024 * tier.GiB, "tib": 1024 * tier.GiB,
}

// ParseSize reads a size such as "5GiB", "320MB", "0.5 G" or "0".
func ParseSize(text string) (tier.Bytes, error) { return parseSize(text, "") }

// parseSize reads a size; unit is what a number alone is meant in, "": it must be named.
func parseSize(text, unit string) (tier.Bytes, error) {
	number, n, named, err := splitUnit(text)
	if err != nil {
		return 0, errors.New("must be a size such as 5GiB, 320MiB or 0.5G")
	}
	if named == "" {
		if unit == "" && n != 0 {
			return 0, fmt.Errorf("has no unit; did you mean %sGiB?", number)
		}
		named = unit
	}
	factor, known := units[strings.ToLower(named)]
	if !known && named != "" {
		return 0, fmt.Errorf("has an unknown unit %.20q; known are B, KiB, MiB, GiB and TiB", named)
	}
	b, err := tier.FromGB(n * factor.GB())
	if err != nil {
		return 0, errors.New("is more than can be counted")
	}
	return b, nil
}

// splitUnit splits a number that is not negative from what follows it.
func splitUnit(text string) (number string, n float64, unit string, err error) {
	end := 0
	for end < len(text) && (text[end] >= '0' && text[end] <= '9' || text[end] == '.') {
		end++
	}
	// An exponent, as JSON has it: what begins with e is no unit.
	if rest := text[end:]; len(rest) > 1 && (rest[0] == 'e' || rest[0] == 'E') {
		end = len(text)
	}
	number = text[:end]
	if n, err = strconv.ParseFloat(number, 64); errors.Is(err, strconv.ErrRange) && n > 1 {
		err = nil // infinite, which what follows refuses
	}
	return number, n, strings.TrimSpace(text[end:]), err
}

func (s *Size) set(text string, old bool) error {
	b, err := parseSize(text, oldUnit(old, "gb"))
	*s = Size(b)
	return err
}

func oldUnit(old bool, unit string) string {
	if old {
		return unit
	}
	return ""
}

// Limit is a Size, or none or unlimited. The zero Limit is not named.
type Limit tier.Bytes

func (l *Limit) set(text string, old bool) error {
	switch text {
	case "none":
		*l = Limit(tier.None)
		return nil
	case "unlimited":
		*l = Limit(tier.Unlimited)
		return nil
	}
	b, err := parseSize(text, oldUnit(old, "gb"))
	if err != nil {
		return fmt.Errorf("%w, or none, or unlimited", err)
	}
	if b == 0 && !old { // where the key has the unit, 0 has always been the default
		b = tier.None
	}
	*l = Limit(b)
	return nil
}

// Duration is a time: 90s, 15m, 1h30m, 2d. 0 is none.
type Duration time.Duration

// maxDuration is more than thirty years.
const maxDuration = 1e9 * time.Second

func (d *Duration) set(text string, old bool) error {
	number, n, unit, err := splitUnit(text)
	var t time.Duration
	switch {
	case err == nil && unit == "" && !old && n != 0:
		return fmt.Errorf("has no unit; did you mean %ss?", number)
	case err == nil && unit == "" && n <= maxDuration.Seconds():
		t = time.Duration(n * float64(time.Second))
	case err == nil && unit == "d" && n <= maxDuration.Hours()/24:
		t = time.Duration(n * 24 * float64(time.Hour))
	default:
		if t, err = time.ParseDuration(text); err != nil || t < 0 || t > maxDuration {
			if old {
				return errors.New("must be seconds, 0 or more, or a time such as 90s or 15m")
			}
			return errors.New("must be a time such as 90s, 15m, 1h30m or 2d")
		}
	}
	*d = Duration(t)
	return nil
}

// KeepAlive is a Duration, where 0 is as soon as a model is idle, or forever: never by
// idleness. The zero KeepAlive is not named.
type KeepAlive time.Duration

// Duration returns it as tier.Model.KeepAlive is read.
func (k KeepAlive) Duration() time.Duration { return time.Duration(k) }

func (k *KeepAlive) set(text string, _ bool) error {
	var d Duration
	if text == "forever" || text == "-1" { // as clients of Ollama say it
		*k = -1
		return nil
	}
	if err := d.set(text, false); err != nil {
		return fmt.Errorf("%w, or 0 for at once, or forever", err)
	}
	*k = KeepAlive(d)
	if d == 0 {
		*k = KeepAlive(tier.AtOnce)
	}
	return nil
}

// Command is a program and its arguments. As a text it is split as a shell would split it.
type Command []string

func (c *Command) set(text string, _ bool) error {
	words, err := splitWords(text)
	*c = words
	return err
}

// Environment is "NAME=value" entries.
type Environment []string

// Body is the body of a Request.
type Body string

// Standby is what becomes of an engine on standby.
type Standby string

func (s *Standby) set(text string, _ bool) error { return oneOf(s, text, Standby("").words()) }

func (Standby) words() []string { return []string{"auto", "freeze", "stop"} }

// Class is how soon requests have their turn at a busy engine.
type Class string

func (c *Class) set(text string, _ bool) error { return oneOf(c, text, Class("").words()) }

func (Class) words() []string { return []string{"high", "normal", "low"} }

// Scope is something that a key allows.
type Scope string

func (s *Scope) set(text string, _ bool) error { return oneOf(s, text, Scope("").words()) }

func (Scope) words() []string { return []string{"use", "watch", "manage"} }

// enumerated is a value that is one of a few words.
type enumerated interface{ words() []string }

func oneOf[T ~string](to *T, text string, words []string) error {
	*to = T(text)
	if text != "" && !slices.Contains(words, text) {
		return errors.New("must be " + either(words))
	}
	return nil
}

// either joins words: "a, b or c".
func either(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func setFloat(text string) (float64, error) {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, errors.New("must be a number")
	}
	return n, nil
}
