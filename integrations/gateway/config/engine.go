package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/process"
)

// Engine is a program that serves one model over HTTP and is started for each.
type Engine struct {
	// The program and its arguments: text that is split into words as a shell would, or a list. It
	// stays in the foreground and listens on {port} of 127.0.0.1. Replaced are {path}, {mmproj}
	// (the projector), {dir} (the folder of the path), {port}, {name}, {threads}, {context},
	// {state} (the folder of save) and {mark} (a name that no other start has). An argument with a
	// word that the model lacks is left out, with the flag before it. In text, NAME=value before
	// the program goes to env.
	Command Command `json:"command" need:"yes"`
	// Environment variables, as NAME=value or as a mapping, with the same words replaced.
	Env Environment `json:"env,omitempty"`
	// The folder it runs in. Default: the server's.
	Dir string `json:"dir,omitempty"`
	// The path that answers a GET with 2xx once the engine is ready. Default: /health.
	Health string `json:"health,omitempty"`
	// The path of a POST that asks the engine to end, sent before it is terminated. Default: none.
	Shutdown string `json:"shutdown,omitempty"`
	// What {threads} is. Default: one for each CPU.
	Threads int `json:"threads,omitempty"`
	// What {context} is: tokens. Default: 4096.
	Context int `json:"context,omitempty"`
	// What becomes of an engine on standby: auto (what frees memory and starts fastest), freeze or
	// stop. Default: auto.
	Standby Standby `json:"standby,omitempty"`
	// How many requests it is given at once; the others wait. Default: no bound.
	MaxRequests int `json:"max_requests,omitempty"`
	// How long a start may take until the engine is ready. Default: start of timeouts.
	StartTimeout Duration `json:"start_timeout,omitzero" old:"start_timeout_s"`
	// Renew the engine if its health page has not answered for so long while no request used it.
	// 0: never. Default: 1m.
	IdleCheck *Duration `json:"idle_check,omitempty" old:"idle_check_s"`
	// Renew the engine if it has sent nothing for so long to the requests that wait for it, and
	// does nothing. Default: never.
	SilenceLimit Duration `json:"silence_limit,omitzero" old:"silence_limit_s"`
	// Renew the engine, while idle, if it has become so many times slower than it was at first; at
	// least 1. Default: never.
	SlowFactor float64 `json:"slow_factor,omitempty"`
	// A request that saves the engine's conversations before it stops. {slot}, {file}, {state} and
	// {name} are replaced in path and body. It needs state.
	Save *Request `json:"save,omitempty"`
	// A request that restores what save has saved after the next start.
	Restore *Request `json:"restore,omitempty"`
	// How many conversations the engine holds, if save has {slot}. Default: 1.
	Slots int `json:"slots,omitempty"`
	// If the command is a client, such as docker run: the command that freezes the engine, as
	// docker pause does.
	Pause Command `json:"pause,omitempty"`
	// The command that thaws what pause froze.
	Resume Command `json:"resume,omitempty"`
	// The command that stops the engine and removes what is left of it. It must be safe to repeat.
	Stop Command `json:"stop,omitempty"`
	// Where the processes of the engine are, if the command is a client.
	Processes Processes `json:"processes,omitzero"`

	// Kind is how to estimate what it takes; "": by its program. It is for engines
	// that no file names.
	Kind hotload.EngineKind `json:"-"`
}

// Processes say where the processes of an engine are whose command is a client. One of
// the three is given.
type Processes struct {
	// The absolute path of a cgroup.
	Cgroup string `json:"cgroup,omitempty"`
	// A file that holds process ids.
	PidFile string `json:"pid_file,omitempty"`
	// A command that prints process ids, as docker inspect -f '{{.State.Pid}}' does.
	Command Command `json:"command,omitempty"`
}

// Request is a request to an engine.
type Request struct {
	// The method. Default: POST.
	Method string `json:"method,omitempty"`
	// The path, with a query if it needs one.
	Path string `json:"path" need:"yes"`
	// The body: text is sent as it is, anything else as JSON.
	Body Body `json:"body,omitempty"`
}

func (r *Request) request() process.Request {
	if r == nil {
		return process.Request{}
	}
	return process.Request{Method: r.Method, Path: r.Path, Body: string(r.Body)}
}

// idleCheck is the default of Engine.IdleCheck.
const idleCheck = Duration(time.Minute)

// Process returns what package process takes.
func (e *Engine) Process() process.Engine {
	standby := map[Standby]process.Standby{
		Standby(process.StandbyFreeze.String()): process.StandbyFreeze,
		Standby(process.StandbyStop.String()):   process.StandbyStop,
	}
	return process.Engine{
		Command: e.Command, Env: e.Env, Dir: e.Dir, Health: e.Health,
		Shutdown: process.Request{Path: e.Shutdown}, Threads: e.Threads, Context: e.Context,
		Standby: standby[e.Standby], StartTimeout: time.Duration(e.StartTimeout),
		Save: e.Save.request(), Restore: e.Restore.request(), Slots: e.Slots,
		IdleCheck:    time.Duration(*cmp.Or(e.IdleCheck, new(idleCheck))),
		SilenceLimit: time.Duration(e.SilenceLimit), SlowFactor: e.SlowFactor,
		Pause: e.Pause, Resume: e.Resume, StopCommand: e.Stop,
		Processes: process.Processes{Cgroup: e.Processes.Cgroup, PidFile: e.Processes.PidFile, Command: e.Processes.Command},
	}
}

