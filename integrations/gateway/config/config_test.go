package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/process"
)

// parsed returns what a text is read as.
func parsed(t *testing.T, text, dir string) *File {
	t.Helper()
	f, warnings, err := Parse("c.yaml", []byte(text), dir)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v, %v", warnings, err)
	}
	return f
}

// faultsOf returns what is wrong with a text.
func faultsOf(t *testing.T, text string) []string {
	t.Helper()
	_, _, err := Parse("c.yaml", []byte(text), "/srv")
	return lines(t, err)
}

func lines(t *testing.T, err error) (all []string) {
	t.Helper()
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		joined = joinedError{err}
	}
	for _, err := range joined.Unwrap() {
		f, ok := errors.AsType[*Fault](err)
		if !ok || f.Line < 1 || f.Column < 1 || !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("%q has no place", err)
		}
		all = append(all, err.Error())
	}
	return all
}

type joinedError []error

func (e joinedError) Unwrap() []error { return e }

func TestParse_Faults_AllAreToldWithTheirPlaces(t *testing.T) {
	const text = `# by hand
engines:
  llama:
    command: llama-server -m {path} --prot {prot}
    standby: nap
    start_timeout: 15
    slow_factor: 0.5
    env: {TOKEN: top-secret, A: "{bad}"}
  llama: {command: x}
  other: [a]
models:
  - name: a
    path: nothing.gguf
    size: 5
    size_gb: 5
    tier: hot
    engine: lama
  - name: a
    engine: llama
    quality: .inf
    pinned: yes
    keep_alive: soon
    max_requests: -1
aliases: {b: c, a: a}
limits:
  ram: 5 GiBs
  max_model: 0
keys: [sk-123, {name: x, key: "sk 123", scopes: all}, {name: x, class: fast}]
pins: [b, d]
listen: 8080
origins: chat.example.org
hosts: ["https://x"]
folders: {path: }
timeouts: 5s
`
	want := []string{
		`c.yaml:4:14: engines.llama.command "{prot}" must be one of {path}, {mmproj}, {dir}, {port}, {name}, {threads}, {context}, {state}, {mark}`,
		`c.yaml:4:14: engines.llama.command "llama-server -m {path} --prot {prot}" must hold {port}, the port to listen on`,
		`c.yaml:5:14: engines.llama.standby "nap" must be auto, freeze or stop`,
		`c.yaml:6:20: engines.llama.start_timeout "15" has no unit; did you mean 15s?`,
		`c.yaml:7:18: engines.llama.slow_factor "0.5" must be at least 1, or zero for off`,
		`c.yaml:8:10: engines.llama.env must be one of {path}, {mmproj}, {dir}, {port}, {name}, {threads}, {context}, {state}, {mark}`,
		`c.yaml:9:3: engines.llama is there twice`,
		`c.yaml:10:10: engines.other must be a mapping, with keys such as command`,
		`c.yaml:14:11: models[0].size "5" has no unit; did you mean 5GiB?`,
		`c.yaml:15:5: models[0].size_gb means the same as size, which is there as well`,
		`c.yaml:16:11: models[0].tier "hot" must be one of ram, swap, storage`,
		`c.yaml:17:13: models[0].engine "lama" is no engine of this file; did you mean llama?`,
		`c.yaml:18:5: models[1].size 0 must be positive if there is no path to measure`,
		`c.yaml:18:11: models[1].name "a" is there twice`,
		`c.yaml:20:14: models[1].quality ".inf" must be a number`,
		`c.yaml:21:13: models[1].pinned "yes" must be true or false`,
		`c.yaml:22:17: models[1].keep_alive "soon" must be a time such as 90s, 15m, 1h30m or 2d, or 0 for at once, or forever`,
		`c.yaml:23:19: models[1].max_requests "-1" must not be negative`,
		`c.yaml:24:20: aliases.a is the name of a model already`,
		`c.yaml:26:8: limits.ram "5 GiBs" has an unknown unit "GiBs"; known are B, KiB, MiB, GiB and TiB, or none, or unlimited`,
		`c.yaml:27:14: limits.max_model "0" must be more than nothing`,
		`c.yaml:28:8: keys[0] must be a mapping, with keys such as name`,
		`c.yaml:28:31: keys[1].key must be printable ASCII without blanks`,
		`c.yaml:28:49: keys[1].scopes "all" must be use, watch or manage`,
		`c.yaml:28:55: keys[2] must have one of key, key_file and key_env`,
		`c.yaml:28:62: keys[2].name "x" is there twice`,
		`c.yaml:28:72: keys[2].class "fast" must be high, normal or low`,
		`c.yaml:30:9: listen[0] "8080" must be HOST:PORT, such as 127.0.0.1:8080 or :8080, or unix:PATH`,
		`c.yaml:31:10: origins[0] "chat.example.org" must be SCHEME://HOST or SCHEME://HOST:PORT, without a path; HOST may begin with "*.", and PORT may be "*"`,
		`c.yaml:32:9: hosts[0] "https://x" must be the name or the address of a host, without a scheme, a port, a path or "*"`,
		`c.yaml:33:10: folders must be a list`,
		`c.yaml:34:11: timeouts "5s" must be a mapping, with keys such as start`,
	}
	got := faultsOf(t, text)
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("line %d of the faults\n got %s\nwant %s", i, g, w)
		}
	}
	for _, secret := range []string{"sk-123", "sk 123", "top-secret"} {
		if strings.Contains(strings.Join(got, "\n"), secret) {
			t.Errorf("%q is told", secret)
		}
	}
}

