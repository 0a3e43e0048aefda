package engines

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/process"
)

// Config is a process.Engine; see there.
type Config struct {
	Command  []string `json:"command"`
	Env      []string `json:"env"`
	Dir      string   `json:"dir"`
	Health   string   `json:"health"`
	Shutdown string   `json:"shutdown"` // the path of a POST
	Threads  int      `json:"threads"`
	Context  int      `json:"context"`
	Standby  string   `json:"standby"` // "auto", "freeze" or "stop"
	// StartTimeout bounds a start until the engine is ready. 0: five minutes.
	StartTimeout seconds `json:"start_timeout_s,omitempty"`
	// When an engine that runs is renewed; see process.Engine.IdleCheck. 0: never.
	IdleCheck    *seconds `json:"idle_check_s,omitempty"` // nil: idleCheck
	SilenceLimit seconds  `json:"silence_limit_s,omitempty"`
	SlowFactor   float64  `json:"slow_factor,omitempty"`
	// Save and Restore preserve conversations, of which the engine holds that many slots.
	Save    *Request `json:"save,omitempty"`
	Restore *Request `json:"restore,omitempty"`
	Slots   int      `json:"slots,omitempty"`
	// For a command that is a client, such as "docker run": how the engine is frozen,
	// thawed and stopped, and where its processes are.
	Pause     []string  `json:"pause,omitempty"`
	Resume    []string  `json:"resume,omitempty"`
	Stop      []string  `json:"stop,omitempty"`
	Processes Processes `json:"processes,omitzero"`

	// Kind is what is estimated of it; "": by the program.
	Kind hotload.EngineKind `json:"-"`
}

// Processes is a process.Processes.
type Processes struct {
	Cgroup  string   `json:"cgroup,omitempty"`
	PidFile string   `json:"pid_file,omitempty"`
	Command []string `json:"command,omitempty"`
}

// Request is a process.Request. A body that is a string is sent as it is, any other
// as JSON.
type Request struct {
	Method string          `json:"method,omitempty"`
	Path   string          `json:"path"`
	Body   json.RawMessage `json:"body,omitempty"`
}

func (r *Request) request() process.Request {
	if r == nil {
		return process.Request{}
	}
	body := string(r.Body)
	if len(r.Body) > 0 && r.Body[0] == '"' {
		json.Unmarshal(r.Body, &body) // the decoder has found it to be JSON
	}
	return process.Request{Method: r.Method, Path: r.Path, Body: body}
}

// idleCheck is how long an engine that no request uses may not answer its health page.
const idleCheck seconds = 60

// seconds is a time in the configuration, in seconds.
type seconds float64

// isTime reports whether it is one, of up to thirty years.
func (s seconds) isTime() bool { return s >= 0 && s <= 1e9 }

func (s seconds) duration() time.Duration {
	if !s.isTime() {
		return 0
	}
	return time.Duration(float64(s) * float64(time.Second))
}

// Engine returns what the configuration says.
func (e *Config) Engine() process.Engine {
	standby := map[string]process.Standby{
		process.StandbyFreeze.String(): process.StandbyFreeze,
		process.StandbyStop.String():   process.StandbyStop,
	}
	return process.Engine{
		Command: e.Command, Env: e.Env, Dir: e.Dir, Health: e.Health,
		Shutdown: process.Request{Path: e.Shutdown}, Threads: e.Threads, Context: e.Context,
		Standby: standby[e.Standby], StartTimeout: e.StartTimeout.duration(),
		Save: e.Save.request(), Restore: e.Restore.request(), Slots: e.Slots,
		IdleCheck: cmp.Or(e.IdleCheck, new(idleCheck)).duration(), SilenceLimit: e.SilenceLimit.duration(), SlowFactor: e.SlowFactor,
		Pause: e.Pause, Resume: e.Resume, StopCommand: e.Stop,
		Processes: process.Processes{Cgroup: e.Processes.Cgroup, PidFile: e.Processes.PidFile, Command: e.Processes.Command},
	}
}