// Validate returns what is wrong with the engine, as far as that shows in what is written,
// in the words of the configuration.
func (e *Engine) Validate() error {
	engine := e.Process()
	return NameKeys(engine.Validate())
}

// ID tells this configuration from every other.
func (e *Engine) ID() string {
	b, _ := json.Marshal(e) // plain texts and numbers
	return fmt.Sprintf("%.8x", sha256.Sum256(b))
}

// LookUp returns an error if a program that the engine names is not there.
func (e *Engine) LookUp() error {
	for _, c := range e.commands() {
		if argv := *c; len(argv) > 0 && !strings.ContainsRune(argv[0], '{') {
			if _, err := exec.LookPath(argv[0]); err != nil {
				return fmt.Errorf("%w: install it, or name it with its folder", err)
			}
		}
	}
	return nil
}

// Estimate returns how to estimate what the engine takes beyond the weights of a model; ok
// is false if it is none of llama.cpp's.
func (e *Engine) Estimate() (o hotload.EstimateOptions, ok bool) {
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

// Commanded returns an engine of a command's text, as Engine.Command takes it.
func Commanded(text string) (Engine, error) {
	words, err := splitWords(text)
	if err != nil {
		return Engine{}, err
	}
	e := Engine{Command: words}
	e.assign()
	return e, nil
}

var assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)

// assign has words of the form NAME=value before the program go to the environment.
func (e *Engine) assign() {
	for len(e.Command) > 1 && assignment.MatchString(e.Command[0]) {
		e.Env, e.Command = append(e.Env, e.Command[0]), e.Command[1:]
	}
}

// settle makes the paths that are relative those of a folder.
func (e *Engine) settle(dir string) {
	for _, c := range e.commands() {
		if argv := *c; len(argv) > 0 && strings.ContainsAny(argv[0], "/"+string(filepath.Separator)) {
			*c = append([]string{within(dir, argv[0])}, argv[1:]...)
		}
	}
	e.Dir, e.Processes.PidFile = within(dir, e.Dir), within(dir, e.Processes.PidFile)
}

func (e *Engine) commands() []*Command {
	return []*Command{&e.Command, &e.Pause, &e.Resume, &e.Stop, &e.Processes.Command}
}

// engineKeys are the fields of a process.Engine and the keys that set them, longer names
// before those that they begin with.
var engineKeys = [][2]string{
	{"Engine.Processes.Cgroup", "processes.cgroup"}, {"Engine.Processes.PidFile", "processes.pid_file"},
	{"Engine.Processes.Command", "processes.command"}, {"Engine.Processes", "processes"},
	{"Engine.Pause", "pause"}, {"Engine.Resume", "resume"}, {"Engine.StopCommand", "stop"},
	{"Engine.IdleCheck", "idle_check"}, {"Engine.SilenceLimit", "silence_limit"}, {"Engine.SlowFactor", "slow_factor"},
	{"Engine.Save", "save"}, {"Engine.Restore", "restore"}, {"Engine.Slots", "slots"},
	{"Engine.Command", "command"}, {"Engine.Env", "env"}, {"Engine.Dir", "dir"}, {"Engine.Health", "health"}, {"Engine.Shutdown", "shutdown"},
	{"Engine.Threads", "threads"}, {"Engine.Context", "context"}, {"Engine.StartTimeout", "start_timeout"}, {"Engine.Standby", "standby"},
}

// keyNames replaces in a sentence of package process what its reader knows by another name.
var keyNames = func() *strings.Replacer {
	var all []string
	for _, k := range engineKeys {
		all = append(all, k[0], k[1])
	}
	return strings.NewReplacer(append(all,
		"Options.StartTimeout", "the default", " Options.Excess bounds what is tolerated.", "",
		"SilenceLimit", "silence_limit", "SlowFactor", "slow_factor", "StandbyStop", `"stop"`, "StateDir", "state",
		"Cgroup, PidFile and Command", "cgroup, pid_file and command")...)
}()

// NameKeys returns err, of package process, with the fields of an Engine named as the
// configuration does. nil stays nil.
func NameKeys(err error) error {
	if err == nil {
		return nil
	}
	return byKeys{err}
}

type byKeys struct{ error }

func (e byKeys) Error() string { return keyNames.Replace(e.error.Error()) }
func (e byKeys) Unwrap() error { return e.error }

// Suggestions implements tier.Suggester.
func (e byKeys) Suggestions() (all []string) {
	for _, s := range tier.Suggestions(e.error) {
		all = append(all, keyNames.Replace(s))
	}
	return all
}
