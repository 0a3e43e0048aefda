package process

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// Engine says how a model is served.
type Engine struct {
	// Command is the program and its arguments. No shell sees them. The program has
	// to stay in the foreground: when it ends, all that it started is killed. Logs
	// and Status show it, so secrets belong in Env. In each argument these words are
	// replaced:
	//
	//	{path}    Model.Path, made absolute where it is a file or folder here
	//	{port}    a free port of the loopback address, on which the engine has to listen
	//	{name}    Model.Name
	//	{threads} Threads
	//	{context} Context
	//
	// Any other word of small letters in braces is an error. {port} must occur, here
	// or in Env. An argument that begins with a dash only once its words are replaced
	// is refused, so that no model's name is taken for an option.
	Command []string
	// Env is "NAME=value" entries, with the same words, added to our environment.
	// MODELTIER_ENGINE is added too, as a mark of the engine.
	Env []string
	// Dir is the working folder. "": ours.
	Dir string

	// Health is the path of the page that answers a GET with 2xx when the engine is
	// ready; until then it may answer anything, or not at all. "": "/health".
	Health string
	// Shutdown, where its Path is set, is sent before the engine is terminated,
	// which it is once that was answered, or not in time: see Options.StopTimeout.
	Shutdown Request

	// Threads and Context are for the command. 0: one for each CPU; 4096.
	Threads, Context int

	// Standby is what swap means for this engine.
	Standby Standby
	// Sleeper is the engine's own sleep, if it has one.
	Sleeper Sleeper
}

// Standby is what becomes of an engine whose model moves from ram to swap.
type Standby uint8

const (
	// StandbyAuto freezes an engine if that frees its weights: they are seen to be
	// mapped, and can be paged out (or are left cached, see Options.LeaveCached).
	// Else it uses the Sleeper, and where there is none, or it fails, it stops the
	// engine.
	StandbyAuto Standby = iota
	// StandbyFreeze freezes an engine wherever that is possible, also where it
	// frees little; else it does as StandbyAuto.
	StandbyFreeze
	// StandbySleep uses the Sleeper, and stops the engine if that fails.
	StandbySleep
	// StandbyStop stops the engine.
	StandbyStop
)

var standbys = [...]string{"auto", "freeze", "sleep", "stop"}

// String returns "auto", "freeze", "sleep" or "stop".
func (s Standby) String() string {
	if int(s) >= len(standbys) {
		return fmt.Sprintf("standby(%d)", uint8(s))
	}
	return standbys[s]
}

// words are what a template may name.
var words = []string{"{path}", "{port}", "{name}", "{threads}", "{context}"}

var word = regexp.MustCompile(`\{[a-z]+\}`)

// Validate returns every fault of the engine at once, or nil. It does not look
// whether the program is there.
func (e *Engine) Validate() error { return e.validate("") }

func (e *Engine) validate(model string) error {
	var errs []error
	fault := func(field, value, rule string) {
		errs = append(errs, &tier.InvalidError{Model: model, Field: field, Value: quote(value), Rule: rule})
	}
	if len(e.Command) == 0 || e.Command[0] == "" {
		fault("Engine.Command", strings.Join(e.Command, " "), "must name a program")
	}
	port := false
	check := func(field, text string) {
		for _, w := range word.FindAllString(text, -1) {
			if !slices.Contains(words, w) {
				fault(field, w, "must be one of "+strings.Join(words, ", "))
			}
		}
		if strings.ContainsRune(text, 0) {
			fault(field, text, "must not hold a zero byte")
		}
		port = port || strings.Contains(text, "{port}")
	}
	for _, arg := range e.Command {
		check("Engine.Command", arg)
	}
	for _, v := range e.Env {
		check("Engine.Env", v)
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			fault("Engine.Env", v, "must be NAME=value")
		}
	}
	if !port {
		fault("Engine.Command", strings.Join(e.Command, " "), "must hold {port}, the port to listen on")
	}
	for _, p := range []struct{ field, path string }{{"Engine.Health", e.Health}, {"Engine.Shutdown", e.Shutdown.Path}} {
		if p.path != "" && !strings.HasPrefix(p.path, "/") {
			fault(p.field, p.path, "must begin with a slash")
		}
	}
	for _, n := range []struct {
		field string
		value int
	}{{"Engine.Threads", e.Threads}, {"Engine.Context", e.Context}} {
		if n.value < 0 {
			fault(n.field, strconv.Itoa(n.value), "must not be negative")
		}
	}
	switch {
	case int(e.Standby) >= len(standbys):
		fault("Engine.Standby", e.Standby.String(), "must be one of the Standby constants")
	case e.Standby == StandbySleep && e.Sleeper == nil:
		fault("Engine.Standby", "sleep", "needs a Sleeper")
	}
	return errors.Join(errs...)
}

// expand returns the command and the additions to the environment for a model.
func (e *Engine) expand(model *tier.Model, port int) (argv, env []string, err error) {
	path := model.Path
	if exists(path) {
		if path, err = filepath.Abs(path); err != nil {
			return nil, nil, err
		}
	}
	replace := strings.NewReplacer(
		"{path}", path, "{port}", strconv.Itoa(port), "{name}", model.Name,
		"{threads}", strconv.Itoa(cmp.Or(e.Threads, runtime.NumCPU())),
		"{context}", strconv.Itoa(cmp.Or(e.Context, 4096)),
	)
	for _, arg := range e.Command {
		full := replace.Replace(arg)
		if strings.HasPrefix(full, "-") && !strings.HasPrefix(arg, "-") {
			return nil, nil, &tier.InvalidError{
				Model: model.Name, Field: "argument " + quote(arg), Value: quote(full),
				Rule: "must not begin with a dash, which the engine would take for an option",
			}
		}
		argv = append(argv, full)
	}
	for _, v := range e.Env {
		env = append(env, replace.Replace(v))
	}
	return argv, env, nil
}

// quote bounds what goes into a message.
func quote(s string) string {
	const most = 200
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}
