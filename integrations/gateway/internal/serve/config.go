package serve

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/modeltier/modeltier/integrations/gateway/engines"
	"github.com/modeltier/modeltier/tier"
)

// config is the file of -config: what is served, and by which engines. Paths in
// it are relative to its folder.
type config struct {
	Engines map[string]engines.Config `json:"engines"`
	Models  []modelConfig             `json:"models"`
	Limits  limitsConfig              `json:"limits"`
	State   string                    `json:"state"` // a folder; "": nothing is remembered
}

type modelConfig struct {
	Name         string    `json:"name"`
	Path         string    `json:"path"`
	Parts        []string  `json:"parts"`  // found by path, if there are none
	Engine       string    `json:"engine"` // "": the only one
	SizeGB       float64   `json:"size_gb"`
	RuntimeGB    float64   `json:"runtime_gb"`
	Tier         tier.Tier `json:"tier"`
	Capabilities []string  `json:"capabilities"`
	Quality      float64   `json:"quality"`
	Pinned       bool      `json:"pinned"`
}

type limitsConfig struct {
	RAM      float64 `json:"ram_gb"`
	Swap     float64 `json:"swap_gb"`
	Reserved float64 `json:"reserved_gb"`
}

// maxConfig bounds the file.
const maxConfig = 1 << 20

// readConfig returns the library that a file describes.
func readConfig(path string) (*library, error) {
	if err := checkKind(path, "a regular file", fs.FileMode.IsRegular); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(b) > maxConfig {
		err = fmt.Errorf("is longer than %d bytes", maxConfig)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(b, dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	lib := c.library(dir)
	lib.about = path
	return lib, nil
}

// parseConfig reads a configuration that lies in dir. Its error names all that is
// wrong. What Manager and Mover check themselves is left to them.
func parseConfig(b []byte, dir string) (*config, error) {
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")) // which editors on Windows put before a text
	in := json.NewDecoder(bytes.NewReader(b))
	in.DisallowUnknownFields()
	c := &config{}
	if err := in.Decode(c); err != nil {
		return nil, located(err, b)
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the configuration")
	}
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	only := ""
	for name, e := range c.Engines {
		if err := tier.CheckName("its name", name); err != nil {
			fault("engine %q: %w", name, err)
		}
		only = name
		e.Settle(dir)
		c.Engines[name] = e
		if err := e.Validate(); err != nil {
			fault("engine %q: %w", name, err)
		}
	}
	for _, gb := range []float64{c.Limits.RAM, c.Limits.Swap, c.Limits.Reserved} {
		if !isSize(gb) {
			fault("limits: %v is no size in GB", gb)
		}
	}
	seen := map[string]bool{}
	for i := range c.Models {
		m := &c.Models[i]
		if seen[m.Name] {
			fault("model %q is there twice", m.Name)
		}
		seen[m.Name] = true
		if m.Engine == "" && len(c.Engines) == 1 {
			m.Engine = only
		}
		if _, ok := c.Engines[m.Engine]; !ok {
			fault("model %q: there is no engine %q", m.Name, m.Engine)
		}
		if !isSize(m.SizeGB) || !isSize(m.RuntimeGB) {
			fault("model %q: %v and %v must be sizes in GB", m.Name, m.SizeGB, m.RuntimeGB)
		}
		if m.Path != "" && !filepath.IsAbs(m.Path) {
			// A name in a hub is none of a file, and stays as it is.
			if at := filepath.Join(dir, m.Path); exists(at) {
				m.Path = at
			}
		}
		for i, part := range m.Parts {
			if !filepath.IsAbs(part) {
				m.Parts[i] = filepath.Join(dir, part)
			}
		}
	}
	if c.State != "" && !filepath.IsAbs(c.State) {
		c.State = filepath.Join(dir, c.State)
	}
	return c, errors.Join(errs...)
}

// located says in which line of the file an error of the decoder is, where it
// knows.
func located(err error, b []byte) error {
	var at int64
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		at = syntax.Offset
	} else if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		at = kind.Offset
	} else {
		return err
	}
	line := 1 + bytes.Count(b[:min(max(at, 0), int64(len(b)))], []byte{'\n'})
	return fmt.Errorf("line %d: %w", line, err)
}

func isSize(gb float64) bool { return gb >= 0 && gb < 1e6 }

// checkKind returns an error that names path if it cannot be read or is not what it
// must be. To open a FIFO would block, and to read a device would have effects.
func checkKind(path, want string, is func(fs.FileMode) bool) error {
	info, err := os.Stat(path)
	if err == nil && !is(info.Mode()) {
		err = fmt.Errorf("%s must be %s", path, want)
	}
	return err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func bytesOf(gb float64) tier.Bytes { return tier.Bytes(math.Round(gb * float64(tier.GiB))) }

// library returns what the configuration says is served. dir is its folder.
func (c *config) library(dir string) *library {
	lib := &library{dir: dir, engines: c.Engines, state: c.State}
	lib.limits = tier.Limits{RAM: bytesOf(c.Limits.RAM), Swap: bytesOf(c.Limits.Swap), Reserved: bytesOf(c.Limits.Reserved)}
	for _, m := range c.Models {
		engine := c.Engines[m.Engine]
		lib.models = append(lib.models, tier.Model{
			Name: m.Name, Path: m.Path, Parts: m.Parts, Size: bytesOf(m.SizeGB), Runtime: bytesOf(m.RuntimeGB),
			Home: m.Tier, Capabilities: m.Capabilities, Quality: m.Quality, Pinned: m.Pinned,
			Mover: m.Engine, Labels: map[string]string{engines.Label: engine.ID()},
		})
	}
	return lib
}