func TestParse_References_MustBeThere(t *testing.T) {
	got := faultsOf(t, `
engines: {e: "x {port}"}
models: [{name: small, path: x, size: 1GiB}]
aliases: {s: smal}
pins: [small, s, large]
`)
	want := []string{
		`c.yaml:2:14: engines.e "x {port}" must be a mapping, with keys such as command`,
		`c.yaml:4:14: aliases.s "smal" is no model of this file; did you mean small?`,
		`c.yaml:5:18: pins[2] "large" is no model of this file`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
	for text, want := range map[string]string{
		"models: [{name: a, path: x}]": "models[0].engine is needed, and there are no engines",
		"engines: {e: {command: 'x {port}'}, f: {command: 'x {port}'}}\nfolders: [x]": "folders[0].engine is needed, as there are several: e or f",
	} {
		if got := faultsOf(t, text); len(got) != 1 || !strings.HasSuffix(got[0], want) {
			t.Errorf("%s: %q", text, got)
		}
	}
}

func TestParse_NoYAML_IsAFaultWithAPlace(t *testing.T) {
	for text, want := range map[string]string{
		"{\n\"models\": [\n{\"name\": 7}\n":        "c.yaml:",
		"{\n\"models\": [\n\n{\"name\": \"x\"}]]}": "c.yaml:4:",
		"a: 1\n b: 2\n":                 "c.yaml:",
		"models: []\n---\nmodels: []\n": "c.yaml:3:1: is a second document",
		"models:\n\t- name: x\n":        "c.yaml:2:",
		"models: \xff":                  "c.yaml:1:9: must be text in UTF-8",
		"state: é\nmodels: é\xff":       "c.yaml:2:10: must be text in UTF-8",
		"":                              "c.yaml:1:1: is empty",
		"# nothing\n":                   "c.yaml:1:1: is empty",
		"engine: {}\nname: x":           "c.yaml:1:1: is no configuration: it has none of the keys listen, engines",
		"- a":                           "c.yaml:1:1: must be a mapping",
		"text":                          "c.yaml:1:1: \"text\" must be a mapping",
		"state: !env HOME":              "c.yaml:1:8: state \"HOME\" must have no tag",
		"state: *nothing":               "is the alias of no anchor",
		strings.Repeat("x", maxFile+1):  "c.yaml:1:1: must not be longer",
	} {
		if got := faultsOf(t, text); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("%.40q: %.200q", text, got)
		}
	}
}

func TestParse_UnknownKeys_AreWarningsWithTheNearest(t *testing.T) {
	f, warnings, err := Parse("c.yaml", []byte("x-base: &b {a: 1}\nModels: []\nengines:\n  e:\n    command: x {port}\n    comand: y\nnothing_like_it: 1\n"), "/")
	if err != nil || f.Engines["e"].Command[0] != "x" {
		t.Fatal(f, err)
	}
	want := []string{
		"c.yaml:2:1: unknown key 'Models' (did you mean 'models'?)",
		"c.yaml:6:5: unknown key 'comand' (did you mean 'command'?)",
		"c.yaml:7:1: unknown key 'nothing_like_it'",
	}
	if got := fmt.Sprint(warnings); got != fmt.Sprint(want) {
		t.Error(got)
	}
}

