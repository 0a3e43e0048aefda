package ctl

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

func TestLoad_ModelInStorage_IsReadyAndTold(t *testing.T) {
	l := serveModels(t)
	run := at(t, l.url)
	got := run("load", "small")
	if got.code != exitDone || !strings.HasPrefix(got.out, "small is ready in ram after ") {
		t.Errorf("%+v", got)
	}
	if got = run("load", "small"); got.out != "small is ready in ram\n" {
		t.Errorf("a second time: %+v", got)
	}
	if got := decode[struct{ Model, Tier string }](t, run("load", "--json", "small")); got.Model != "small" || got.Tier != "ram" {
		t.Errorf("%+v", got)
	}
}

func TestLoad_Refused_HasReasonCodeAndSuggestions(t *testing.T) {
	run := at(t, serveModels(t).url)
	golden(t, "load_mistyped", run("load", "lage"))
	got := run("-json", "load", "lage")
	if f := decode[Failure](t, got); got.code != exitFailed || f.Status != "error" || f.Code != "not_found" || len(f.Suggestions) != 1 || got.stderr != "" {
		t.Errorf("%+v", got)
	}
}

// A person sees how far a load is, whatever of the server's pages tells it.
func TestLoad_ThatTakesTime_TellsProgress(t *testing.T) {
	l := serveModels(t)
	hold := make(chan struct{})
	l.hold.Store(&hold)
	run := at(t, l.url)
	done := make(chan outcome, 1)
	go func() { done <- run("load", "large") }()
	until20s(t, "the load is waited for", func() bool { m, _ := l.Model("large"); return m.Waiters == 1 })
	polls := modeltierWith(t.Context(), "ps")
	if !strings.Contains(polls.out, "large") || !strings.Contains(polls.out, "1 waiting") {
		t.Errorf("ps meanwhile: %s", polls.out)
	}
	ctx, s := t.Context(), &session{client: mustConnect(t, l.url), err: os.Stderr}
	until20s(t, "the phase of the load", func() bool { at := s.loading(ctx, "large"); return at != nil && at.Phase == tier.Loading.String() })
	close(hold)
	if got := <-done; got.code != exitDone || !strings.HasPrefix(got.out, "large is ready in ram after ") {
		t.Errorf("%+v", got)
	}
}

