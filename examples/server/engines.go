package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/process"
)

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
	// StartTimeout bounds a start until the engine is ready. 0: five minutes.
	StartTimeout seconds `json:"start_timeout_s,omitempty"`
	// When an engine that runs is renewed; see process.Engine.IdleCheck. 0: never.
	IdleCheck    *seconds `json:"idle_check_s,omitempty"` // nil: idleCheck
	SilenceLimit seconds  `json:"silence_limit_s,omitempty"`
	SlowFactor   float64  `json:"slow_factor,omitempty"`
	// Save and Restore preserve conversations, of which the engine holds that many slots.
	Save    *requestConfig `json:"save,omitempty"`
	Restore *requestConfig `json:"restore,omitempty"`
	Slots   int            `json:"slots,omitempty"`
	// For a command that is a client, such as "docker run": how the engine is frozen,
	// thawed and stopped, and where its processes are.
	Pause     []string        `json:"pause,omitempty"`
	Resume    []string        `json:"resume,omitempty"`
	Stop      []string        `json:"stop,omitempty"`
	Processes processesConfig `json:"processes,omitzero"`

	kind hotload.EngineKind // "": by the program; see estimate
}

// processesConfig is a process.Processes.
type processesConfig struct {
	Cgroup  string   `json:"cgroup,omitempty"`
	PidFile string   `json:"pid_file,omitempty"`
	Command []string `json:"command,omitempty"`
}

// requestConfig is a process.Request. A body that is a string is sent as it is, any other
// as JSON.
type requestConfig struct {
	Method string          `json:"method,omitempty"`
	Path   string          `json:"path"`
	Body   json.RawMessage `json:"body,omitempty"`
}

