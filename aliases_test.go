package modeltier_test

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// aliased is a configuration of two models, of which a is called chat.
func aliased() modeltier.Config {
	cfg := onlyRAM(model("a", 1), model("b", 1))
	cfg.Aliases = map[string]string{"chat": "a"}
	return cfg
}

// wantServes checks which model answers to a name.
func (r *rig) wantServes(name, want string) {
	r.t.Helper()
	l, err := r.Acquire(r.t.Context(), modeltier.Request{Model: name})
	if err != nil {
		r.t.Errorf("%s: %v, want %s", name, err, want)
		return
	}
	defer l.Release()
	if got := l.Model().Name; got != want {
		r.t.Errorf("%s is served by %s, want %s", name, got, want)
	}
}

func TestAlias_WhereverANameIsTaken_StandsForItsModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, aliased())
		r.wantServes("chat", "a")
		if c, err := r.Select(modeltier.Request{Preferred: "chat", Fallback: true}); err != nil || c.Model != "a" || c.FellBack {
			t.Errorf("preferred: %+v, %v", c, err)
		}
		if s, ok := r.Model("chat"); !ok || s.Name != "a" || !slices.Equal(s.Aliases, []string{"chat"}) {
			t.Errorf("Model: %+v, %v", s, ok)
		}
		if err := r.Hint("chat", 1, time.Minute); err != nil {
			t.Errorf("Hint: %v", err)
		}
		if err := r.SetPinned(t.Context(), "chat", true); err != nil || !r.model("a").Pinned {
			t.Errorf("SetPinned: %v", err)
		}
		job := order(t)(r.MoveTier(t.Context(), "chat", tier.Storage))
		if err := job.Wait(t.Context()); err != nil || job.Model() != "a" {
			t.Errorf("MoveTier: a job of %s, %v", job.Model(), err)
		}
		r.use("a")
		if err := r.ReportCrash("chat", nil); err != nil {
			t.Errorf("ReportCrash: %v", err)
		}
		synctest.Wait()
		r.wantAt("a", tier.Storage)
		if err := order(t)(r.Unload(t.Context(), "chat")).Wait(t.Context()); err != nil {
			t.Errorf("Unload: %v", err)
		}
		_, err := r.HotLoad(t.Context(), model("chat", 1))
		if !errors.Is(err, modeltier.ErrExists) || !strings.Contains(err.Error(), "alias") || !strings.Contains(strings.Join(tier.Suggestions(err), " "), "remove the alias") {
			t.Errorf("a hot load takes the name: %v, %q", err, tier.Suggestions(err))
		}
		_, err = r.Remove(t.Context(), "chat")
		if !errors.Is(err, tier.ErrInvalid) || !strings.Contains(strings.Join(tier.Suggestions(err), " "), "the alias alone") {
			t.Errorf("Remove of an alias: %v, %q", err, tier.Suggestions(err))
		}
		if err := order(t)(r.Remove(t.Context(), "a")).Wait(t.Context()); err != nil {
			t.Errorf("Remove: %v", err)
		}
		if _, there := r.Model("a"); there {
			t.Error("a is there still")
		}
	})
}

func TestSetAlias_OfAnotherModel_SwitchesAndLeasesGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, aliased())
		l := r.get("a")
		defer l.Release()
		if err := r.SetAlias(t.Context(), "chat", "b"); err != nil {
			t.Fatal(err)
		}
		if l.Model().Name != "a" {
			t.Error("the lease is on another model")
		}
		r.wantServes("chat", "b")
		if err := r.SetAlias(t.Context(), "best", "chat"); err != nil { // by an alias, its model is meant
			t.Fatal(err)
		}
		if err := r.SetAlias(t.Context(), "chat", ""); err != nil {
			t.Fatal(err)
		}
		r.wantServes("best", "b")
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "chat"}); !errors.Is(err, modeltier.ErrNotFound) {
			t.Errorf("an alias that was removed: %v", err)
		}
		if got := r.Status().Aliases; !maps.Equal(got, map[string]string{"best": "b"}) {
			t.Errorf("Status shows %v", got)
		}
	})
}