// Spellings of a person, and those of the files that the example server took.
func TestParse_Spellings_AreTheSameField(t *testing.T) {
	old := parsed(t, "\ufeff"+`{
	"engines": {"e": {"command": ["llama-server", "-m", "{path}", "--port", "{port}"], "env": ["A=1"],
		"start_timeout_s": 900, "idle_check_s": 0, "silence_limit_s": 1.5e1}},
	"models": [{"name": "a", "path": "x", "size_gb": 0.5, "runtime_gb": 1, "tier": "ram", "capabilities": ["chat"], "parts": ["b", "/c"]}],
	"limits": {"ram_gb": 5, "swap_gb": 10, "reserved_gb": 1},
	"state": null
}`, "/srv")
	now := parsed(t, `
engines:
  e:
    command: A=1 llama-server -m {path} --port {port}
    start_timeout: 15m
    idle_check: 0
    silence_limit: 15s
models:
  - name: a
    path: x
    size: 512MiB
    runtime: 1 GB
    tier: ram
    capabilities: chat
    parts: [b, /c]
limits: {ram: 5GiB, swap: 10G, reserve: 1024M}
`, "/srv")
	old.root, old.read, now.root, now.read = nil, nil, nil, nil
	if !reflect.DeepEqual(old, now) {
		t.Errorf("\n%+v\n%+v", old, now)
	}
	if got := now.Models[0].Parts; !reflect.DeepEqual(got, []string{"/srv/b", "/c"}) {
		t.Errorf("%q", got)
	}
	e := now.Engines["e"]
	if p := e.Process(); p.StartTimeout != 15*time.Minute || p.IdleCheck != 0 || p.SilenceLimit != 15*time.Second {
		t.Errorf("%+v", p)
	}
	if l := now.Limits.OrElse(tier.DefaultLimits()); l.RAM != 5*tier.GiB || l.Swap != 10*tier.GiB || l.Reserved != tier.GiB || l.MaxModel != tier.DefaultLimits().MaxModel {
		t.Errorf("%+v", l)
	}
}

func TestParse_Values(t *testing.T) {
	f := parsed(t, `
listen: [":8080", "[::1]:0", "unix:m.sock"]
origins: ["*", "https://*.example.org", "http://localhost:*"]
hosts: [llm, "::1", 10.0.0.1]
engines: {e: {command: "x {port}", env: {N: 5, ON: true}, save: {path: "/s/{file}", body: {"filename": "{file}", "n": [1, "2", null]}}, restore: {path: "/r/{file}", body: "{file}"}}}
models:
  - {name: 7b, path: /x, size: 10GiB, keep_alive: 0, aliases: [seven, 7], class: high, max_requests: 4}
  - {name: b, path: /x, keep_alive: forever}
folders: [a, {path: /b, watch: false, follow: ../c}]
limits: {swap: none, reserve: 0, max_model: unlimited}
keep_alive: 2d
standby_for: 1h30m
state: s
`, "/srv")
	if !reflect.DeepEqual(f.Listen, []string{":8080", "[::1]:0", "unix:/srv/m.sock"}) || f.KeepAlive.Duration() != 48*time.Hour || time.Duration(f.StandbyFor) != 90*time.Minute {
		t.Errorf("%+v", f)
	}
	e := f.Engines["e"]
	if p := e.Process(); !reflect.DeepEqual(p.Env, []string{"N=5", "ON=true"}) || p.Save.Body != `{"filename":"{file}","n":[1,"2",null]}` || p.Restore.Body != "{file}" {
		t.Errorf("%+v", p)
	}
	a, b := f.Models[0].Tier(&e), f.Models[1].Tier(&e)
	if a.Name != "7b" || a.Size != 10*tier.GiB || a.KeepAlive != tier.AtOnce || b.KeepAlive >= 0 || !reflect.DeepEqual(f.Models[0].Aliases, []string{"seven", "7"}) || a.Aliases != nil || a.Mover != "e" || a.Labels[EngineLabel] != e.ID() {
		t.Errorf("%+v\n%+v", a, b)
	}
	if f.MaxRequests("e", &f.Models[0]) != 4 || f.MaxRequests("e", nil) != 0 || f.Models[0].Class != "high" {
		t.Errorf("%+v", f.Models[0])
	}
	off := false
	want := []Folder{{Path: "/srv/a", Engine: "e"}, {Path: "/b", Engine: "e", Follow: []string{"/c"}, Watch: &off}}
	if !reflect.DeepEqual(f.Folders, want) || !f.Folders[0].Watched() || f.Folders[1].Watched() {
		t.Errorf("%+v", f.Folders)
	}
	if f.State != "/srv/s" {
		t.Errorf("state %q", f.State)
	}
	old := parsed(t, `{"limits": {"ram_gb": 8, "swap_gb": 0, "max_model": "2GiB"}}`, "/")
	if l := old.Limits.OrElse(tier.DefaultLimits()); l.Swap != 10*tier.GiB || l.MaxModel != 2*tier.GiB {
		t.Errorf("%+v", l)
	}
	if l := f.Limits.OrElse(tier.DefaultLimits()).Settled(); l.Swap != 0 || l.Reserved != 0 || l.MaxModel != tier.Unlimited {
		t.Errorf("%+v", l)
	}
}