func (r *requestConfig) request() process.Request {
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

// engine returns what the configuration says.
func (e *engineConfig) engine() process.Engine {
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

// settle makes the paths that are relative those of a folder.
func (e *engineConfig) settle(dir string) {
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

func (e *engineConfig) commands() []*[]string {
	return []*[]string{&e.Command, &e.Pause, &e.Resume, &e.Stop, &e.Processes.Command}
}

// validate returns what is wrong with the engine, as far as that shows in what is
// written.
func (e *engineConfig) validate() error {
	engine := e.engine()
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

// find returns an error where there is no such program.
func (e *engineConfig) find() error {
	for _, c := range e.commands() {
		if argv := *c; len(argv) > 0 && !strings.ContainsRune(argv[0], '{') {
			if _, err := exec.LookPath(argv[0]); err != nil {
				return fmt.Errorf("%w: install it, or name it with its folder", err)
			}
		}
	}
	return nil
}

// estimate returns how to estimate what the engine takes; ok is false if it is none of
// llama.cpp's.
func (e *engineConfig) estimate() (o hotload.EstimateOptions, ok bool) {
	for i, word := range e.Command {
		program := strings.TrimSuffix(filepath.Base(word), ".exe")
		if i == 0 && e.kind != "" || program == string(hotload.LlamaServer) {
			args := slices.Clone(e.Command[i+1:])
			for j := range args {
				args[j] = strings.ReplaceAll(args[j], "{context}", strconv.Itoa(cmp.Or(e.Context, 4096)))
			}
			o.Engine = cmp.Or(e.kind, hotload.LlamaServer)
			o, err := o.LlamaFlags(args)
			return o, err == nil
		}
	}
	return o, false
}

// engineLabel is the label of a configured model that says what its engine is, so that
// the models of an engine whose configuration changed count as changed.
const engineLabel = "engine_config"

// id is what the label says.
func (e *engineConfig) id() string {
	b, _ := json.Marshal(e) // plain strings and numbers
	return fmt.Sprintf("%.8x", sha256.Sum256(b))
}

// engineMover moves the models of all engines: it is Config.Mover, and stands under the
// name of each engine that has one in Config.Movers. Engines that a reload has replaced stay known: until its turn has come, a
// model has the one that it had.
type engineMover struct {
	*process.Mover
	estimator hotload.Estimator

	mu     sync.Mutex // guards the rest
	byName map[string]engineConfig
	byID   map[string]engineConfig
}

// Move implements tier.Mover.
func (r *engineMover) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	if err := r.Mover.Move(ctx, mv, progress); err != nil {
		return byKeys{err}
	}
	return nil
}

// CheckModel implements tier.ModelChecker: a model has an engine.
func (r *engineMover) CheckModel(m *tier.Model) error {
	_, err := r.configOf(m)
	return err
}

// admit makes engines known to the models that are labelled with them.
func (r *engineMover) admit(engines map[string]engineConfig) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byID == nil {
		r.byID = make(map[string]engineConfig)
	}
	for _, e := range engines {
		r.byID[e.id()] = e
	}
}

// name makes these the engines that there are by name.
func (r *engineMover) name(engines map[string]engineConfig) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byName = maps.Clone(engines)
}

// engineOf is process.Options.EngineOf. What the engine takes beyond the weights is
// estimated by its flags and the headers of the model's files, if the one is llama.cpp's
// and the others tell enough.
func (r *engineMover) engineOf(m *tier.Model) (process.Engine, error) {
	e, err := r.configOf(m)
	if err != nil {
		return process.Engine{}, err
	}
	engine := e.engine()
	if o, ok := e.estimate(); ok && m.Runtime == 0 {
		if estimated, err := r.estimator.Estimate(m.Path, o, m.Parts...); err == nil {
			engine.Runtime = estimated.Runtime()
		}
	}
	return engine, nil
}

// configOf returns the engine of a model: the one that its label says, else the one that
// it names, else the only one.
func (r *engineMover) configOf(m *tier.Model) (engineConfig, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.byID[m.Labels[engineLabel]]; ok {
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
	return engineConfig{}, &tier.InvalidError{Model: m.Name, Field: "engine", Value: strconv.Quote(name), Rule: "must be one of " + strings.Join(names, ", ")}
}

// stuckAfter is longer than an engine may take to save its conversations (30 s), stop
// (5 s) and, if it does not, be killed (10 s): the Manager's Close waits for no more.
const stuckAfter = 50 * time.Second

// newEngines returns a Manager over the engines of a library. It closes them.
func newEngines(lib *library, log *slog.Logger) (*modeltier.Manager, *engineMover, error) {
	var manager atomic.Pointer[modeltier.Manager]
	engines := &engineMover{}
	engines.admit(lib.engines)
	engines.name(lib.engines)
	opts := process.Options{
		EngineOf: engines.engineOf,
		Logger:   log,
		Crashed: func(model string, err error) {
			if m := manager.Load(); m != nil {
				if err := m.ReportCrash(model, byKeys{err}); err != nil && !errors.Is(err, modeltier.ErrClosed) {
					log.Warn("a crash was not taken note of", "model", model, "err", err)
				}
			}
		},
	}
	if lib.state != "" {
		opts.StateDir = filepath.Join(lib.state, "engines")
	}
	var err error
	if engines.Mover, err = process.New(opts); err != nil {
		return nil, nil, err
	}
	movers := make(map[string]tier.Mover)
	for name := range lib.engines {
		movers[name] = engines
	}
	delete(movers, "") // that of -engine
	m, err := modeltier.New(modeltier.Config{
		Models: lib.models, Limits: lib.limits, Mover: engines, Movers: movers, Probe: lib.probe,
		StateDir: lib.state, ModelDir: lib.dir, Follow: lib.follow, WatchModelDir: lib.watch, Verify: lib.verify, Logger: log, StuckAfter: stuckAfter,
	})
	if err != nil {
		return nil, nil, errors.Join(err, engines.Close())
	}
	manager.Store(m)
	return m, engines, nil
}

// commanded is an engine of a template's words. Those of the form NAME=value before
// the program go to its environment.
func commanded(words []string) engineConfig {
	var e engineConfig
	for len(words) > 1 && assignment.MatchString(words[0]) {
		e.Env, words = append(e.Env, words[0]), words[1:]
	}
	e.Command = words
	return e
}

var assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)

// withEngine returns the library, served by one engine that needs that much beyond the
// weights of a model; 0: as process.Mover.Forecast says.
func (lib *library) withEngine(e engineConfig, runtime tier.Bytes) {
	lib.engines = map[string]engineConfig{"": e}
	for i := range lib.models {
		m := &lib.models[i]
		m.Runtime = cmp.Or(m.Runtime, runtime)
	}
}

// llamacpp is the -engine that is made here: a small one over llama.cpp, from the
// module integrations/llama of a checkout.
const llamacpp = "llamacpp"

// makeLlamacpp builds the engine, has it fetch llama.cpp, and returns it. saves: it saves
// its conversations.
func makeLlamacpp(ctx context.Context, saves bool, stderr io.Writer) (engineConfig, error) {
	const other = "name a command instead, such as -engine 'llama-server -m {path} --port {port}'"
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return engineConfig{}, fmt.Errorf("it runs on linux/amd64 and linux/arm64 only: %s", other)
	}
	for program, why := range map[string]string{"go": "the engine is built with it", "npm": "llama.cpp is fetched with it"} {
		if _, err := exec.LookPath(program); err != nil {
			return engineConfig{}, fmt.Errorf("%w (%s): install it, or %s", err, why, other)
		}
	}
	here, err := os.Getwd()
	if err != nil {
		return engineConfig{}, err
	}
	source, ok := checkout(here)
	if !ok {
		return engineConfig{}, fmt.Errorf("it is built from integrations/llama of a checkout of modeltier, and there is none at or above %s: start the server in one, or %s", here, other)
	}
	cache, err := cacheFolder("llama")
	if err != nil {
		return engineConfig{}, err
	}
	program, err := buildEngine(ctx, source, cache, stderr)
	if err != nil {
		return engineConfig{}, err
	}
	libs, err := output(ctx, stderr, cache, program, "-fetch")
	if err != nil {
		return engineConfig{}, fmt.Errorf("llama.cpp cannot be fetched: %w", err)
	}
	e := engineConfig{
		// Copies of weights, which llama.cpp makes on some processors, cannot be paged out.
		Command: []string{program, "-m", "{path}", "--port", "{port}", "-libs", libs, "-c", "{context}", "-t", "{threads}", "--no-repack"},
		Context: 512,
		kind:    hotload.LlamaLibrary,
		// With more than one thread llama.cpp waits in a spin for each to have done its
		// share, which takes long where others want the processors too.
		Threads: 1,
	}
	if saves {
		e.Command = append(e.Command, "--slot-save-path", "{state}")
		act := func(action string) *requestConfig {
			return &requestConfig{Path: "/slots/{slot}?action=" + action, Body: json.RawMessage(`{"filename":"{file}"}`)}
		}
		e.Save, e.Restore = act("save"), act("restore")
	}
	return e, nil
}