func mustConnect(t *testing.T, url string) *client {
	t.Helper()
	c, err := newClient(url, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoad_Withdrawn_NoRequestWaits(t *testing.T) {
	for name, end := range map[string]func(*testing.T) (context.Context, []string, int, string){
		"by a signal": func(t *testing.T) (context.Context, []string, int, string) {
			ctx, cancel := context.WithCancelCause(t.Context())
			t.Cleanup(func() { cancel(nil) })
			return context.WithValue(ctx, cancelKey{}, func() { cancel(interrupted{os.Interrupt}) }), nil, 130, "withdrawn"
		},
		"by --timeout": func(t *testing.T) (context.Context, []string, int, string) {
			return t.Context(), []string{"--timeout", "300ms"}, exitFailed, "(deadline_exceeded)"
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := serveModels(t)
			hold := make(chan struct{})
			l.hold.Store(&hold)
			defer close(hold)
			at(t, l.url)
			ctx, more, code, words := end(t)
			done := make(chan outcome, 1)
			go func() { done <- modeltierWith(ctx, append([]string{"load", "large"}, more...)...) }()
			until20s(t, "the load has begun", func() bool { m, _ := l.Model("large"); return m.Moving })
			if cancel, ok := ctx.Value(cancelKey{}).(func()); ok {
				cancel()
			}
			if got := <-done; got.code != code || !strings.Contains(got.stderr, words) {
				t.Errorf("%+v", got)
			}
			until20s(t, "no request waits", func() bool { return l.Status().Waiting == 0 })
		})
	}
}

type cancelKey struct{}

func TestUnload_Several_TellsOfEach(t *testing.T) {
	l := serveModels(t)
	run := at(t, l.url)
	run("load", "small")
	run("load", "words")
	got := run("unload", "small", "wods", "words")
	golden(t, "unload_several", got)
	if got.code != exitFailed {
		t.Errorf("exits with %d", got.code)
	}
	for _, name := range []string{"small", "words"} {
		if m, _ := l.Model(name); m.Tier != tier.Storage {
			t.Errorf("%s is in %v", name, m.Tier)
		}
	}
}

func TestUnload_All_LeavesNothingInMemory(t *testing.T) {
	l := serveModels(t)
	run := at(t, l.url)
	run("load", "small")
	run("load", "words")
	run("pin", "words")
	got := decode[struct {
		Results []struct {
			Model  string `json:"model_name"`
			Status string
		}
	}](t, run("unload", "-all", "--json"))
	if len(got.Results) != 2 || got.Results[0].Status != "success" || got.Results[1].Model != "words" {
		t.Errorf("%+v", got)
	}
	if got := run("unload", "--all"); got.out != "Nothing is in memory.\n" {
		t.Errorf("a second time: %+v", got)
	}
	for _, wrong := range [][]string{{"unload"}, {"unload", "--all", "small"}} {
		if got := run(wrong...); got.code != exitUsage {
			t.Errorf("%v: %+v", wrong, got)
		}
	}
}

func TestUnload_ModelInUse_WaitsOrIsRefused(t *testing.T) {
	l := serveModels(t)
	run := at(t, l.url)
	lease, err := l.Acquire(t.Context(), modeltier.Request{Model: "small"})
	if err != nil {
		t.Fatal(err)
	}
	if got := run("unload", "--now", "small"); got.code != exitFailed || !strings.Contains(got.stderr, "(in_use)") {
		t.Errorf("%+v", got)
	}
	done := make(chan outcome, 1)
	posted := l.posts.Load()
	go func() { done <- run("unload", "small") }()
	until20s(t, "it is asked for how far that is", func() bool { return l.posts.Load() > posted+1 })
	lease.Release()
	if got := <-done; got.code != exitDone || !strings.HasSuffix(got.out, "small is unloaded from ram\n") {
		t.Errorf("%+v", got)
	}
}

func TestMove_IsMadeAndTold(t *testing.T) {
	l := serveModels(t)
	run := at(t, l.url)
	if got := run("move", "small", "ram"); got.code != exitDone || !strings.HasPrefix(got.out, "small is in ram after ") {
		t.Errorf("%+v", got)
	}
	if got := run("move", "small", "ram"); got.code != exitDone || got.out != "small is in ram already\n" {
		t.Errorf("a second time: %+v", got)
	}
	got := decode[job](t, run("move", "small", "storage", "--json"))
	if got.Status != "success" || got.From != "ram" || got.To != "storage" || got.ID == "" {
		t.Errorf("%+v", got)
	}
	if got := run("move", "small", "disk"); got.code != exitUsage || !strings.Contains(got.stderr, `"disk"`) {
		t.Errorf("%+v", got)
	}
}

func TestPinAndRm_AreDone(t *testing.T) {
	l := serveModels(t)
	run := at(t, l.url)
	if got := run("pin", "small", "words"); got.out != "small is pinned\nwords is pinned\n" {
		t.Errorf("%+v", got)
	}
	if m, _ := l.Model("small"); !m.Pinned {
		t.Error("it is not")
	}
	if got := run("unpin", "small"); got.out != "small is not pinned\n" {
		t.Errorf("%+v", got)
	}
	if got := run("rm", "small"); got.out != "small is removed from the library; its file stays\n" || got.code != exitDone {
		t.Errorf("%+v", got)
	}
	if _, ok := l.Model("small"); ok {
		t.Error("it is still there")
	}
}

func TestLimits_AreChanged(t *testing.T) {
	l := serveModels(t)
	run := at(t, l.url)
	golden(t, "limits_changed", run("limits", "-ram", "4GiB", "--reserve=512MiB"))
	if got := l.Status().Limits; got.RAM != 4*gib || got.Reserved != gib/2 {
		t.Errorf("%+v", got)
	}
	if got := run("limits", "-ram", "4"); got.code != exitUsage || !strings.Contains(got.stderr, "did you mean 4GiB?") {
		t.Errorf("%+v", got)
	}
	got := decode[struct {
		New map[string]float64 `json:"new_limits"`
	}](t, run("limits", "--ram", "4.5GB", "--json"))
	if got.New["ram_max_gb"] != 4.5 {
		t.Errorf("%+v", got)
	}
}

func TestOptimize_TellsWhatWasStarted(t *testing.T) {
	run := at(t, serveModels(t).url)
	if got := run("optimize"); got.code != exitDone || got.out != "Nothing is worth moving now.\n" {
		t.Errorf("%+v", got)
	}
	if got := decode[map[string]any](t, run("optimize", "--json")); got["status"] != "success" {
		t.Errorf("%+v", got)
	}
}