func TestParse_BareBracesInAList_AreToldToQuote(t *testing.T) {
	got := faultsOf(t, "engines: {e: {command: [x, --port, {port}]}}")
	if len(got) != 1 || !strings.Contains(got[0], "has to be in quotes") {
		t.Errorf("%q", got)
	}
}

func TestParse_AnchorsAndMerges_AreFollowed(t *testing.T) {
	f := parsed(t, `
x-base: &base
  command: x {port}
  context: 512
engines:
  a: *base
  b:
    <<: *base
    context: 1024
`, "/")
	if a, b := f.Engines["a"], f.Engines["b"]; a.Context != 512 || b.Context != 1024 || b.Command[0] != "x" {
		t.Errorf("%+v", f.Engines)
	}
}

// A few lines may mean more than memory holds, or never end.
func TestParse_AliasesThatMultiply_AreBounded(t *testing.T) {
	var laughs strings.Builder
	laughs.WriteString("x-0: &a0 [x, x, x, x, x, x, x, x, x]\n")
	for i := range 7 {
		fmt.Fprintf(&laughs, "x-%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 9), ", "))
	}
	var merges strings.Builder
	merges.WriteString("x-0: &m0 {k0: 1}\n")
	for i := range 20 {
		fmt.Fprintf(&merges, "x-%d: &m%d {<<: [%s]}\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*m%d, ", i), 9), ", "))
	}
	const words = 6000
	long := "x-c: &c [x, '{port}', " + strings.Repeat("x,", words) + "]\n"
	for name, text := range map[string]string{
		"laughs in JSON": laughs.String() + "engines: {e: {command: 'x {port}', save: {path: '/{file}', body: *a7}, restore: {path: '/{file}'}}}\n",
		"merges":         merges.String() + "aliases: *m20\n",
		"wide merges":    "x-0: &m0 {k: 1}\nx-1: &m1 {<<: [" + strings.Repeat("*m0,\n ", 200) + "]}\naliases: {<<: [" + strings.Repeat("*m1,\n ", 200) + "]}\n",
		"itself":         "engines: {e: {command: 'x {port}', save: {path: '/{file}', body: &p [*p]}, restore: {path: '/{file}'}}}\n",
		"merged itself":  "aliases: &p {<<: *p}\n",
		"by aliases":     long + "engines: {a: {command: *c}, b: {command: *c}}\n",
		"by merges":      "x-e: &e {command: [x, '{port}', " + strings.Repeat("x,", words) + "]}\nengines: {a: {<<: *e}, b: {<<: *e}}\n",
		"by one":         strings.Replace(long, "]", strings.Repeat("x,", words)+"]", 1) + "engines: {a: {command: *c}}\n",
	} {
		if got := faultsOf(t, text); len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), "stands for too much") {
			t.Errorf("%s: %.300q", name, got)
		}
	}
	if got := faultsOf(t, long+"engines: {a: {command: *c}}\n"); len(got) > 0 {
		t.Errorf("%q", got)
	}
	if got := faultsOf(t, laughs.String()+"pins: *a7\n"); len(got) == 0 {
		t.Error("lists are taken for names")
	}
}

