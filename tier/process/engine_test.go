package process

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modeltier/modeltier/tier"
)

func TestExpand_EveryWord(t *testing.T) {
	e := Engine{
		Command: []string{"srv", "-m", "{path}", "--port={port}", "{name}:{port}-{mark}", "-t{threads}", "-c", "{context}", `{"json":{"a":1}}`, "{UPPER}"},
		Env:     []string{"PORT={port}"}, Threads: 3,
	}
	argv, env, err := e.expand(&tier.Model{Name: "n", Path: "hub/it"}, 8080, "x7", "")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"srv", "-m", "hub/it", "--port=8080", "n:8080-x7", "-t3", "-c", "4096", `{"json":{"a":1}}`, "{UPPER}"}
	if diff := cmp.Diff(want, argv); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"PORT=8080"}, env); diff != "" {
		t.Error(diff)
	}
}

func TestExpand_WordsThatAModelLacks_LeftOutWithTheirFlags(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "m.gguf")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	sees := map[string]string{tier.ProjectorLabel: "/p/mmproj.gguf"}
	here, err := filepath.Abs("engine_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		command string
		model   tier.Model
		want    string
	}{
		{"a projector", "srv -m {path} --mmproj {mmproj} -v", tier.Model{Path: file, Parts: []string{"/p/x", "/p/mmproj.gguf"}, Labels: sees}, "srv -m " + file + " --mmproj /p/mmproj.gguf -v"},
		{"a relative projector", "srv --mmproj {mmproj}", tier.Model{Path: file, Parts: []string{"engine_test.go"}, Labels: map[string]string{tier.ProjectorLabel: "engine_test.go"}}, "srv --mmproj " + here},
		{"none", "srv -m {path} --mmproj {mmproj} -v", tier.Model{Path: file}, "srv -m " + file + " -v"},
		{"a label that is no part", "srv --mmproj {mmproj} -v", tier.Model{Path: file, Labels: sees}, "srv -v"},
		{"in one argument", "srv -v --mmproj={mmproj} -x", tier.Model{Path: file}, "srv -v -x"},
		{"after a flag with its value", "srv --a=b {mmproj} -x", tier.Model{Path: file}, "srv --a=b -x"},
		{"after a value", "srv -m {path} {mmproj}", tier.Model{Path: file}, "srv -m " + file},
		{"first", "srv {mmproj} -v", tier.Model{Path: file}, "srv -v"},
		{"two after one another", "srv -a {mmproj} {mmproj} -b", tier.Model{Path: file}, "srv -b"},
		{"a folder of a file", "srv -d {dir}", tier.Model{Path: file}, "srv -d " + dir},
		{"a folder", "srv -d {dir}", tier.Model{Path: dir}, "srv -d " + dir},
		{"a name in a hub", "srv -d {dir} {path}", tier.Model{Path: "hub/it"}, "srv hub/it"},
		{"no path", "srv -m {path} {name}", tier.Model{Name: "n"}, "srv n"},
	} {
		e := Engine{Command: strings.Fields(tt.command), Env: []string{"MMPROJ={mmproj}", "X=1"}}
		argv, env, err := e.expand(&tt.model, 1, "", "")
		if got := strings.Join(argv, " "); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v, want %q", tt.name, got, err, tt.want)
		}
		if has := len(env) == 2; has != strings.Contains(tt.want, "--mmproj ") {
			t.Errorf("%s: the environment is %q", tt.name, env)
		}
	}
}

// Whatever a model is called, the command has the arguments of its template, and
// none that is an option by the model's doing.
func TestExpand_AnyModel_NoArgumentMoreAndNoOptionMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := Engine{Command: []string{"srv", "{name}", "-m", "{path}", "{port}"}}
		m := tier.Model{Name: rapid.String().Draw(t, "name"), Path: rapid.StringMatching(`[-/a-z{} ;$]{1,12}`).Draw(t, "path")}
		argv, _, err := e.expand(&m, 1, "", "")
		if err != nil {
			if !errors.Is(err, tier.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if len(argv) != len(e.Command) {
			t.Fatalf("%q", argv)
		}
		for i, arg := range argv {
			if strings.HasPrefix(arg, "-") && i != 2 {
				t.Fatalf("argument %d is %q", i, arg)
			}
		}
	})
}

