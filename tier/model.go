package tier

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// Bounds on what a Model may declare. They keep names printable in a log line
// and a library's index small; nothing else depends on their values.
const (
	MaxNameLength   = 255 // bytes, for model names, capabilities and label keys
	MaxCapabilities = 256
	MaxLabels       = 256
)

// Model is a named artefact that can be served. It is a value: nobody changes the
// slices and maps inside, neither modeltier nor who is given one. A Manager keeps
// a copy of what it is handed.
type Model struct {
	// Name identifies the model. Any printable text of 1 to MaxNameLength bytes.
	Name string
	// Path is where the weights are: a file or a folder of files. What a Mover
	// needs of it is the Mover's to say; mapped files need it.
	Path string
	// Size is the bytes of weights. Zero is allowed where Path can be measured.
	Size Bytes
	// Runtime is the bytes that serving needs beyond the weights: KV cache,
	// activations. They are charged to RAM while the model is served.
	Runtime Bytes
	// Home is the tier the model is meant to live in when nobody needs it
	// elsewhere. Zero, Storage: it is left in storage until it is asked for.
	Home Tier
	// Capabilities is what the model can do: "text-generation", "embeddings", ….
	Capabilities []string
	// Quality ranks models where size would mislead. Finite, ≥ 0; zero: judged
	// by Size.
	Quality float64
	// Pinned: never demoted by anyone but its owner.
	Pinned bool
	// Labels are the owner's own; modeltier only carries them.
	Labels map[string]string
}

// Footprint returns the bytes that the model charges at rest in tier t, by
// tier. keep is the part of its weights that is present in memory when t is
// Swap; serving says that a swap-tier model is ready to be leased where it is,
// which needs its Runtime bytes.
func (m *Model) Footprint(t Tier, keep Bytes, serving bool) Footprint {
	var f Footprint
	switch t {
	case RAM:
		f[RAM] = m.Size.Plus(m.Runtime)
	case Swap:
		keep = min(max(keep, 0), m.Size)
		f[RAM], f[Swap] = keep, m.Size-keep
		if serving {
			f[RAM] = f[RAM].Plus(m.Runtime)
		}
	}
	return f
}

// divided is Footprint with a part of the weights left in storage.
func (m *Model) divided(t Tier, keep, left Bytes, serving bool) Footprint {
	f := m.Footprint(t, keep, serving)
	if t == Swap {
		f[Swap] -= min(max(left, 0), f[Swap])
	}
	return f
}

// Can reports whether the model names every one of the capabilities.
func (m *Model) Can(capabilities []string) bool {
	for _, c := range capabilities {
		if !slices.Contains(m.Capabilities, c) {
			return false
		}
	}
	return true
}

// Validate returns every fault of the model at once, each an *InvalidError
// that names field, value and rule, or nil.
func (m *Model) Validate() error {
	var errs []error
	fault := func(field, value, rule string) {
		errs = append(errs, &InvalidError{Model: m.Name, Field: field, Value: value, Rule: rule})
	}
	if err := CheckName("name", m.Name); err != nil {
		errs = append(errs, err)
	}
	switch {
	case m.Size < 0:
		fault("size", fmt.Sprint(int64(m.Size)), "must be positive")
	case m.Size == 0 && m.Path == "":
		fault("size", "0", "must be positive where there is no path to measure")
	}
	if m.Runtime < 0 {
		fault("runtime", fmt.Sprint(int64(m.Runtime)), "must not be negative")
	}
	if _, ok := m.Size.Add(m.Runtime); !ok {
		fault("size", fmt.Sprint(int64(m.Size)), "size and runtime together must fit 63 bits")
	}
	if !m.Home.Valid() {
		fault("home", m.Home.String(), "must be one of ram, swap, storage")
	}
	if math.IsNaN(m.Quality) || math.IsInf(m.Quality, 0) || m.Quality < 0 {
		fault("quality", strconv.FormatFloat(m.Quality, 'g', -1, 64), "must be a finite number, 0 or more")
	}
	if len(m.Capabilities) > MaxCapabilities {
		fault("capabilities", fmt.Sprint(len(m.Capabilities), " of them"), fmt.Sprint("must be ", MaxCapabilities, " at most"))
	} else {
		for _, c := range m.Capabilities {
			if err := CheckName("capability", c); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if len(m.Labels) > MaxLabels {
		fault("labels", fmt.Sprint(len(m.Labels), " of them"), fmt.Sprint("must be ", MaxLabels, " at most"))
	}
	return errors.Join(errs...)
}

// CheckName returns nil where name is printable UTF-8 of 1 to MaxNameLength
// bytes, and else an *InvalidError about the field.
func CheckName(field, name string) error {
	rule := ""
	switch {
	case name == "":
		rule = "must not be empty"
	case len(name) > MaxNameLength:
		rule = fmt.Sprint("must be ", MaxNameLength, " bytes at most")
	case !utf8.ValidString(name):
		rule = "must be valid UTF-8"
	default:
		for _, r := range name {
			if !unicode.IsPrint(r) {
				rule = "must hold printable characters only"
				break
			}
		}
	}
	if rule == "" {
		return nil
	}
	return &InvalidError{Field: field, Value: shorten(name), Rule: rule}
}

// shorten quotes what came from outside and bounds its length, so that an error
// never grows with its cause.
func shorten(s string) string {
	const most = 64
	if len(s) <= most {
		return strconv.Quote(s)
	}
	return strconv.Quote(s[:most]) + "…"
}