func TestParse_WhatTheParserShouldNotSee_IsRefused(t *testing.T) {
	for _, text := range []string{"[", "{a: ", "- ", "? ", "[a, ", "a: ", "&a ", "*a ", "!!a ", "{", "[&a ", "[? ", "a: 1\n", "? a\n", "{a: [", "- - a\n", "a:\n", "- a: 1\n  b:\n"} {
		began := time.Now()
		faultsOf(t, strings.Repeat(text, maxFile/8/len(text)))
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%q took %v", text, took)
		}
	}
	for text, says := range map[string]string{
		strings.Repeat("[", maxNesting+1):      "c.yaml:1:65: is nested deeper than 64 levels",
		strings.Repeat("- ", maxNesting+1):     "c.yaml:1:129: is in a line with more than 64 marks",
		strings.Repeat("a: 1\n", maxEntries+1): "c.yaml:20001:2: is in a mapping with more than 20000 entries",
		"? a\n: b\n":                           "c.yaml:1:1: is a ? before a key",
	} {
		if got := faultsOf(t, text); len(got) != 1 || !strings.Contains(got[0], says) {
			t.Errorf("%.10q…: %q, want %q", text, got, says)
		}
	}
	// What is large and nothing else is read.
	var b strings.Builder
	b.WriteString(`{"engines":{"e":{"command":["x","{port}"]}},"models":[`)
	for i := range 5000 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"name":"m%d","path":"/x/m%d.gguf","quality":1}`, i, i)
	}
	b.WriteString("]}")
	if f := parsed(t, b.String(), "/"); len(f.Models) != 5000 {
		t.Error(len(f.Models))
	}
}

func TestParse_ManyFaults_AreCounted(t *testing.T) {
	if got := faultsOf(t, "engines: {e: {command: 'x {port}'}}\nmodels:\n"+strings.Repeat("- {name: [], path: x}\n", 150)); len(got) != maxFaults+1 || !strings.HasSuffix(got[maxFaults], "and 50 more faults") {
		t.Errorf("%d, the last is %q", len(got), got[len(got)-1])
	}
	got := faultsOf(t, "pins: ["+strings.Repeat("[], ", 500)+"]\n")
	if len(got) != maxFaults+1 || !strings.HasSuffix(got[maxFaults], "and 400 more faults") {
		t.Errorf("%d, the last is %q", len(got), got[len(got)-1])
	}
}

// A command that is a client of a container daemon, as docs/operating.md has it.
func TestEngine_OfADaemon_IsTakenAndItsFaultsAreNamed(t *testing.T) {
	f := parsed(t, `{"engines": {"e": {
		"command": ["docker", "run", "--rm", "--name", "{mark}", "-p", "127.0.0.1:{port}:8080", "-v", "{path}:/m.gguf:ro", "llama", "-m", "/m.gguf"],
		"pause": ["docker", "pause", "{mark}"], "resume": ["docker", "unpause", "{mark}"], "stop": ["docker", "rm", "-f", "{mark}"],
		"processes": {"command": ["docker", "inspect", "-f", "{{.State.Pid}}", "{mark}"]}}}}`, "/")
	conf := f.Engines["e"]
	if e := conf.Process(); e.Pause[1] != "pause" || e.Resume[1] != "unpause" || e.StopCommand[1] != "rm" || e.Processes.Command[3] != "{{.State.Pid}}" {
		t.Errorf("%+v", e)
	}
	f = parsed(t, `engines: {e: {command: "./run {port}", stop: ./stop, processes: {pid_file: "run/{mark}.pid"}}}`, "/srv")
	conf = f.Engines["e"]
	if e := conf.Process(); e.Command[0] != "/srv/run" || e.StopCommand[0] != "/srv/stop" || e.Processes.PidFile != "/srv/run/{mark}.pid" {
		t.Errorf("%+v", e)
	}
	got := strings.Join(faultsOf(t, `engines: {e: {command: "a {port}", pause: p, stop: "s {pid}", processes: {cgroup: machine, command: b}}}`), "\n")
	for _, want := range []string{`e.pause "p" must be set together with resume`, `e.stop "{pid}"`, `processes.cgroup "machine"`, "one of cgroup, pid_file and command"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
}

func TestEngine_SaveAndRestore_FaultsAreNamed(t *testing.T) {
	const save = `{path: "/slots/{slot}?action=save", body: {filename: "{file}"}}`
	for says, bad := range map[string][2]string{
		`restore "back/{slot}/{file}" must begin with a slash`: {save, `{path: "back/{slot}/{file}"}`},
		"{file}":                  {save, `{path: "/back/{slot}"}`},
		"{port}":                  {`{path: "/save/{slot}/{file}/{port}"}`, save},
		"restore.path is missing": {save, `{method: PUT}`},
	} {
		got := strings.Join(faultsOf(t, `engines: {e: {command: "e {port} {state}", slots: 4, save: `+bad[0]+`, restore: `+bad[1]+`}}`), "\n")
		if !strings.Contains(got, says) {
			t.Errorf("%v: %s, want %q", bad, got, says)
		}
	}
}

func TestEngine_ID_ChangesWithTheConfiguration(t *testing.T) {
	minute := Duration(time.Minute)
	seen := map[string]int{}
	for i, e := range []Engine{{}, {Command: Command{"a"}}, {Command: Command{"a"}, Env: Environment{"A=1"}}, {IdleCheck: &minute}, {MaxRequests: 1}, {Save: &Request{Path: "/"}}, {StartTimeout: 1}} {
		if j, ok := seen[e.ID()]; ok {
			t.Errorf("%d and %d are the same", i, j)
		}
		seen[e.ID()] = i
	}
	a, b := Engine{Command: Command{"a"}}, Engine{Command: Command{"a"}}
	if a.ID() != b.ID() {
		t.Error("the same are different")
	}
}

// What a server's user reads names the keys of the configuration.
func TestNameKeys_NamesTheKeysOfTheConfiguration(t *testing.T) {
	for _, say := range []string{
		"raise Engine.IdleCheck, SilenceLimit or SlowFactor", "set Engine.Standby to StandbyStop", "set Engine.Processes", "Check that Engine.Command names",
		"Engine.Health names a page", `StateDir "" is needed by Engine.Save`, "fewer slots. Options.Excess bounds what is tolerated.", "Engine.StartTimeout -1s must be positive, or zero for Options.StartTimeout",
	} {
		err := NameKeys(&tier.InvalidError{Reason: say, Help: []string{say}})
		for _, got := range append(tier.Suggestions(err), err.Error()) {
			if strings.Contains(got, "Engine.") || strings.Contains(got, "Options.") || strings.Contains(got, "StateDir") || got == say {
				t.Errorf("%q", got)
			}
		}
		if tier.Code(err) != "invalid_request" {
			t.Errorf("its code is %s", tier.Code(err))
		}
	}
	// Every field that a file sets has a name there.
	for field := range reflect.TypeFor[process.Engine]().Fields() {
		if name := keyNames.Replace("Engine." + field.Name); strings.HasPrefix(name, "Engine.") && field.Name != "Runtime" && field.Name != "Sleeper" {
			t.Errorf("%s is %s", field.Name, name)
		}
	}
	if NameKeys(nil) != nil {
		t.Error("there is an error")
	}
}

func TestFile_Check_TellsWhatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.yaml")
	write := func(text string) []string {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, _, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		return lines(t, f.Check(os.LookupEnv))
	}
	got := write(`