func TestOptions_EveryFaultAtOnce(t *testing.T) {
	_, err := New(Options{
		Engine: Engine{
			Command: []string{"", "{nonsense}"}, Env: []string{"novalue"}, Health: "health", Threads: -1,
			Standby: 9, Shutdown: Request{Path: "x"}, StartTimeout: -time.Minute, Runtime: -1, IdleCheck: -1, SilenceLimit: time.Millisecond, SlowFactor: 0.5,
		},
		StartTimeout: -time.Second, Excess: -1,
	})
	if !errors.Is(err, tier.ErrInvalid) {
		t.Fatal(err)
	}
	for _, field := range []string{"Command", "{nonsense}", "{port}", "novalue", "Health", "Shutdown", "Threads", "Standby", "Engine.StartTimeout", "Engine.Runtime", "IdleCheck", "SilenceLimit", "SlowFactor", "StartTimeout", "Excess"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("the error does not name %s:\n%v", field, err)
		}
	}
	if _, err := New(Options{Engine: Engine{Command: []string{"a", "{port}"}, Standby: StandbySleep}}); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("StandbySleep without a Sleeper: %v", err)
	}
	m, err := New(Options{EngineOf: func(*tier.Model) (Engine, error) { return Engine{}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Move(t.Context(), tier.Move{Model: tier.Model{Name: "m", Size: 1}, To: tier.RAM}, nil); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("an engine without a command: %v", err)
	}
}

func TestOptions_Excess(t *testing.T) {
	for _, c := range []struct{ size, excess, want tier.Bytes }{
		{100, 0, 100 + tier.GiB}, {3 * tier.GiB, 0, 6 * tier.GiB}, {100, 5, 105}, {100, tier.Unlimited, tier.Unlimited},
	} {
		o := Options{Excess: c.excess}
		if got := o.allowed(&tier.Model{Size: c.size - 10, Runtime: 10}, &Engine{Runtime: 7}); got != c.want {
			t.Errorf("%v declared, excess %v: %v are allowed, want %v", c.size, c.excess, got, c.want)
		}
	}
	// An engine that copies its weights takes more than twice their size.
	if o, size := (Options{}), tier.GiB; o.allowed(&tier.Model{Size: size}, &Engine{}) < 2*size+256*tier.MiB {
		t.Errorf("where nothing is declared, %v are allowed for weights of %v", o.allowed(&tier.Model{Size: size}, &Engine{}), size)
	}
	if got := (&Options{Excess: 1}).allowed(&tier.Model{Size: 10}, &Engine{Runtime: 7}); got != 18 {
		t.Errorf("where nothing is declared and 17 are estimated, %d are allowed", got)
	}
}

func TestPollAfter_SoonAtFirstThenRarely(t *testing.T) {
	for elapsed, want := range map[time.Duration]time.Duration{
		0: 5 * time.Millisecond, 80 * time.Millisecond: 5 * time.Millisecond, 1600 * time.Millisecond: 100 * time.Millisecond,
		time.Minute: 250 * time.Millisecond,
	} {
		if got := pollAfter(elapsed); got != want {
			t.Errorf("after %v: %v, want %v", elapsed, got, want)
		}
	}
}

// FuzzOutput holds the ring against a simple account of what was printed.
func FuzzOutput(f *testing.F) {
	f.Add("a\nb\r\n\n  \nc", false)
	f.Add(strings.Repeat("x", 2*maxLine)+"\nend", true)
	f.Add(strings.Repeat("line\n", 3*maxLines), false)
	f.Add("\xff\xfe\n", true)
	f.Fuzz(func(t *testing.T, printed string, slow bool) {
		var want []string
		for _, line := range strings.Split(printed, "\n") {
			line = strings.TrimRight(line[:min(len(line), maxLine)], "\r")
			if strings.TrimSpace(line) != "" {
				want = append(want, strings.ToValidUTF8(line, "�"))
			}
		}
		want = want[max(0, len(want)-maxLines):]
		var r io.Reader = strings.NewReader(printed)
		if slow {
			r = iotest.OneByteReader(r)
		}
		o := logtail{log: slog.New(slog.DiscardHandler)}
		o.read(r, nil)
		if got := o.last(); !slices.Equal(got, want) {
			t.Errorf("kept %q, want %q", got, want)
		}
	})
}

// A flood costs what its bound says, and the end of the engine is not kept waiting.
func TestLogtail_Flood_ReadAtABoundedRateUntilTheEngineExits(t *testing.T) {
	const size = 32 << 20
	exited := make(chan struct{})
	close(exited)
	for _, c := range []struct {
		name   string
		text   string
		exited chan struct{}
		costs  int // bytes
	}{
		{"OneLine", strings.Repeat("x", size), nil, size},
		{"Lines", strings.Repeat("x\n", size/lineCost), nil, size},
		{"EmptyLines", strings.Repeat("\n", size/lineCost), nil, size},
		{"AfterTheExit", strings.Repeat("x\n", size/lineCost), exited, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, began := logtail{log: slog.New(slog.DiscardHandler)}, time.Now()
				o.read(strings.NewReader(c.text), c.exited)
				want := time.Duration(c.costs) * time.Second / outputRate
				if took := time.Since(began); took < want-want/10 || took > want+want/10 {
					t.Errorf("it took %v, want %v", took, want)
				}
				if n := len(o.last()); n > maxLines {
					t.Errorf("%d lines are kept", n)
				}
			})
		})
	}
}
