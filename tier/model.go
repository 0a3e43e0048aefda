package tier

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds on what a Model may declare. They keep names printable in a log line
// and a library's index small; no code depends on their values.
const (
	MaxNameLength   = 255 // bytes, for model names, capabilities and label keys
	MaxCapabilities = 256
	MaxParts        = 1024 // far above any real set; each costs a file handle and a mapping
	MaxAliases      = 10_000
)

// Digest is what the content of a file should be.
type Digest struct {
	// SHA256 is 64 lower-case hexadecimal digits.
	SHA256 string `json:"sha256"`
	// Source is the path of what says so; "": the model's owner. What a file says is
	// looked for again whenever the model's parts are, what its owner says stays.
	Source string `json:"source,omitempty"`
}

const maxLabels = 256

// ProjectorLabel is the label that names the part of a model that is its projector,
// which lets it see or hear. Its value is one of Parts. Package hotload sets it.
const ProjectorLabel = "mmproj"

// AutoName is no model's name, and no alias: where a client has to name a model, it asks
// by it for the one that fits best.
const AutoName = "auto"

// AtOnce is the KeepAlive of a model that leaves ram when its last lease ends.
const AtOnce time.Duration = 1

// Model is a named artefact that can be served. It is a value: neither modeltier nor
// the receiver of one changes the slices and maps inside. A Manager keeps a copy of
// what it is given.
type Model struct {
	// Name identifies the model. Any printable text of 1 to MaxNameLength bytes but
	// AutoName, and what begins with that and an @.
	Name string
	// Aliases are further names that come with the model, as the tags of Ollama's store do.
	// One that is a model's name, or an alias that was set, is that.
	Aliases []string
	// Path is where the weights are: a file or a folder of files. It is what an engine is
	// given. The Mover decides whether it needs one; mapped files do.
	Path string
	// Parts are further files that belong to the model and count: shards, a projector,
	// adapters. With Parts, a Path that is a folder holds nothing else that counts;
	// without, all the weights in it do. A Manager fills them in where they are empty, by
	// what is at Path: the other shards of the set that a shard, an index or a folder
	// belongs to, and a projector.
	Parts []string
	// Digests are what files of the model should hold, by Path, by one of Parts, or by a
	// path in Path where that is a folder. A Manager adds what stands beside the files
	// (hotload.Gather). Whether they are held against it says Config.Verify.
	Digests map[string]Digest
	// Size is the bytes of weights. Zero is allowed if Path can be measured.
	Size Bytes
	// Runtime is the bytes that serving needs beyond the weights: KV cache,
	// activations. They are charged to RAM while the model is served.
	Runtime Bytes
	// Home is the tier the model is meant to live in when it is not needed elsewhere.
	// Zero, Storage: it is left in storage until it is asked for.
	Home Tier
	// Capabilities is what the model can do: "text-generation", "embeddings", ….
	Capabilities []string
	// Quality ranks models if size would mislead. Finite, ≥ 0; zero: judged by Size.
	Quality float64
	// Pinned: only its owner demotes it.
	Pinned bool
	// KeepAlive is how long the model may be idle in ram before it goes to swap by
	// itself, counted from its arrival or the end of its last lease; to storage if swap has
	// no room for it. 0: Config.KeepAlive. AtOnce: when its last lease ends; brought there
	// for no request, it stays until it was used once. Negative: it never leaves by
	// idleness, swap neither, which is no pin: it still gives way. Its Home stays.
	KeepAlive time.Duration
	// Version tells the content of the weights from any other: VersionDigest or
	// VersionHeader, and 64 hexadecimal digits. A Manager fills it in by what is at Path,
	// whatever was said; package hotload says how it is made. Where no file is at Path, it
	// is the owner's to say. "": not known.
	Version string
	// VersionOf is the name of the model of which this is an older version; "": of none. A
	// Manager sets it. Such a model is for those who name it: no Selector leads another
	// request to it, and it is brought home for none.
	VersionOf string
	// Mover names what moves the model: a key of Config.Movers; "": Config.Mover.
	Mover string
	// Labels are the owner's own, 256 at most, but for ProjectorLabel. The Constraints of a Request
	// look at them, and a Mover may.
	Labels map[string]string
}