engines: {e: {command: "no-such-engine {port}", save: {path: "/{file}"}, restore: {path: "/{file}"}}}
models: [{name: a, path: a.gguf}, {name: hub, path: org/model, size: 1GiB}]
folders: [nothing]
keys: [{name: x, key_file: secret}, {name: y, key_env: MODELTIER_TEST_NO_SUCH_KEY}]
`)
	for i, want := range []string{
		`:2:24: engines.e.command "no-such-engine {port}": exec: "no-such-engine": executable file not found in $PATH: install it`,
		":2:55: engines.e.save needs a folder: name one in state",
		`:3:26: models[0].path "a.gguf" is not there`,
		":4:11: folders[0].path: stat ",
		":5:8: keys[0]: stat ",
		":5:37: keys[1]: the secret of key_env MODELTIER_TEST_NO_SUCH_KEY is empty",
	} {
		if i >= len(got) || !strings.HasPrefix(got[i], path+want) {
			t.Errorf("%d: %q is not in %q", i, want, got)
		}
	}
	if len(got) != 6 {
		t.Errorf("%q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("\ufeffabc\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := write("state: s\nkeys: [{name: x, key_file: secret}]\nfolders: ['.']\nengines: {e: {command: '" + os.Args[0] + " {port}', save: {path: '/{file}'}, restore: {path: '/{file}'}}}\n"); len(got) > 0 {
		t.Errorf("%q", got)
	}
	if got := lines(t, (&File{Folders: []Folder{{Path: dir + "/none"}}}).Check(os.LookupEnv)); len(got) != 1 {
		t.Errorf("a program's own: %q", got)
	}
	// What was wrong already is told with it, once.
	f, _, err := Parse("c.yaml", []byte("models: [{name: a, path: 'no\x00thing', engine: f}]\nengines: {e: {command: [], standby: nap}}\n"), dir)
	if err == nil || f == nil {
		t.Fatal(f, err)
	}
	got = lines(t, f.Check(os.LookupEnv))
	if len(got) != 5 || len(lines(t, err)) != 4 {
		t.Errorf("%q, before %v", got, err)
	}
	// What a server would refuse.
	if err := os.WriteFile(filepath.Join(dir, "empty.gguf"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	none := func(string) (string, bool) { return "", false }
	text := `listen: [":8080", "0.0.0.0:0", "127.0.0.1:0", "localhost:0"]