// Settle makes the paths that are relative those of a folder.
func (e *Config) Settle(dir string) {
	for _, c := range e.commands() {
		if argv := *c; len(argv) > 0 && strings.ContainsRune(argv[0], filepath.Separator) && !filepath.IsAbs(argv[0]) {
			*c = append([]string{filepath.Join(dir, argv[0])}, argv[1:]...)
		}
	}
	for _, path := range []*string{&e.Dir, &e.Processes.PidFile} {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(dir, *path)
		}
	}
}

func (e *Config) commands() []*[]string {
	return []*[]string{&e.Command, &e.Pause, &e.Resume, &e.Stop, &e.Processes.Command}
}

// Validate returns what is wrong with the engine, as far as that shows in what is
// written.
func (e *Config) Validate() error {
	engine := e.Engine()
	var errs []error
	if err := engine.Validate(); err != nil {
		errs = append(errs, errors.New(engineKeys.Replace(err.Error())))
	}
	check := func(field string, s seconds, zero string) {
		if !s.isTime() {
			errs = append(errs, fmt.Errorf("%s %v must be seconds, or 0 for %s", field, float64(s), zero))
		}
	}
	check("start_timeout_s", e.StartTimeout, "five minutes")
	check("idle_check_s", *cmp.Or(e.IdleCheck, new(idleCheck)), "off")
	check("silence_limit_s", e.SilenceLimit, "off")
	switch e.Standby {
	case "", process.StandbyAuto.String(), process.StandbyFreeze.String(), process.StandbyStop.String():
	default:
		errs = append(errs, fmt.Errorf("standby %q must be auto, freeze or stop", e.Standby))
	}
	return errors.Join(errs...)
}

// engineKeys names the fields of a process.Engine as the configuration does.
var engineKeys = strings.NewReplacer(
	"Engine.Processes.Cgroup", "processes.cgroup", "Engine.Processes.PidFile", "processes.pid_file",
	"Engine.Processes.Command", "processes.command", "Engine.Processes", "processes",
	"Engine.Pause", "pause", "Engine.Resume", "resume", "Engine.StopCommand", "stop",
	"Engine.IdleCheck", "idle_check_s", "Engine.SilenceLimit", "silence_limit_s", "Engine.SlowFactor", "slow_factor",
	"Engine.Save", "save", "Engine.Restore", "restore", "Engine.Slots", "slots",
	"Engine.Command", "command", "Engine.Env", "env", "Engine.Health", "health", "Engine.Shutdown", "shutdown",
	"Engine.Threads", "threads", "Engine.Context", "context", "Engine.StartTimeout", "start_timeout_s", "Engine.Standby", "standby",
	"Options.StartTimeout", "five minutes", " Options.Excess bounds what is tolerated.", "",
	"SilenceLimit", "silence_limit_s", "SlowFactor", "slow_factor", "StandbyStop", `"stop"`, "StateDir", "state",
	"Cgroup, PidFile and Command", "cgroup, pid_file and command",
)

// byKeys is an error of an engine that names what is wrong as the configuration does.
type byKeys struct{ error }

func (e byKeys) Error() string { return engineKeys.Replace(e.error.Error()) }
func (e byKeys) Unwrap() error { return e.error }

// Suggestions implements tier.Suggester.
func (e byKeys) Suggestions() (all []string) {
	for _, s := range tier.Suggestions(e.error) {
		all = append(all, engineKeys.Replace(s))
	}
	return all
}

// Find returns an error where there is no such program.
func (e *Config) Find() error {
	for _, c := range e.commands() {
		if argv := *c; len(argv) > 0 && !strings.ContainsRune(argv[0], '{') {
			if _, err := exec.LookPath(argv[0]); err != nil {
				return fmt.Errorf("%w: install it, or name it with its folder", err)
			}
		}
	}
	return nil
}

