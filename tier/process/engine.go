package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Engine says how a model is served.
type Engine struct {
	// Command is the program and its arguments; no shell is involved. The program has
	// to stay in the foreground, unless Processes is set: when it exits, all that it
	// started is killed. Logs and Status show the command, so secrets belong in Env.
	// These words are replaced in each argument:
	//
	//	{path}    Model.Path, made absolute if such a file or folder exists
	//	{mmproj}  the part of the model that is its projector, see tier.ProjectorLabel,
	//	          made absolute as well
	//	{dir}     the folder of {path}: itself, if it is a folder
	//	{port}    a free port of the loopback address, on which the engine has to listen
	//	{name}    Model.Name
	//	{threads} Threads
	//	{context} Context
	//	{state}   the folder that Save saves in
	//	{mark}    26 lower-case letters and digits, unlike those of any other start
	//
	// Any other word of lower-case letters in braces is an error. {port} must occur,
	// here or in Env.
	//
	// An argument with a word that the model lacks is left out: {path} if it has none,
	// {mmproj} if it has no projector, {dir} if nothing is at its path. If it does not
	// begin with a dash itself and the argument before it does, and has no "=" and no
	// word, that flag is left out as well: of "--mmproj {mmproj}" both, of "-v
	// --mmproj={mmproj}" the second. The program is never left out.
	//
	// An argument that begins with a dash only after the replacement is refused, so that
	// the engine cannot take a model's name for an option.
	Command []string
	// Env is "NAME=value" entries, with the same words, added to our environment. One with
	// a word that the model lacks is left out. MODELTIER_ENGINE is added as well, as a
	// mark of the engine.
	Env []string
	// Dir is the working folder. "": ours.
	Dir string

	// Health is the path of the page that answers a GET with 2xx once the engine is
	// ready. Any other answer, a redirect included, and no answer mean "not yet";
	// interim responses (1xx) are skipped. "": "/health".
	Health string
	// Shutdown, if its Path is set, is sent before the engine is terminated; see
	// Options.StopTimeout.
	Shutdown Request

	// Save and Restore, if their Paths are set, preserve the conversations of an engine
	// that has to stop, be it for the swap tier, for storage or by Close: Save is sent
	// before, if URL or Use was called since the engine started, and Restore after the next
	// start, before the model counts as ready. Each has to be answered with 2xx, within
	// Options.Conversations.Timeout. A failure is logged and shows in Status; without its
	// conversation the engine stops and starts as any other. One that sleeps by its Sleeper
	// is not asked to save. These words are replaced in Path and Body:
	//
	//	{slot}  0 to Slots - 1: a request for each
	//	{file}  the name of the file, which is another one each time
	//	{state} the folder that it is in
	//	{name}  Model.Name
	//
	// What is saved is kept in Options.StateDir, which is required, by what it depends
	// on: the command and environment, the program's file, the weights, and every other
	// file that the command names. So an engine is never given what another one, or one
	// with another model, has saved; nor what is damaged, which is removed. Libraries that
	// the program loads are not known. For llama-server, with "--slot-save-path", "{state}"
	// in its Command:
	//
	//	Save:    Request{Path: "/slots/{slot}?action=save", Body: `{"filename":"{file}"}`},
	//	Restore: Request{Path: "/slots/{slot}?action=restore", Body: `{"filename":"{file}"}`},
	Save, Restore Request
	// Slots is how many conversations the engine holds, if Save has {slot}. 0: 1.
	Slots int

	// Threads and Context are for the command. 0: one for each CPU; 4096.
	Threads, Context int

	// Runtime is the bytes that it is estimated to need beyond the weights of its model,
	// for which hotload.Estimate can be asked. It counts until the model was measured,
	// unless Model.Runtime declares them. 0: 256 MiB and an eighth of the weights, or what
	// other models of the engine took for a byte.
	Runtime tier.Bytes

	// StartTimeout is Options.StartTimeout for this engine. 0: that one.
	StartTimeout time.Duration

	// IdleCheck, SilenceLimit and SlowFactor notice engines that run and are of no use.
	// Such an engine is renewed: it is ended as if it had crashed, with the fault Silent or
	// Slow, and starts with the next request for its model. Each is off if it is 0. A time is
	// noticed to be over within as much again.
	//
	// IdleCheck is how long an engine that no Use uses may not answer its health page
	// with 2xx. Only for those who tell their requests by Mover.Use: an engine that is busy
	// with others may be unable to answer.
	IdleCheck time.Duration
	// SilenceLimit is how long an engine may send nothing to any Use that waits for it,
	// if all that time its health page does not answer at all either, or its processes do
	// nothing (they use less than a hundredth of a processor and read nothing from a disk;
	// Linux only). So an engine that works on a long answer is not silent, unless it answers
	// no health page while it works: then this has to be longer than the longest answer that
	// is not streamed. One that spins, and answers its page, is not told from a busy one.
	SilenceLimit time.Duration
	// SlowFactor is by how much an engine may become slower than it was at first: in the
	// time that its health page takes while no Use uses it (at least 10 ms count), or in
	// how often it waits for a disk in a second of work (at least 100 times; Linux only), each
	// as the median of eight looks at intervals of 15 s or a quarter of the limits above.
	// It is renewed while no Use uses it, and then not for an hour. At least 1.
	SlowFactor float64

	// Standby is what the swap tier means for this engine.
	Standby Standby
	// Sleeper is the engine's own sleep mode, if it has one.
	Sleeper Sleeper

	// If Command is a client, such as "docker run" or a script that starts a daemon, the
	// engine is not what we started. Processes says where its processes are. They are then
	// what is watched, measured, frozen and killed, and Command may exit as soon as they
	// run. Without it, if one of the commands below is set, nothing is measured of the engine
	// nor seen of its mapped weights (declare Runtime), and StandbyAuto does not freeze it.
	// Linux only.
	Processes Processes
	// Pause and Resume are commands that freeze the engine and thaw it, both or none, with
	// the words of Command. Each may take 5 seconds. What they did is checked where it can
	// be seen; an engine that Pause does not freeze gets the next standby that works. Without
	// Processes only StandbyFreeze uses them. None: SIGSTOP and SIGCONT.
	Pause, Resume []string
	// StopCommand is a command that stops the engine and removes what is left of it, with
	// the words of Command: at every end of the engine, and more than once where an earlier
	// try has failed or this process was killed, so it must be safe to repeat. It may take
	// Options.StopTimeout each time; afterwards what is left of Processes is killed. Without
	// Processes, an engine whose StopCommand fails counts as running for as long as
	// its port is taken. If this process is killed, the reaper or the next New runs it, the
	// latter without Env. None: SIGTERM.
	StopCommand []string
}