origins: ["*", "https://chat.example.org"]
engines: {e: {command: "sh {port}", dir: nothing}}
models: [{name: a, path: empty.gguf}, {name: b, path: secret, parts: [nothing], size: 0B}]
state: secret
`
	f, _, err = Parse("c.yaml", []byte(text), dir)
	if err != nil {
		t.Fatal(err)
	}
	got = lines(t, f.Check(none))
	for i, want := range []string{
		`1:10: listen[0] ":8080" can be reached by other machines`, `1:19: listen[1] "0.0.0.0:0" can be reached`,
		`2:11: origins[0] "*" without a key every web page`,
		"3:42: engines.e.dir", `4:26: models[0].path "empty.gguf": `, `4:55: models[1].path "secret": `, `5:8: state "secret": `,
	} {
		if i >= len(got) || !strings.HasPrefix(got[i], "c.yaml:"+want) {
			t.Errorf("%d: %q is not in %q", i, want, got)
		}
	}
	if len(got) != 7 {
		t.Errorf("%q", got)
	}
	keyed := "listen: ':8080'\norigins: ['*']\nkeys: [{name: a, key: sesame}, {name: b, key_env: OTHER}]\n"
	if f, _, err = Parse("c.yaml", []byte(keyed), dir); err != nil {
		t.Fatal(err)
	}
	got = lines(t, f.Check(func(string) (string, bool) { return "sesame", true }))
	if len(got) != 1 || !strings.HasPrefix(got[0], "c.yaml:3:32: keys[1] has the secret of keys[0]") {
		t.Errorf("%q", got)
	}
	if f, _, err = Parse("c.yaml", []byte("listen: ':8080'\norigins: ['*']\n"), dir); err != nil {
		t.Fatal(err)
	}
	if got = lines(t, f.Check(func(string) (string, bool) { return "sesame", true })); len(got) > 0 {
		t.Errorf("with a token: %q", got)
	}
	if f, _, err = Parse("c.yaml", []byte("keys: [{name: a, key: 'two words'}, {name: b}]\n"), dir); err == nil {
		t.Fatal(f)
	}
	if got = lines(t, f.Check(none)); len(got) != 2 {
		t.Errorf("a fault is told twice: %q", got)
	}
	k := Key{KeyFile: filepath.Join(dir, "secret")}
	if secret, err := k.Secret(nil); err != nil || secret != "abc" {
		t.Errorf("%q, %v", secret, err)
	}
}

func TestParse_NameOfAKeyThatIsItsSecret_IsRefused(t *testing.T) {
	_, _, err := Parse("c.yaml", []byte("keys: [{name: a, key: sesame}, {name: sesame, key: x}]"), t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "keys[1] has a name that is the secret of a key") || strings.Contains(err.Error(), "sesame") {
		t.Errorf("got %v", err)
	}
}