func TestSetAlias_Wrong_IsNamedAndChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, aliased())
		for _, c := range []struct {
			alias, model string
			is           error
			names        string
		}{
			{"b", "a", modeltier.ErrExists, "'b'"},
			{"auto", "a", modeltier.ErrInvalid, "auto"},
			{"", "a", modeltier.ErrInvalid, "empty"},
			{"x\ny", "a", modeltier.ErrInvalid, "printable"},
			{"x", "c", modeltier.ErrNotFound, "'c'"},
			{"x", "", modeltier.ErrNotFound, "'x'"},
		} {
			if err := r.SetAlias(t.Context(), c.alias, c.model); !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.names) || len(tier.Suggestions(err)) == 0 {
				t.Errorf("%q of %q: %v, want %v that names %s", c.alias, c.model, err, c.is, c.names)
			}
		}
		if got := r.Status().Aliases; !maps.Equal(got, map[string]string{"chat": "a"}) {
			t.Errorf("Status shows %v", got)
		}
	})
}

func TestNew_WrongAliasesAndTheNameAuto_AreAllNamed(t *testing.T) {
	cfg := modeltier.Config{Models: []tier.Model{model("a", 1)}, Aliases: map[string]string{"a": "a", "auto": "a", "x": "nobody"}}
	_, err := modeltier.New(cfg)
	for _, want := range []string{"'a' already exists", `"auto"`, `"x"`, "'nobody'"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	if _, err := modeltier.New(modeltier.Config{Models: []tier.Model{model("auto", 1)}}); !errors.Is(err, modeltier.ErrInvalid) {
		t.Errorf("a model called auto: %v", err)
	}
}

func TestAlias_ItsModelIsRemoved_SaysSoUntilOneOfThatNameComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, aliased())
		if err := order(t)(r.Remove(t.Context(), "a")).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "chat"})
		if !errors.Is(err, modeltier.ErrNotFound) || !strings.Contains(err.Error(), "alias of 'a'") || len(tier.Suggestions(err)) == 0 {
			t.Errorf("%v, %q", err, tier.Suggestions(err))
		}
		again := model("a", 2)
		again.Home = tier.RAM
		if err := order(t)(r.HotLoad(t.Context(), again)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantServes("chat", "a")
	})
}

func TestReconfigure_ModelWithTheNameOfAnAlias_IsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, aliased())
		_, err := r.Reconfigure(t.Context(), []tier.Model{model("a", 1), model("chat", 1)}, tier.Limits{})
		if !errors.Is(err, modeltier.ErrExists) {
			t.Errorf("%v, want ErrExists", err)
		}
		r.wantServes("b", "b")
		r.wantServes("chat", "a")

		// The name of a model that was removed while running is free.
		if err := order(t)(r.Remove(t.Context(), "b")).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.SetAlias(t.Context(), "b", "a"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Reconfigure(t.Context(), []tier.Model{able(model("a", 1), "embeddings"), model("b", 1)}, tier.Limits{Swap: tier.None}); err != nil {
			t.Error(err)
		}
		r.wantServes("b", "a")
	})
}

func TestUnknownName_NearMisses_AreSuggested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("Llama-3.2-1B-Instruct", 1), model("modèle-é", 1), model("bert", 1))
		cfg.Aliases = map[string]string{"My Chat": "bert"}
		r := newRig(t, cfg)
		for typed, want := range map[string]string{
			"llama_3.2_1b_instruct": "Llama-3.2-1B-Instruct", "LLAMA 3 2 1B INSTRUCT": "Llama-3.2-1B-Instruct",
			"Ｌｌａｍａ-3.2-1B-Instruct": "Llama-3.2-1B-Instruct",
			"mode\u0300le-e\u0301":  "modèle-é",
			"my-chat":               "My Chat",
		} {
			for _, err := range []error{
				func() error { _, err := r.Select(modeltier.Request{Model: typed}); return err }(),
				r.SetPinned(t.Context(), typed, true),
			} {
				if nf, ok := errors.AsType[*tier.NotFoundError](err); !ok || !slices.Equal(nf.Nearby, []string{want}) {
					t.Errorf("%q: %v, %q, want %q", typed, err, tier.Suggestions(err), want)
				}
			}
		}
	})
}

