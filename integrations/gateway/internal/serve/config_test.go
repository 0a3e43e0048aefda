package serve

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/integrations/gateway/engines"
	"github.com/modeltier/modeltier/tier/process"
)

func TestConfig_Faults_AllAreNamed(t *testing.T) {
	_, err := parseConfig([]byte(`{"engines":{"e":{"standby":"nap","start_timeout_s":-3,"idle_check_s":-4,"silence_limit_s":-5,"slow_factor":0.5}},"limits":{"ram_gb":-1},
		"models":[{"name":"a","engine":"f"},{"name":"a"},{"name":"auto","size_gb":-2}]}`), "/")
	if err == nil {
		t.Fatal("it is taken")
	}
	for _, want := range []string{`"nap"`, "start_timeout_s -3", "idle_check_s -4", "silence_limit_s -5", "slow_factor", "-1", `no engine "f"`, "twice", "-2"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in %q", want, err)
		}
	}
	for bad, says := range map[string]string{
		"{\n\"models\": [\n{\"name\": 7}]}":   "line 3: ",
		"{\n\"models\": [\n\n{\"name\": x}]}": "line 4: ",
	} {
		if _, err := parseConfig([]byte(bad), "/"); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want an error that says %q", bad, err, says)
		}
	}
	for _, bad := range []string{"", "[]", `{"engine":{}}`, `{} {}`} {
		if _, err := parseConfig([]byte(bad), "/"); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// A command that is a client of a container daemon, as docs/operating.md has it.
func TestConfig_EngineOfADaemon_IsTakenAndItsFaultsAreNamed(t *testing.T) {
	const engine = `{"engines": {"e": {
		"command": ["docker", "run", "--rm", "--name", "{mark}", "-p", "127.0.0.1:{port}:8080", "-v", "{path}:/m.gguf:ro", "llama", "-m", "/m.gguf"],
		"pause": ["docker", "pause", "{mark}"], "resume": ["docker", "unpause", "{mark}"], "stop": ["docker", "rm", "-f", "{mark}"],
		"processes": {"command": ["docker", "inspect", "-f", "{{.State.Pid}}", "{mark}"]}}}}`
	c, err := parseConfig([]byte(engine), "/")
	if err != nil {
		t.Fatal(err)
	}
	conf := c.Engines["e"]
	if e := conf.Engine(); e.Pause[1] != "pause" || e.Resume[1] != "unpause" || e.StopCommand[1] != "rm" || e.Processes.Command[3] != "{{.State.Pid}}" {
		t.Errorf("%+v", e)
	}
	c, err = parseConfig([]byte(`{"engines": {"e": {"command": ["./run", "{port}"], "stop": ["./stop"], "processes": {"pid_file": "run/{mark}.pid"}}}}`), "/srv")
	if err != nil {
		t.Fatal(err)
	}
	if e := c.Engines["e"]; e.Command[0] != "/srv/run" || e.Stop[0] != "/srv/stop" || e.Processes.PidFile != "/srv/run/{mark}.pid" {
		t.Errorf("%+v", e)
	}
	_, err = parseConfig([]byte(`{"engines": {"e": {"command": ["a", "{port}"], "pause": ["p"], "stop": ["s", "{pid}"],
		"processes": {"cgroup": "machine", "command": ["b"]}}}}`), "/")
	for _, want := range []string{`pause "p"`, `stop "{pid}"`, `processes.cgroup "machine"`, "one of "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in %v", want, err)
		}
	}
}

func TestConfig_Example_IsValid(t *testing.T) {
	lib, err := readConfig("../../config.example.json")
	if err != nil {
		t.Fatal(err)
	}
	known := &engines.Mover{}
	known.Admit(lib.engines)
	if len(lib.models) != 2 {
		t.Errorf("%+v", lib.models)
	}
	if engine, err := known.EngineOf(&lib.models[0]); err != nil || engine.Context != 4096 {
		t.Errorf("%+v, %v", engine, err)
	}
}

func TestConfig_TimesOfAnEngine(t *testing.T) {
	c, err := parseConfig([]byte(`{"engines":{
		"plain":{"command":["e","{port}"]},
		"set":{"command":["e","{port}"],"start_timeout_s":1.5,"idle_check_s":2,"silence_limit_s":3,"slow_factor":4},
		"off":{"command":["e","{port}"],"idle_check_s":0}}}`), "/")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]process.Engine{
		"plain": {IdleCheck: time.Minute},
		"set":   {StartTimeout: 1500 * time.Millisecond, IdleCheck: 2 * time.Second, SilenceLimit: 3 * time.Second, SlowFactor: 4},
		"off":   {},
	} {
		e := c.Engines[name]
		got := e.Engine()
		if got.StartTimeout != want.StartTimeout || got.IdleCheck != want.IdleCheck || got.SilenceLimit != want.SilenceLimit || got.SlowFactor != want.SlowFactor {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestConfig_SaveAndRestore_AreTheEngines(t *testing.T) {
	const save = `{"path":"/slots/{slot}?action=save","body":{"filename": "{file}"}}`
	parse := func(save, restore string) (*config, error) {
		return parseConfig([]byte(`{"engines":{"e":{"command":["e","{port}","{state}"],"slots":4,"save":`+save+`,"restore":`+restore+`}}}`), "/")
	}
	c, err := parse(save, `{"method":"PUT","path":"/back/{slot}","body":"{file}"}`)
	if err != nil {
		t.Fatal(err)
	}
	e := c.Engines["e"]
	got := e.Engine()
	want := process.Engine{
		Command: []string{"e", "{port}", "{state}"}, Slots: 4, IdleCheck: time.Minute,
		Save:    process.Request{Path: "/slots/{slot}?action=save", Body: `{"filename": "{file}"}`},
		Restore: process.Request{Method: "PUT", Path: "/back/{slot}", Body: "{file}"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	for says, bad := range map[string][2]string{
		"must begin with a slash": {save, `{"path":"back/{slot}/{file}"}`},
		"{file}":                  {save, `{"path":"/back/{slot}"}`},
		"{port}":                  {`{"path":"/save/{slot}/{file}/{port}"}`, save},
		"unknown field":           {`{"path":"/save/{slot}/{file}","head":1}`, save},
	} {
		if _, err := parse(bad[0], bad[1]); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v, want an error that says %q", bad, err, says)
		}
	}
}

// Without a folder nothing can be saved, which the server says before it starts.
func TestConfig_SaveWithoutAState_IsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.json")
	text := `{"engines":{"e":{"command":["sh","{port}"],"save":{"path":"/s/{file}"},"restore":{"path":"/r/{file}"}}}%s}`
	for state, wants := range map[string]bool{"": true, `,"state":"x"`: false} {
		if err := os.WriteFile(path, fmt.Appendf(nil, text, state), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openConfig(&options{config: path}); (err != nil) != wants || wants && !strings.Contains(err.Error(), `engine "e": save needs`) {
			t.Errorf("%q: %v", state, err)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	b, err := os.ReadFile("../../config.example.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseConfig(b, "/"); err == nil {
			c.library("/")
		}
	})
}