// Footprint returns the bytes that the model charges at rest in tier t, by
// account. keep is the part of its weights that is present in memory if t is
// Swap; serving means that a swap-tier model is ready to be leased in place, which
// needs its Runtime bytes.
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
	f := faults{model: m.Name}
	f.name("name", m.Name)
	if isAuto(m.Name) {
		f.add("name", shorten(m.Name), autoRule)
	}
	switch {
	case m.Size < 0:
		f.add("size", fmt.Sprint(int64(m.Size)), "must be positive")
	case m.Size == 0 && m.Path == "":
		f.add("size", "0", "must be positive if there is no path to measure")
	}
	if m.Runtime < 0 {
		f.add("runtime", fmt.Sprint(int64(m.Runtime)), "must not be negative")
	}
	if _, ok := m.Size.Add(m.Runtime); !ok {
		f.add("size", fmt.Sprint(int64(m.Size)), "size and runtime together must fit 63 bits")
	}
	if !m.Home.Valid() {
		f.add("home", m.Home.String(), "must be one of ram, swap, storage")
	}
	if math.IsNaN(m.Quality) || math.IsInf(m.Quality, 0) || m.Quality < 0 {
		f.add("quality", strconv.FormatFloat(m.Quality, 'g', -1, 64), "must be a finite number, 0 or more")
	}
	if m.Mover != "" {
		f.name("mover", m.Mover)
	}
	f.names("capabilities", "capability", m.Capabilities)
	f.count("parts", len(m.Parts), MaxParts)
	switch {
	case slices.Contains(m.Parts, ""):
		f.add("parts", `""`, "must not be empty")
	case len(m.Parts) > 0 && m.Path == "":
		f.add("path", `""`, "must name the entry if there are parts")
	}
	if m.Version != "" && !versionForm.MatchString(m.Version) {
		f.add("version", shorten(m.Version), versionRule)
	}
	f.names("aliases", "alias", m.Aliases)
	f.count("labels", len(m.Labels), maxLabels)
	f.digests(m)
	return errors.Join(f.errs...)
}

const autoRule = "must be another: it asks for the model that fits best"

// isAuto reports whether the name asks for any model, or for a version of any.
func isAuto(name string) bool {
	name, _, _ = strings.Cut(name, "@")
	return name == AutoName
}

// CheckAlias returns nil if name may be an alias: it is printable and not AutoName, nor a
// version of that.
func CheckAlias(field, name string) error {
	if isAuto(name) {
		return &InvalidError{Field: field, Value: shorten(name), Rule: autoRule}
	}
	return CheckName(field, name)
}

// CheckAliases returns nil if there may be that many aliases.
func CheckAliases(n int) error {
	if n <= MaxAliases {
		return nil
	}
	return &InvalidError{Field: "aliases", Value: fmt.Sprint(n, " of them"), Rule: fmt.Sprint("must be ", MaxAliases, " at most"), Help: []string{"Remove an alias that is not used any more."}}
}

// faults collects what is wrong with a value of the user's.
type faults struct {
	model string // that it is about, if any
	errs  []error
}

func (f *faults) add(field, value, rule string, help ...string) {
	f.errs = append(f.errs, &InvalidError{Model: f.model, Field: field, Value: value, Rule: rule, Help: help})
}

func (f *faults) name(field, name string) {
	if err := CheckName(field, name); err != nil {
		f.errs = append(f.errs, err)
	}
}

// names checks capabilities, each of which is called one.
func (f *faults) names(field, one string, names []string) {
	if f.count(field, len(names), MaxCapabilities) {
		for _, n := range names {
			f.name(one, n)
		}
	}
}

func (f *faults) count(field string, n, maxCount int) (ok bool) {
	if n > maxCount {
		f.add(field, fmt.Sprint(n, " of them"), fmt.Sprint("must be ", maxCount, " at most"))
	}
	return n <= maxCount
}

// digests checks what files should hold, up to the first fault.
func (f *faults) digests(m *Model) {
	if len(m.Digests) == 0 || !f.count("digests", len(m.Digests), MaxParts+1) {
		return
	}
	files := make(map[string]bool, 1+len(m.Parts))
	files[m.Path] = m.Path != ""
	for _, part := range m.Parts {
		files[part] = true
	}
	below := strings.TrimSuffix(m.Path, string(filepath.Separator)) + string(filepath.Separator)
	for _, path := range slices.Sorted(maps.Keys(m.Digests)) {
		switch sum := m.Digests[path].SHA256; {
		case !files[path] && (m.Path == "" || !strings.HasPrefix(path, below)):
			f.add("digests", shorten(path), "must name the path, a part, or a file in the path")
		case len(sum) != 2*sha256.Size || strings.Trim(sum, "0123456789abcdef") != "":
			f.add("digests", shorten(sum), "must be a SHA-256 digest in 64 lower-case hexadecimal digits")
		default:
			continue
		}
		return
	}
}

// CheckName returns nil if name is printable UTF-8 of 1 to MaxNameLength bytes, and
// otherwise an *InvalidError about the field.
func CheckName(field, name string) error {
	rule := ""
	switch {
	case name == "":
		rule = "must not be empty"
	case len(name) > MaxNameLength:
		rule = fmt.Sprint("must be ", MaxNameLength, " bytes at most")
	case !utf8.ValidString(name):
		rule = "must be valid UTF-8"
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		rule = "must hold printable characters only"
	default:
		return nil
	}
	return &InvalidError{Field: field, Value: shorten(name), Rule: rule}
}

// shorten quotes what came from outside and bounds its length, so that an error
// never grows with its cause.
func shorten(s string) string {
	const maxLength = 64
	if len(s) <= maxLength {
		return strconv.Quote(s)
	}
	return strconv.Quote(s[:maxLength]) + "…"
}
