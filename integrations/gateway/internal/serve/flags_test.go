package serve

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/tier"
	"github.com/spf13/cobra"
)

func noEnv(string) (string, bool) { return "", false }

// parse returns what a command, serve or demo, makes of its arguments.
func parse(args []string, env func(string) (string, bool), out io.Writer) (*options, error) {
	o := &options{demo: args[0] == "demo"}
	c := command(&cobra.Command{Use: args[0], SilenceErrors: true, SilenceUsage: true}, o)
	c.RunE = func(*cobra.Command, []string) error { return o.settle(c.Flags().Changed, env) }
	c.SetArgs(args[1:])
	c.SetOut(out)
	return o, c.Execute()
}

func TestParse_WhatTheFlagsMean(t *testing.T) {
	for _, c := range []struct {
		args []string
		want options
	}{
		{[]string{"demo"}, options{demo: true, addr: defaultAddr, scale: 16}},
		{[]string{"demo", "--addr", "127.0.0.1:0", "-v"}, options{demo: true, addr: "127.0.0.1:0", addressed: true, scale: 16, verbose: true}},
		{[]string{"serve", "--models", "/m", "--ram", "5GB", "--swap", "320MiB", "--reserve", "0.5G"},
			options{addr: defaultAddr, models: "/m", limits: tier.Limits{RAM: 5 * tier.GiB, Swap: 320 * tier.MiB, Reserved: tier.GiB / 2}}},
		{[]string{"serve", "--models", "/m", "--follow", "/a", "--follow=/b/../c"}, options{addr: defaultAddr, models: "/m", follow: []string{"/a", "/c"}}},
		{[]string{"demo", "--swap=0", "--reserve=0"}, options{demo: true, addr: defaultAddr, scale: 16, limits: tier.Limits{Swap: tier.None, Reserved: tier.None}}},
		{[]string{"demo", "--scale", "64"}, options{demo: true, addr: defaultAddr, scale: 64}},
		{[]string{"demo", "--state", "/s"}, options{demo: true, addr: defaultAddr, scale: 16, state: "/s", stated: true}},
		{[]string{"demo", "--state", "none"}, options{demo: true, addr: defaultAddr, scale: 16, stated: true}},
		{[]string{"demo", "--state", ""}, options{demo: true, addr: defaultAddr, scale: 16, stated: true}},
		{[]string{"demo", "--engine", "llamacpp"}, options{demo: true, addr: defaultAddr, scale: 16, engine: "llamacpp"}},
		{[]string{"demo", "--engine", "none"}, options{demo: true, addr: defaultAddr, scale: 16, engine: "none"}},
		{[]string{"serve", "--engine", "srv '{path}' {port}", "--models", "/m"},
			options{addr: defaultAddr, models: "/m", engine: "srv '{path}' {port}", command: config.Engine{Command: config.Command{"srv", "{path}", "{port}"}}}},
		{[]string{"serve", "--config", "f", "--verify"}, options{addr: defaultAddr, config: "f", verify: true}},
		{[]string{"demo", "--token", "abc"}, options{demo: true, addr: defaultAddr, scale: 16, token: "abc"}},
	} {
		got, err := parse(c.args, noEnv, io.Discard)
		if err != nil {
			t.Errorf("%q: %v", c.args, err)
			continue
		}
		if diff := cmp.Diff(c.want, *got, cmp.AllowUnexported(options{})); diff != "" {
			t.Errorf("%q: %s", c.args, diff)
		}
	}
}