// Standby is what happens to an engine when its model moves from ram to swap.
type Standby uint8

const (
	// StandbyAuto freezes an engine if that frees at least half of what it takes: its
	// weights are seen to be mapped files. Otherwise it uses the Sleeper, and stops the
	// engine if there is none or it fails. In each case the weights stay in the page
	// cache until the room is needed; a frozen engine whose weights cannot be dropped
	// then is stopped.
	StandbyAuto Standby = iota
	// StandbyFreeze freezes an engine if that is possible, even if it frees little, and
	// otherwise acts as StandbyAuto. It is not stopped if its weights cannot be dropped.
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

// words are what a command may contain.
var words = []string{"{path}", "{mmproj}", "{dir}", "{port}", "{name}", "{threads}", "{context}", "{state}", "{mark}"}

var word = regexp.MustCompile(`\{[a-z]+\}`)

// Validate returns every fault of the engine at once, or nil. It does not check that
// the program exists.
func (e *Engine) Validate() error { return e.validate("") }

func (e *Engine) validate(model string) error {
	var errs []error
	fault := func(field, value, rule string) {
		errs = append(errs, &tier.InvalidError{Model: model, Field: field, Value: quote(value), Rule: rule})
	}
	if len(e.Command) == 0 || e.Command[0] == "" {
		fault("Engine.Command", strings.Join(e.Command, " "), "must name a program")
	}
	check := func(field, text string) {
		for _, w := range word.FindAllString(text, -1) {
			if !slices.Contains(words, w) {
				fault(field, w, "must be one of "+strings.Join(words, ", "))
			}
		}
		if strings.ContainsRune(text, 0) {
			fault(field, text, "must not hold a zero byte")
		}
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
	e.validateForeign(check, fault)
	if !strings.Contains(strings.Join(slices.Concat(e.Command, e.Env), " "), "{port}") {
		fault("Engine.Command", strings.Join(e.Command, " "), "must hold {port}, the port to listen on")
	}
	if e.Runtime < 0 {
		fault("Engine.Runtime", fmt.Sprint(int64(e.Runtime)), "must be bytes, or 0 if it is not known")
	}
	if e.Health != "" && e.Health[0] != '/' {
		fault("Engine.Health", e.Health, "must begin with a slash")
	}
	if path := e.Shutdown.Path; path != "" && path[0] != '/' {
		fault("Engine.Shutdown", path, "must begin with a slash")
	}
	e.validateConversations(fault)
	if e.Threads < 0 {
		fault("Engine.Threads", strconv.Itoa(e.Threads), "must not be negative")
	}
	if e.Context < 0 {
		fault("Engine.Context", strconv.Itoa(e.Context), "must not be negative")
	}
	if e.StartTimeout < 0 {
		fault("Engine.StartTimeout", e.StartTimeout.String(), "must be positive, or zero for Options.StartTimeout")
	}
	limit := func(field string, d time.Duration) {
		if d != 0 && d < minLimit {
			fault(field, d.String(), fmt.Sprintf("must be at least %v, or zero for off", minLimit))
		}
	}
	limit("Engine.IdleCheck", e.IdleCheck)
	limit("Engine.SilenceLimit", e.SilenceLimit)
	if e.SlowFactor != 0 && !(e.SlowFactor >= 1) {
		fault("Engine.SlowFactor", fmt.Sprint(e.SlowFactor), "must be at least 1, or zero for off")
	}
	switch {
	case int(e.Standby) >= len(standbys):
		fault("Engine.Standby", e.Standby.String(), "must be one of the Standby constants")
	case e.Standby == StandbySleep && e.Sleeper == nil:
		fault("Engine.Standby", "sleep", "needs a Sleeper")
	}
	return errors.Join(errs...)
}

// expansion replaces the words in what an Engine says of one start.
type expansion struct {
	model string
	empty []string // words that have no value
	*strings.Replacer
}

func (e *Engine) expansion(model *tier.Model, port int, mark, state string) (expansion, error) {
	path, dir := model.Path, ""
	if info, err := os.Stat(path); err == nil {
		if path, err = filepath.Abs(path); err != nil {
			return expansion{}, err
		}
		if dir = path; !info.IsDir() {
			dir = filepath.Dir(path)
		}
	}
	projector := model.Labels[tier.ProjectorLabel]
	if !slices.Contains(model.Parts, projector) {
		projector = "" // a label that names no part of the model is another's word
	} else if _, err := os.Stat(projector); err == nil {
		if projector, err = filepath.Abs(projector); err != nil {
			return expansion{}, err
		}
	}
	x := expansion{model.Name, nil, strings.NewReplacer(
		"{path}", path, "{mmproj}", projector, "{dir}", dir, "{port}", strconv.Itoa(port), "{name}", model.Name, "{mark}", mark,
		"{threads}", strconv.Itoa(cmp.Or(e.Threads, runtime.NumCPU())),
		"{context}", strconv.Itoa(cmp.Or(e.Context, 4096)), "{state}", state,
	)}
	for word, value := range map[string]string{"{path}": path, "{mmproj}": projector, "{dir}": dir} {
		if value == "" {
			x.empty = append(x.empty, word)
		}
	}
	return x, nil
}

// lacks reports whether a text has a word without a value.
func (x expansion) lacks(text string) bool {
	return slices.ContainsFunc(x.empty, func(word string) bool { return strings.Contains(text, word) })
}

// command returns a command with its words replaced.
func (x expansion) command(template []string) (argv []string, err error) {
	for i, arg := range template {
		if i > 0 && x.lacks(arg) {
			before := template[i-1]
			if i > 1 && !strings.HasPrefix(arg, "-") && strings.HasPrefix(before, "-") && !strings.ContainsAny(before, "={") {
				argv = argv[:len(argv)-1]
			}
			continue
		}
		full := x.Replace(arg)
		if strings.HasPrefix(full, "-") && !strings.HasPrefix(arg, "-") {
			return nil, &tier.InvalidError{
				Model: x.model, Field: "argument " + quote(arg), Value: quote(full),
				Rule: "must not begin with a dash, which the engine would take for an option",
			}
		}
		argv = append(argv, full)
	}
	return argv, nil
}

// expand returns the command and the additions to the environment for a model; state is
// the folder of its conversations.
func (e *Engine) expand(model *tier.Model, port int, mark, state string) (argv, env []string, err error) {
	x, err := e.expansion(model, port, mark, state)
	if err != nil {
		return nil, nil, err
	}
	for _, v := range e.Env {
		if !x.lacks(v) {
			env = append(env, x.Replace(v))
		}
	}
	argv, err = x.command(e.Command)
	return argv, env, err
}

// Options are the settings of a Mover. Engine.Command or EngineOf is required.
//
// The functions, the Sleeper of an engine and the Logger's handler are the user's
// code: each is called with no lock held, on a goroutine that no engine and no other
// model waits for. A panic in one, or its end of the goroutine, is an error of that
// call. One that does not return is abandoned a second after it should have.
type Options struct {
	// Engine serves every model, unless EngineOf is set.
	Engine Engine
	// EngineOf returns the engine of one model, by its labels for example; it may
	// start from Engine. It is called at every start, and its error is that of the
	// move, and by Mover.Forecast at any time. Nil: Engine for all.
	EngineOf func(m *tier.Model) (Engine, error)

	// StateDir is a folder, created if missing, that records every running engine, so
	// that New can end those that a killed process left behind, what engines were
	// measured to take (Mover.Forecast), and their conversations (Engine.Save). Several Movers and processes may share it; of
	// what they measured, the last to write wins. "": nothing is recorded.
	StateDir string
	// Cgroup is the folder of a cgroup v2 that was delegated to this process; engines
	// get cgroups of their own in it. "": the cgroup that this process is in.
	Cgroup string
	// Logger receives the lines that engines print, at debug level, and what an
	// operator should know. Records are delivered in order from two bounded queues,
	// one of them for the lines; what does not fit is dropped and counted in
	// Status. nil: silent.
	Logger *slog.Logger

	// Crashed is called when an engine has exited that was not told to, or was renewed
	// (Engine.IdleCheck), once none of its processes is left. The model is in storage by
	// then: Resident counts nothing of it, URL does not know it, and a Move to ram starts it
	// again. err is an *EngineError with the last lines of the engine. Only if one that is
	// renewed cannot be killed, err holds a *tier.StuckError as well, and Resident counts
	// what is left of it. Manager.ReportCrash is the usual thing to call; its example shows
	// how, as this may be called before modeltier.New has returned.
	//
	// The next Move of that model, and Close, wait for it, for at most a second. It is
	// not called for a crash during a Move of the model, which that Move returns, nor
	// once Close was called. Nil: crashes show in Status and in the log only.
	Crashed func(model string, err error)

	// StartTimeout bounds a start, until the health page says ready, and a wake-up, of
	// engines that have none of their own. 0: 5 min.
	StartTimeout time.Duration
	// StopTimeout is how long an engine may take to exit when asked to, before it is
	// killed. Up to half of it is for the answer to Engine.Shutdown, the rest begins
	// with SIGTERM; an Engine.StopCommand has all of it. 0: 5 s.
	StopTimeout time.Duration
	// Excess is how many bytes more than Model.Size + Model.Runtime (or, if that is 0,
	// Engine.Runtime, or 256 MiB and an eighth of Model.Size) an engine may take while it
	// starts; beyond that it is killed and the error says so. What it
	// takes within that is charged, and reserved for its next load: see
	// Mover.Footprint. 0: as many as declared, at least 1 GiB. tier.Unlimited: no
	// bound.
	Excess tier.Bytes
	// Conversations bounds what Engine.Save saves.
	Conversations Conversations
}

func (o Options) withDefaults() (Options, error) {
	o.StartTimeout = cmp.Or(o.StartTimeout, 5*time.Minute)
	o.StopTimeout = cmp.Or(o.StopTimeout, 5*time.Second)
	talks := &o.Conversations
	talks.MaxBytes = cmp.Or(talks.MaxBytes, 8*tier.GiB)
	talks.MaxAge = cmp.Or(talks.MaxAge, 7*24*time.Hour)
	talks.Timeout = cmp.Or(talks.Timeout, 30*time.Second)
	var errs []error
	positive := func(field string, value time.Duration) {
		if value < 0 {
			errs = append(errs, &tier.InvalidError{Field: field, Value: value.String(), Rule: "must be positive, or zero for its default"})
		}
	}
	positive("StartTimeout", o.StartTimeout)
	positive("StopTimeout", o.StopTimeout)
	positive("Conversations.MaxAge", talks.MaxAge)
	positive("Conversations.Timeout", talks.Timeout)
	if talks.MaxBytes < 0 {
		errs = append(errs, &tier.InvalidError{Field: "Conversations.MaxBytes", Value: fmt.Sprint(int64(talks.MaxBytes)), Rule: "must be bytes, or 0 for the default"})
	}
	if o.Excess < 0 {
		errs = append(errs, &tier.InvalidError{Field: "Excess", Value: fmt.Sprint(int64(o.Excess)), Rule: "must be bytes, 0 for the default, or tier.Unlimited"})
	}
	if len(o.Engine.Command) > 0 || o.EngineOf == nil {
		errs = append(errs, o.Engine.validate(""), o.needsState(&o.Engine, ""))
	}
	return o, errors.Join(errs...)
}

// engineOf returns the validated engine of a model.
func (o *Options) engineOf(ctx context.Context, model tier.Model) (Engine, error) {
	engine := o.Engine
	if o.EngineOf != nil {
		err := guarded(ctx, "Options.EngineOf", func() (err error) {
			engine, err = o.EngineOf(&model)
			return err
		})
		if err != nil {
			return Engine{}, fmt.Errorf("the engine of model %q: %w", model.Name, err)
		}
	}
	return engine, errors.Join(engine.validate(model.Name), o.needsState(&engine, model.Name))
}

// startTimeout returns how long an engine may take to be ready.
func (o *Options) startTimeout(e *Engine) time.Duration {
	return cmp.Or(e.StartTimeout, o.StartTimeout)
}

// callLimit is how long the user's code may go on after it should have returned.
const callLimit = time.Second

// guarded calls the user's code on a goroutine of its own. A panic in it, or its end
// of the goroutine, is a *tier.PanicError of that part. If it has not returned
// callLimit after ctx ended, it is abandoned; so it must write nothing that the
// caller reads after an error.
func guarded(ctx context.Context, part string, call func() error) error {
	result := make(chan error, 1)
	go func() {
		var err error
		returned := false
		defer func() {
			if !returned {
				err = &tier.PanicError{Part: part, Value: recover(), Stack: debug.Stack()}
			}
			result <- err
		}()
		err = call()
		returned = true
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-result:
		return err
	case <-time.After(callLimit):
		return fmt.Errorf("%s has not returned %v after it was cancelled: %w", part, callLimit, context.Cause(ctx))
	}
}

// allowed returns how many bytes an engine may take while it starts.
func (o *Options) allowed(model *tier.Model, e *Engine) tier.Bytes {
	declared := model.Size.Plus(cmp.Or(model.Runtime, e.Runtime, unknownRuntime(model.Size)))
	return declared.Plus(cmp.Or(o.Excess, max(declared, tier.GiB)))
}

// Fault is the way in which an engine failed.
type Fault string

const (
	CannotStart  Fault = "cannot be started"                    // no such program, no right to run it
	ExitedEarly  Fault = "exited before it was ready"           //
	NeverReady   Fault = "was not ready in time"                // its health page did not answer 2xx
	PortTaken    Fault = "has lost its port to another program" // which took it before the engine could listen, three times
	Unseen       Fault = "has no processes that can be seen"    // see Engine.Processes
	TookTooMuch  Fault = "takes more memory than it may"        // see Options.Excess
	Unresponsive Fault = "does not answer after its standby"    // thawed or woken, but not ready
	Silent       Fault = "answers nobody"                       // see Engine.IdleCheck, Engine.SilenceLimit
	Slow         Fault = "has become slow"                      // see Engine.SlowFactor
	Crashed      Fault = "crashed"                              // exited, though it was not told to, while ready or in standby
)

// EngineError is an engine that failed. It unwraps to tier.ErrMove and to Err.
type EngineError struct {
	Model   string
	Fault   Fault
	Command []string
	// After is how long after its start, thaw or wake-up it failed.
	After time.Duration
	// Health is the last answer of the health page, if that matters.
	Health string
	// Took and Allowed are bytes, if the fault is about memory.
	Took, Allowed tier.Bytes
	// Err is the cause: how the process exited, or an error of the system.
	Err error
	// Output is the last lines that the engine printed, oldest first.
	Output []string
}

func (e *EngineError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the engine of '%s' %s", e.Model, e.Fault)
	if e.Fault == TookTooMuch {
		fmt.Fprintf(&b, ": %v of %v", e.Took, e.Allowed)
	}
	if e.After > 0 {
		fmt.Fprintf(&b, ", after %v", e.After.Round(time.Millisecond))
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Health != "" {
		fmt.Fprintf(&b, "; its health page: %s", e.Health)
	}
	if len(e.Output) > 0 {
		const lines = 5
		last := e.Output[max(0, len(e.Output)-lines):]
		fmt.Fprintf(&b, "; it printed last: %s", strings.Join(last, " / "))
	}
	return b.String()
}

// Unwrap returns tier.ErrMove and Err.
func (e *EngineError) Unwrap() []error {
	if e.Err == nil {
		return []error{tier.ErrMove}
	}
	return []error{tier.ErrMove, e.Err}
}

// Suggestions implements tier.Suggester.
func (e *EngineError) Suggestions() []string {
	switch e.Fault {
	case CannotStart:
		return []string{"Check that Engine.Command names a program that can be found and run, and PATH: " + quote(strings.Join(e.Command, " "))}
	case ExitedEarly:
		return []string{"See what it printed last, or run the command by hand: " + quote(strings.Join(e.Command, " "))}
	case NeverReady:
		return []string{
			"Check that it listens on 127.0.0.1 at {port}, and that Engine.Health names a page that answers 2xx once it is ready.",
			"A large model on a slow device may need a longer StartTimeout, of the Engine or in Options.",
		}
	case PortTaken:
		return []string{
			"Try again: each start has another port.",
			"If the command hands the engine to a daemon, as docker run does, set Engine.Processes: otherwise who answers has to be one of the processes that the command starts.",
		}
	case Unseen:
		return []string{"Check Engine.Processes: it has to lead to processes that began after Engine.Command did."}
	case TookTooMuch:
		return []string{
			fmt.Sprintf("Declare what it needs: Model.Size and Model.Runtime together should be %v.", e.Took),
			"Or make it take less: a smaller context, fewer slots. Options.Excess bounds what is tolerated.",
		}
	case Silent, Slow:
		return []string{"It starts again with the next request for the model. If this repeats while it works, raise Engine.IdleCheck, SilenceLimit or SlowFactor, or set it to 0."}
	case Unresponsive:
		return []string{"It starts again with the next request for the model. If this repeats, set Engine.Standby to StandbyStop."}
	}
	help := []string{"It starts again with the next request for the model. See what it printed last."}
	if e.Err != nil && strings.Contains(e.Err.Error(), "killed") {
		help = append(help, "It was killed from outside, most often by the kernel for lack of memory. See the kernel's log.")
	}
	return help
}
