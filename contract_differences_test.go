package modeltier_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/selector"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// The contract lists where modeltier differs from the earlier system on purpose; a
// test named after its number holds each difference.

func TestContract_Difference1_LimitsHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wireRig(t, 6.4, 10.95)
		for range 3 {
			tiers := r.ask(`{"tier_status": true}`)["tiers"].(map[string]any)
			for name, v := range tiers {
				s := v.(map[string]any)
				if s["used_gb"].(float64) > s["limit_gb"].(float64) || s["utilization"].(float64) > 1 {
					t.Errorf("%s: %v", name, s)
				}
			}
			r.ask(`{"capabilities": ["text-classification"]}`)
			r.ask(`{"model": "llama-7b"}`)
		}
		models := r.ask(`{"list_models": true}`)["models"].(map[string]any)
		for _, m := range models {
			m := m.(map[string]any)
			if m["tier"] == nil || m["resident_tier"] == nil {
				t.Errorf("%v", m)
			}
		}
	})
}

func TestContract_Difference2_NeverAModelWithoutTheCapability(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wireRig(t, 1.5, 1.95)
		a := r.ask(`{"priority": "speed", "capabilities": ["embeddings"]}`)
		if a["status"] != "error" || a["code"] != "no_capable_model" {
			t.Errorf("%v", a)
		}
		a = r.ask(`{"capabilities": ["text-classify"]}`)
		if a["code"] != "no_capable_model" || !strings.Contains(fmt.Sprint(a["suggestions"]), "text-classification") {
			t.Errorf("the nearest capabilities are not named: %v", a)
		}
	})
}

func TestContract_Difference3_LimitsAllOrNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wireRig(t, 6.4, 10.95)
		if a := r.ask(`{"update_limits": {"ram_max_gb": 8, "swap_max_gb": 1}}`); a["status"] != "error" || a["code"] != "limits" {
			t.Errorf("%v", a)
		}
		a := r.ask(`{"update_limits": {}}`)
		if now := a["new_limits"].(map[string]any); now["ram_max_gb"] != 5.0 {
			t.Errorf("a refused change left %v", now)
		}
		l := r.get("gpt2-large")
		a = r.ask(`{"update_limits": {"ram_max_gb": 2}}`)
		if a["code"] != "limits" || !strings.Contains(fmt.Sprint(a["suggestions"]), "gpt2-large") {
			t.Errorf("%v", a)
		}
		l.Release()
		if a = r.ask(`{"update_limits": {"ram_max_gb": 2}}`); a["status"] != "success" {
			t.Errorf("%v", a)
		}
	})
}