// Estimate returns how to estimate what the engine takes; ok is false if it is none of
// llama.cpp's.
func (e *Config) Estimate() (o hotload.EstimateOptions, ok bool) {
	for i, word := range e.Command {
		program := strings.TrimSuffix(filepath.Base(word), ".exe")
		if i == 0 && e.Kind != "" || program == string(hotload.LlamaServer) {
			args := slices.Clone(e.Command[i+1:])
			for j := range args {
				args[j] = strings.ReplaceAll(args[j], "{context}", strconv.Itoa(cmp.Or(e.Context, 4096)))
			}
			o.Engine = cmp.Or(e.Kind, hotload.LlamaServer)
			o, err := o.LlamaFlags(args)
			return o, err == nil
		}
	}
	return o, false
}

// Label is the label of a configured model that says what its engine is, so that
// the models of an engine whose configuration changed count as changed.
const Label = "engine_config"

// ID is what the label says.
func (e *Config) ID() string {
	b, _ := json.Marshal(e) // plain strings and numbers
	return fmt.Sprintf("%.8x", sha256.Sum256(b))
}

// Mover moves the models of all engines: it is Config.Mover, and stands under the
// name of each engine that has one in Config.Movers. Engines that a reload has replaced stay known: until its turn has come, a
// model has the one that it had.
type Mover struct {
	*process.Mover
	estimator hotload.Estimator

	mu     sync.Mutex // guards the rest
	byName map[string]Config
	byID   map[string]Config
}

// Move implements tier.Mover.
func (r *Mover) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	if err := r.Mover.Move(ctx, mv, progress); err != nil {
		return byKeys{err}
	}
	return nil
}

// CheckModel implements tier.ModelChecker: a model has an engine.
func (r *Mover) CheckModel(m *tier.Model) error {
	_, err := r.configOf(m)
	return err
}

// Admit makes engines known to the models that are labelled with them.
func (r *Mover) Admit(engines map[string]Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byID == nil {
		r.byID = make(map[string]Config)
	}
	for _, e := range engines {
		r.byID[e.ID()] = e
	}
}

// Name makes these the engines that there are by name.
func (r *Mover) Name(engines map[string]Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byName = maps.Clone(engines)
}

// EngineOf is process.Options.EngineOf. What the engine takes beyond the weights is
// estimated by its flags and the headers of the model's files, if the one is llama.cpp's
// and the others tell enough.
func (r *Mover) EngineOf(m *tier.Model) (process.Engine, error) {
	e, err := r.configOf(m)
	if err != nil {
		return process.Engine{}, err
	}
	engine := e.Engine()
	if o, ok := e.Estimate(); ok && m.Runtime == 0 {
		if estimated, err := r.estimator.Estimate(m.Path, o, m.Parts...); err == nil {
			engine.Runtime = estimated.Runtime()
		}
	}
	return engine, nil
}

// configOf returns the engine of a model: the one that its label says, else the one that
// it names, else the only one.
func (r *Mover) configOf(m *tier.Model) (Config, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.byID[m.Labels[Label]]; ok {
		return e, nil
	}
	names := slices.Sorted(maps.Keys(r.byName))
	name := m.Mover
	if name == "" && len(names) == 1 {
		name = names[0]
	}
	if e, ok := r.byName[name]; ok {
		return e, nil
	}
	return Config{}, &tier.InvalidError{Model: m.Name, Field: "engine", Value: strconv.Quote(name), Rule: "must be one of " + strings.Join(names, ", ")}
}

// New returns a Mover over the engines of that name. If dir is not empty, what is learned
// of them is kept there. crashed is told of an engine that ended by itself; it must not
// block for long.
func New(byName map[string]Config, dir string, crashed func(model string, cause error), log *slog.Logger) (*Mover, error) {
	m := &Mover{}
	m.Admit(byName)
	m.Name(byName)
	var err error
	m.Mover, err = process.New(process.Options{
		EngineOf: m.EngineOf, StateDir: dir, Logger: log,
		Crashed: func(model string, err error) { crashed(model, byKeys{err}) },
	})
	return m, err
}

// Commanded is an engine of a template's words. Those of the form NAME=value before
// the program go to its environment.
func Commanded(words []string) Config {
	var e Config
	for len(words) > 1 && assignment.MatchString(words[0]) {
		e.Env, words = append(e.Env, words[0]), words[1:]
	}
	e.Command = words
	return e
}

var assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