// checkout returns the folder of the engine's module in the checkout that a folder
// lies in.
func checkout(dir string) (source string, ok bool) {
	for {
		source = filepath.Join(dir, "integrations", "llama")
		if b, err := os.ReadFile(filepath.Join(source, "go.mod")); err == nil && bytes.HasPrefix(b, []byte("module github.com/modeltier/modeltier/integrations/llama\n")) {
			return source, true
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", false
		}
		dir = up
	}
}

// buildEngine builds the engine into a folder. Go's own cache makes that short
// from the second time on.
func buildEngine(ctx context.Context, source, to string, stderr io.Writer) (program string, err error) {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return "", err
	}
	// Under a name of its own first: another server may run the one that is there.
	temp, err := os.MkdirTemp(to, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	fmt.Fprintf(stderr, "building the engine of %s\n", source)
	built := filepath.Join(temp, "engine")
	if _, err := output(ctx, stderr, source, "go", "build", "-o", built, "./engine"); err != nil {
		return "", fmt.Errorf("the engine cannot be built: %w", err)
	}
	program = filepath.Join(to, "engine")
	// The same program with a new time would be another engine, of which nothing is known
	// and which is given no conversation.
	if sameFile(built, program) {
		return program, nil
	}
	return program, os.Rename(built, program)
}

// sameFile reports whether two files are there with the same content.
func sameFile(a, b string) bool {
	x, errX := os.ReadFile(a)
	y, errY := os.ReadFile(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// output runs a program in a folder and returns what it printed. What it says of
// its progress, or of its failure, goes to stderr.
func output(ctx context.Context, stderr io.Writer, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stderr = dir, stderr
	cmd.Env = append(os.Environ(), "GOWORK=off") // the engine builds by its own go.mod, in any workspace
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s %s: %v; see its output above", filepath.Base(program), strings.Join(args, " "), exit)
	}
	return strings.TrimSpace(string(out)), err
}