func TestContract_Difference4_WhatCanBeSeenToBeWrongIsAnErrorAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wireRig(t, 6.4, 10.95)
		for _, request := range []string{
			`{"hot_load": {"model_name": "x", "model_config": {"size_gb": 1, "tier": "ram"}}}`,
			`{"hot_load": {"model_name": "x", "model_config": {"size_gb": "1", "tier": "ram", "capabilities": []}}}`,
			`{"hot_load": {"model_name": "x", "model_config": {"size_gb": 0, "tier": "ram", "capabilities": ["x"]}}}`,
			`{"hot_load": {"model_name": "x", "model_config": {"size_gb": -1, "tier": "ram", "capabilities": ["x"]}}}`,
			`{"hot_load": {"model_name": "x", "model_config": {"size_gb": NaN, "tier": "ram", "capabilities": ["x"]}}}`,
			`{"hot_load": {"model_name": "x", "model_config": {"size_gb": 1e300, "tier": "ram", "capabilities": ["x"]}}}`,
			`{"hot_load": {"model_name": "x", "model_config": {"size_gb": 1e999, "tier": "ram", "capabilities": ["x"]}}}`,
			`{"hot_load": {"model_name": "x", "model_config": {"size_gb": 1, "tier": "vram", "capabilities": ["x"]}}}`,
			`{"hot_load": {"model_name": "x", "model_config": {"size_gb": 1, "tier": "storage", "capabilities": ["x"]}}}`,
			`{"hot_load": {"model_name": "x", "model_config": {"size_gb": 1, "tier": "ram", "capabilities": ["x"], "colour": "red"}}}`,
			`{"hot_load": {"model_name": "x\u0000y", "model_config": {"size_gb": 1, "tier": "ram", "capabilities": ["x"]}}}`,
			`{"hot_load": {"model_name": "gpt2-small", "model_config": {"size_gb": 1, "tier": "ram", "capabilities": ["x"]}}}`,
			`{"hot_load": {"model_name": null, "model_config": null}}`,
			`{"hot_load": "x"}`,
			`{"move_tier": {"model_name": 7, "target_tier": "ram"}}`,
			`{"priority": "fastest"}`, `{"priority": null}`, `{"capabilities": "text-generation"}`, `{"capabilities": [null]}`,
			`{"model": ""}`, `{"model": null}`, `{"model": ["a"]}`, `{"auto_select": false}`, `{"auto_select": 1}`,
			`{"preferred_model": "llama-7b", "fallback": "manual"}`, `{"model": "llama-7b", "preferred_model": "gpt-j-6b"}`,
			`{"tier_status": "yes"}`, `{"load_status": 7}`, `{"colour": "red"}`,
			`{"update_limits": {"ram_max_gb": "5"}}`, `{"update_limits": {"ram_max_gb": 1e300}}`, `{"update_limits": {"ram_max_gb": -1}}`, `{"update_limits": {"vram_max_gb": 5}}`, `{"update_limits": 5}`,
		} {
			a := r.ask(request)
			if a["status"] != "error" || a["code"] != "invalid_request" && a["code"] != "exists" || a["suggestions"] == nil || len(a["suggestions"].([]any)) == 0 {
				t.Errorf("%s: %v", request, a)
			}
		}
		if n := len(r.ask(`{"list_models": true}`)["models"].(map[string]any)); n != 6 {
			t.Errorf("%d models are left", n)
		}
	})
}

func TestContract_HotLoadOfHalfAModel_SaysWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wireRig(t, 6.4, 10.95)
		for config, missing := range map[string]string{
			`{"size_gb": 1, "tier": "ram"}`: "capabilities", `{"tier": "ram", "capabilities": []}`: "size_gb or path", `{}`: "capabilities, size_gb or path, tier",
		} {
			a := r.ask(fmt.Sprintf(`{"hot_load": {"model_name": "x", "model_config": %s}}`, config))
			if help, _ := a["suggestions"].([]any); len(help) != 1 || !strings.HasSuffix(help[0].(string), "missing here: "+missing+".") {
				t.Errorf("%s: %v", config, a)
			}
		}
	})
}

// foreign is a selector with words of its own.
type foreign struct{ tier.Selector }

func (f foreign) Select(req *tier.Request, v *tier.View) (tier.Choice, error) {
	choice, err := f.Selector.Select(req, v)
	if short, ok := errors.AsType[*tier.CapacityError](err); ok {
		err = fmt.Errorf("foreign: %w", &tier.CapacityError{Model: short.Model, Tier: short.Tier, Need: short.Need, Free: short.Free, Limit: short.Limit, Never: short.Never})
	}
	return choice, err
}

func TestContract_HotLoadRefused_SentenceIsNotTheSelectors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, s := range []tier.Selector{selector.New(), foreign{selector.New()}} {
			r := newRig(t, modeltier.Config{Models: recordedLibrary(), Selector: s, OptimizeEvery: -1, Probe: tiertest.NewProbe(tier.Memory{
				Total: gbytes(7.4), Available: gbytes(1.5), SwapTotal: gbytes(12), SwapFree: gbytes(1.95),
			})})
			for config, want := range map[string]string{
				`{"size_gb": 2.5, "tier": "ram", "capabilities": []}`: "Unsafe to load: Insufficient RAM: need 2.5GB, have 1.5GB",
				`{"size_gb": 4, "tier": "swap", "capabilities": []}`:  "Unsafe to load: Insufficient capacity: need 4.0GB, have 3.5GB",
				`{"size_gb": 12, "tier": "swap", "capabilities": []}`: "Unsafe to load: Model too large: 12GB",
			} {
				job, _ := r.ask(fmt.Sprintf(`{"hot_load": {"model_name": "x", "model_config": %s}}`, config))["job_id"].(string)
				if a := r.ask(fmt.Sprintf(`{"load_status": %q}`, job)); a["status"] != "failed" || a["error"] != want {
					t.Errorf("%T, %s: %v, want %s", s, config, a, want)
				}
			}
		}
	})
}