func TestParse_WhatIsWrong_IsNamed(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"serve"}, "nothing to serve"},
		{[]string{"serve", "models"}, "-models"},
		{[]string{"demo", "models"}, "-models"},
		{[]string{"demo", "--nope"}, "-nope"},
		{[]string{"demo", "--ram", "5"}, "5GiB"},
		{[]string{"demo", "--ram", "0"}, "more than nothing"},
		{[]string{"demo", "--ram", "-5GB"}, "such as 5GiB"},
		{[]string{"demo", "--swap", "NaN"}, "such as 5GiB"},
		{[]string{"demo", "--reserve", "5 parsecs"}, "parsecs"},
		{[]string{"demo", "--ram", "99999999999TB"}, "more than can be counted"},
		{[]string{"demo", "--addr", ""}, "-addr"},
		{[]string{"serve", "--models", ""}, "-models"},
		{[]string{"serve", "--config", ""}, "-config"},
		{[]string{"serve", "--models", "/m", "--scale", "8"}, "-scale"},
		{[]string{"serve", "--follow", "/a"}, "-models"},
		{[]string{"serve", "--config", "f", "--follow", "/a"}, "-follow is for"},
		{[]string{"serve", "--models", "/m", "--follow", ""}, "-follow"},
		{[]string{"serve", "--models", "/m", "--engine", ""}, "-engine must not"},
		{[]string{"demo", "--engine", ""}, "-engine must not"},
		{[]string{"serve", "--models", "/m", "--engine", "srv 'x"}, "' is not closed"},
		{[]string{"demo", "--engine", "srv $HOME"}, "'$'"},
		{[]string{"serve", "--engine", "srv", "--config", "f"}, "leave out"},
		{[]string{"demo", "--scale", "0"}, "1 to 4096"},
		{[]string{"demo", "--scale", "x"}, "-scale"},
		{[]string{"demo", "--token", ""}, "is empty"},
		{[]string{"demo", "--token", "a b"}, "ASCII"},
		{[]string{"demo", "--token", "a\n"}, "ASCII"},
	} {
		_, err := parse(c.args, noEnv, io.Discard)
		if !errors.Is(err, ErrUsage) {
			t.Errorf("%q: got %v", c.args, err)
			continue
		}
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: says %q, and nothing of %q", c.args, err, c.says)
		}
	}
}

func TestParse_Help_IsNoFault(t *testing.T) {
	var help strings.Builder
	for _, command := range []string{"serve", "demo"} {
		if _, err := parse([]string{command, "-h"}, noEnv, &help); err != nil {
			t.Errorf("%s: got %v", command, err)
		}
	}
	for _, name := range []string{"-addr", "-models", "-ram", "-swap", "-reserve", "-state", "-token", "-v", tokenVariable} {
		if !strings.Contains(help.String(), name) {
			t.Errorf("the help does not speak of %s", name)
		}
	}
}

func TestParse_TokenFromTheEnvironment(t *testing.T) {
	env := func(value string) func(string) (string, bool) {
		return func(name string) (string, bool) { return value, name == tokenVariable }
	}
	if o, err := parse([]string{"demo"}, env("abc"), io.Discard); err != nil || o.token != "abc" {
		t.Errorf("got %+v, %v", o, err)
	}
	if o, err := parse([]string{"demo", "--token", "flag"}, env("abc"), io.Discard); err != nil || o.token != "flag" {
		t.Errorf("with a flag: got %+v, %v", o, err)
	}
	// The user who set it wanted a token: not to have one must not go unseen.
	if _, err := parse([]string{"demo"}, env(""), io.Discard); !errors.Is(err, ErrUsage) {
		t.Errorf("empty: got %v", err)
	}
}

func TestOpenLibrary_Folder_IsServedFromStorageAndKeepsItsOwnState(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	s := newSite(t, "") // for its files
	lib := func(args ...string) *library {
		t.Helper()
		o, err := parse(args, noEnv, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		l, err := openLibrary(t.Context(), o, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	a := lib("serve", "--models", s.lib.dir, "--ram", "20GB")
	r := &reloader{}
	if _, err := startFiles(a, r, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	models := r.manager.Status().Models
	r.manager.Close()
	if len(models) != 7 || a.dir != s.lib.dir {
		t.Errorf("%d models in %s", len(models), a.dir)
	}
	for _, m := range models {
		if m.Home != tier.Storage {
			t.Errorf("%s is at home in %v", m.Name, m.Home)
		}
	}
	want := config.MachineLimits(machine(t.Context())) // but for what was named
	want.RAM, want.MaxModel = 20*tier.GiB, max(want.Swap, 20*tier.GiB)
	if a.limits != want {
		t.Errorf("limits %+v, want %+v", a.limits, want)
	}
	b := lib("serve", "--models", t.TempDir())
	if len(b.models) != 0 || b.state == "" || a.state == b.state {
		t.Errorf("an empty folder: %d models, state %q beside %q", len(b.models), b.state, a.state)
	}
	if again := lib("serve", "--models", s.lib.dir); again.state != a.state {
		t.Errorf("the state folder was %s and is %s", a.state, again.state)
	}
	if none := lib("serve", "--models", s.lib.dir, "--state", "none"); none.state != "" {
		t.Errorf("state %q", none.state)
	}
}

func TestOpenLibrary_FolderThatIsNotThere_IsAnError(t *testing.T) {
	o := &options{models: filepath.Join(t.TempDir(), "gone"), stated: true}
	if _, err := openLibrary(t.Context(), o, io.Discard); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
