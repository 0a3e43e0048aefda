package engines

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/process"
)

// Mover moves the models of all engines of a configuration: it is the Mover of a Manager,
// and stands under the name of each engine that has one in its Movers. Its methods may be
// called from any number of goroutines.
type Mover struct {
	*process.Mover
	estimator hotload.Estimator

	mu     sync.Mutex // guards the rest
	byName map[string]config.Engine
	other  string // the engine of models that name none
	byID   map[string]config.Engine
}

// Options are the settings of a Mover.
type Options struct {
	// Engines are those that there are at first, by name; the name of the only one may be "".
	Engines map[string]config.Engine
	// Default is the name of the engine of models that name none; "": the only one.
	Default string
	// StateDir is a folder that keeps what is learned of engines, and their
	// conversations. "": nothing is kept.
	StateDir string
	// Timeouts has how long starts and stops may take.
	Timeouts config.Timeouts
	// Crashed is told of an engine that ended by itself; see process.Options.Crashed. Nil:
	// none is told.
	Crashed func(model string, cause error)
	// Logger gets the lines of engines, at debug level, and what an operator should know.
	// nil: silent.
	Logger *slog.Logger
}

// New returns a Mover. The Manager that is given it closes it.
func New(opts Options) (*Mover, error) {
	m := &Mover{}
	m.Add(opts.Engines)
	m.SetNames(opts.Engines, opts.Default)
	crashed := opts.Crashed
	if crashed != nil {
		crashed = func(model string, cause error) { opts.Crashed(model, config.NameKeys(cause)) }
	}
	var err error
	m.Mover, err = process.New(process.Options{
		EngineOf: m.EngineOf, StateDir: opts.StateDir, Logger: opts.Logger, Crashed: crashed,
		StartTimeout: time.Duration(opts.Timeouts.Start), StopTimeout: time.Duration(opts.Timeouts.Stop),
	})
	return m, err
}

// Move implements tier.Mover. Its errors name what is wrong as the configuration does.
func (m *Mover) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	return config.NameKeys(m.Mover.Move(ctx, mv, progress))
}

// CheckModel implements tier.ModelChecker: a model has an engine.
func (m *Mover) CheckModel(model *tier.Model) error {
	_, err := m.configOf(model)
	return err
}

// Add makes engines known to the models that are labelled with them
// (config.EngineLabel). Those that were known stay so: until its turn to be replaced has
// come, a model has the engine that it had.
func (m *Mover) Add(engines map[string]config.Engine) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byID == nil {
		m.byID = make(map[string]config.Engine)
	}
	for _, e := range engines {
		m.byID[e.ID()] = e
	}
}

// SetNames makes these the engines that there are by name, for models without a label, and
// other that of models that name none, if it is not "".
func (m *Mover) SetNames(engines map[string]config.Engine, other string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byName, m.other = maps.Clone(engines), other
}

// EngineOf is process.Options.EngineOf. What the engine takes beyond the weights is
// estimated by its flags and the headers of the model's files, if the one is llama.cpp's
// and the others tell enough.
func (m *Mover) EngineOf(model *tier.Model) (process.Engine, error) {
	e, err := m.configOf(model)
	if err != nil {
		return process.Engine{}, err
	}
	engine := e.Process()
	if o, ok := e.Estimate(); ok && model.Runtime == 0 {
		if estimated, err := m.estimator.Estimate(model.Path, o, model.Parts...); err == nil {
			engine.Runtime = estimated.Runtime()
		}
	}
	return engine, nil
}

// configOf returns the engine of a model: the one that its label says, else the one that
// it names, else the only one.
func (m *Mover) configOf(model *tier.Model) (config.Engine, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.byID[model.Labels[config.EngineLabel]]; ok {
		return e, nil
	}
	names := slices.Sorted(maps.Keys(m.byName))
	name := cmp.Or(model.Mover, m.other)
	if name == "" && len(names) == 1 {
		name = names[0]
	}
	if e, ok := m.byName[name]; ok {
		return e, nil
	}
	return config.Engine{}, &tier.InvalidError{Model: model.Name, Field: "engine", Value: strconv.Quote(name), Rule: "must be one of " + strings.Join(names, ", ")}
}