func TestRestart_AliasesAndPins_AreAsTheyWereLeft(t *testing.T) {
	cfg := crashConfig(t.TempDir())
	cfg.Aliases = map[string]string{"chat": "a", "old": "a", "gone": "c"}
	cfg.Models[1].Pinned = true
	ctx := t.Context()
	start := func() *modeltier.Manager {
		m, err := modeltier.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	do := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	check := func(m *modeltier.Manager, pins string, aliases map[string]string) {
		t.Helper()
		got := ""
		for s := range m.Models() {
			if s.Pinned {
				got += s.Name
			}
		}
		if all := m.Status().Aliases; got != pins || !maps.Equal(all, aliases) {
			t.Errorf("pinned %q, aliases %v, want %q and %v", got, all, pins, aliases)
		}
	}
	m := start()
	check(m, "b", cfg.Aliases)
	h := model("h", 1)
	do(order(t)(m.HotLoad(ctx, h)).Wait(ctx), m.SetPinned(ctx, "h", true), m.SetPinned(ctx, "a", true), m.SetPinned(ctx, "b", false),
		m.SetAlias(ctx, "chat", "b"), m.SetAlias(ctx, "old", ""), m.SetAlias(ctx, "new", "h"),
		order(t)(m.Remove(ctx, "c")).Wait(ctx))
	left := map[string]string{"chat": "b", "new": "h", "gone": "c"}
	for range 2 { // also what was kept of what was kept
		check(m, "ah", left)
		do(m.Close())
		m = start()
	}
	check(m, "ah", left)

	// A configuration that says what it said keeps them; the rest of it may change.
	models := slices.Clone(cfg.Models)
	models[0].Capabilities = []string{"embeddings"}
	if _, err := m.Reconfigure(ctx, models, cfg.Limits); err != nil {
		t.Fatal(err)
	}
	check(m, "ah", left)

	// One that says something else is the newer word.
	do(m.Close())
	cfg.Aliases = map[string]string{"chat": "a", "old": "b", "h2": "a"}
	cfg.Models[0].Pinned = true
	m = start()
	check(m, "ah", map[string]string{"chat": "b", "old": "b", "new": "h", "h2": "a"})

	// A model of that name takes its name back, for as long as it is there.
	do(m.Close())
	cfg.Models = append(cfg.Models, model("new", 1))
	m = start()
	check(m, "ah", map[string]string{"chat": "b", "old": "b", "h2": "a", "new": "h"})
	if s, ok := m.Model("new"); !ok || s.Name != "new" {
		t.Errorf("new is %q", s.Name)
	}
}

func TestRestart_NameOfARemovedModelIsAnAlias_StaysSo(t *testing.T) {
	cfg := crashConfig(t.TempDir())
	ctx := t.Context()
	for i := range 3 {
		m, err := modeltier.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := errors.Join(order(t)(m.Remove(ctx, "b")).Wait(ctx), m.SetAlias(ctx, "b", "a")); err != nil {
				t.Error(err)
			}
		}
		if s, ok := m.Model("b"); !ok || s.Name != "a" {
			t.Errorf("start %d: b is %q, want the alias of a", i, s.Name)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestWire_ByAlias_AnswersTellTheModelsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("large", 1))
		cfg.Aliases = map[string]string{"chat": "large"}
		r := newRig(t, cfg)
		for _, request := range []string{
			`{"pin": {"model_name": "chat", "pinned": true}}`, `{"hint": {"model_name": "chat"}}`, `{"alias": {"name": "talk", "model_name": "chat"}}`,
			`{"move_tier": {"model_name": "chat", "target_tier": "ram"}}`,
		} {
			var a struct {
				Name string `json:"model_name"`
			}
			answer := r.HandleRequest(t.Context(), []byte(request))
			if err := json.Unmarshal(answer, &a); err != nil || a.Name != "large" {
				t.Errorf("%s: %s", request, answer)
			}
		}
	})
}

// Its last lease has not ended: it is listed still, and not known any more.
func TestNearMiss_ModelIsAboutToLeave_IsNotSuggestedInPlaceOfItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 1), model("other", 1))
		r := newRig(t, cfg)
		defer r.get("a").Release()
		r.reconfigured(cfg.Limits, model("other", 1))
		err := r.begin("a").refused(modeltier.ErrNotFound, 0)
		if help := tier.Suggestions(err); slices.ContainsFunc(help, func(s string) bool { return strings.Contains(s, "Did you mean a") }) {
			t.Errorf("%q", help)
		}
		if err := r.SetPinned(t.Context(), "a", true); !errors.Is(err, modeltier.ErrNotFound) || slices.ContainsFunc(tier.Suggestions(err), func(s string) bool { return strings.Contains(s, "Did you mean a") }) {
			t.Errorf("%v: %q", err, tier.Suggestions(err))
		}
	})
}