func TestContract_ModelDir_HotLoadsComeFromItOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		for _, path := range []string{filepath.Join(dir, "models", "in.bin"), filepath.Join(dir, "out.bin")} {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("weights"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		r := newRig(t, modeltier.Config{ModelDir: filepath.Join(dir, "models")})
		for path, want := range map[string]any{"in.bin": "hot_load_started", "../out.bin": "error", filepath.Join(dir, "out.bin"): "error"} {
			a := r.ask(fmt.Sprintf(`{"hot_load": {"model_name": "x", "model_config": {"path": %q, "tier": "ram", "capabilities": []}}}`, path))
			if a["status"] != want || want == "error" && a["code"] != "invalid_request" {
				t.Errorf("%s: %v, want %v", path, a, want)
			}
			if m, ok := r.path("x"); ok && m != filepath.Join(dir, "models", "in.bin") {
				t.Errorf("the model's path is %s", m)
			}
		}
	})
}

func (r *rig) path(model string) (string, bool) {
	for m := range r.Models() {
		if m.Name == model {
			return m.Path, true
		}
	}
	return "", false
}

func TestContract_Difference5_JobNamesNeverCollide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wireRig(t, 6.4, 10.95)
		seen := map[any]bool{}
		for i := range 20 {
			a := r.ask(fmt.Sprintf(`{"hot_load": {"model_name": "m%d", "model_config": {"size_gb": 0.01, "tier": "swap", "capabilities": []}}}`, i/10*0+i))
			id, _ := a["job_id"].(string)
			if seen[id] || !strings.HasPrefix(id, fmt.Sprintf("load_m%d_", i)) {
				t.Errorf("job %q: %v", id, a)
			}
			seen[id] = true
		}
		a := r.ask(`{"move_tier": {"model_name": "gpt2-small", "target_tier": "swap"}}`)
		if id, _ := a["job_id"].(string); !strings.HasPrefix(id, "tier_demote_gpt2-small_") {
			t.Errorf("%v", a)
		}
	})
}

func TestContract_Difference6_SwapTimeIsWhatTheRequestWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wireRig(t, 6.4, 10.95)
		cold := r.ask(`{"model": "bert-large"}`)
		if cold["swap_executed"] != true || cold["swap_time"].(float64) < 1.9 || cold["tier"] != "ram" {
			t.Errorf("cold: %v", cold)
		}
		if warm := r.ask(`{"model": "bert-large"}`); warm["swap_executed"] != false || warm["swap_time"] != 0.0 {
			t.Errorf("warm: %v", warm)
		}
	})
}

func TestContract_Difference7_OneObjectOneOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wireRig(t, 6.4, 10.95)
		for _, request := range []string{
			``, ` `, `null`, `[]`, `7`, `"x"`, `{`, `{"model"`, `{"model": }`, `{"model": "a"`, `{} {}`, `{"model": "gpt2-small"} x`,
			`{"model": "gpt2-small", "model": "gpt2-small"}`, `{"tier_status": true, "list_models": true}`,
			`{"model": "gpt2-small", "tier_status": true}`,
			`{"move_tier": {"model_name": "gpt2-small", "model_name": "gpt2-large", "target_tier": "swap"}}`,
			`{"capabilities": [` + strings.Repeat(`"x",`, 10000) + `"x"]}`,
			`{"model": "` + strings.Repeat("x", 1<<20) + `"}`,
			strings.Repeat(`{"hot_load":`, 20000),
		} {
			a := r.ask(request)
			if a["status"] != "error" || a["code"] != "invalid_request" {
				t.Errorf("%.60s: %v", request, a)
			}
		}
	})
}
