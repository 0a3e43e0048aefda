package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/process"
)

// config is the file of -config: what is served, and by which engines. Paths in
// it are relative to its folder.
type config struct {
	Engines map[string]engineConfig `json:"engines"`
	Models  []modelConfig           `json:"models"`
	Limits  limitsConfig            `json:"limits"`
	State   string                  `json:"state"` // a folder; "": nothing is remembered
}

// engineConfig is a process.Engine; see there.
type engineConfig struct {
	Command  []string `json:"command"`
	Env      []string `json:"env"`
	Dir      string   `json:"dir"`
	Health   string   `json:"health"`
	Shutdown string   `json:"shutdown"` // the path of a POST
	Threads  int      `json:"threads"`
	Context  int      `json:"context"`
	Standby  string   `json:"standby"` // "auto", "freeze" or "stop"
}

type modelConfig struct {
	Name         string    `json:"name"`
	Path         string    `json:"path"`
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

// engineLabel is the label of a model that names its engine.
const engineLabel = "engine"

// maxConfig bounds the file.
const maxConfig = 1 << 20

func readConfig(path string) (*config, error) {
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
	return c, nil
}

// parseConfig reads a configuration that lies in dir. Its error names all that is
// wrong. What Manager and Mover check themselves is left to them.
func parseConfig(b []byte, dir string) (*config, error) {
	in := json.NewDecoder(bytes.NewReader(b))
	in.DisallowUnknownFields()
	c := &config{}
	if err := in.Decode(c); err != nil {
		return nil, err
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the configuration")
	}
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	only := ""
	for name, e := range c.Engines {
		only = name
		switch e.Standby {
		case "", process.StandbyAuto.String(), process.StandbyFreeze.String(), process.StandbyStop.String():
		default:
			fault("engine %q: standby %q must be auto, freeze or stop", name, e.Standby)
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
		if m.Name == autoModel {
			fault("no model can be called %q, which has one selected", autoModel)
		}
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
	}
	if c.State != "" && !filepath.IsAbs(c.State) {
		c.State = filepath.Join(dir, c.State)
	}
	return c, errors.Join(errs...)
}

func isSize(gb float64) bool { return gb >= 0 && gb < 1e6 }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func bytesOf(gb float64) tier.Bytes { return tier.Bytes(math.Round(gb * float64(tier.GiB))) }

func (c *config) models() []tier.Model {
	models := make([]tier.Model, 0, len(c.Models))
	for _, m := range c.Models {
		models = append(models, tier.Model{
			Name: m.Name, Path: m.Path, Size: bytesOf(m.SizeGB), Runtime: bytesOf(m.RuntimeGB),
			Home: m.Tier, Capabilities: m.Capabilities, Quality: m.Quality, Pinned: m.Pinned,
			Labels: map[string]string{engineLabel: m.Engine},
		})
	}
	return models
}

func (c *config) limits() tier.Limits {
	return tier.Limits{RAM: bytesOf(c.Limits.RAM), Swap: bytesOf(c.Limits.Swap), Reserved: bytesOf(c.Limits.Reserved)}
}

// engineOf is process.Options.EngineOf. A model that was hot loaded names no
// engine, and has the only one.
func (c *config) engineOf(m *tier.Model) (process.Engine, error) {
	e, ok := c.Engines[m.Labels[engineLabel]]
	if _, labelled := m.Labels[engineLabel]; !labelled && len(c.Engines) == 1 {
		for _, e = range c.Engines {
			ok = true
		}
	}
	if !ok {
		return process.Engine{}, fmt.Errorf("there is no engine %q", m.Labels[engineLabel])
	}
	engine := process.Engine{
		Command: e.Command, Env: e.Env, Dir: e.Dir, Health: e.Health,
		Shutdown: process.Request{Path: e.Shutdown}, Threads: e.Threads, Context: e.Context,
	}
	switch e.Standby {
	case process.StandbyFreeze.String():
		engine.Standby = process.StandbyFreeze
	case process.StandbyStop.String():
		engine.Standby = process.StandbyStop
	}
	return engine, nil
}
