package serve

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
	"github.com/modeltier/modeltier/tier"
)

// A second engine comes by a reload. Which of the two serves a hot load is said on the
// wire, kept across a restart, and listed.
func TestHotLoad_SeveralEngines_ServedByTheOneThatItNames(t *testing.T) {
	f := newFront(t)
	f.config["state"] = t.TempDir()
	f.write(t)
	path, config := f.path, f.config
	f = serveFront(t, &options{env: noEnv, config: path})
	f.path, f.config = path, config
	engines := f.config["engines"].(map[string]any)
	other := maps.Clone(engines["fake"].(map[string]any))
	other["slots"] = 3
	engines["other"] = other
	models := f.config["models"].([]map[string]any)
	for _, m := range models {
		m["engine"] = "fake"
	}
	f.write(t)
	if got := f.reload(t); got != "reloaded: settings\n" {
		t.Error(got)
	}

	const rest = `"path": "small.bin", "runtime_gb": 0.1, "tier": "ram", "capabilities": []`
	if a := f.contract(t, `{"hot_load": {"model_name": "hot", "model_config": {`+rest+`}}}`); a.Code != "invalid_request" || !strings.Contains(a.Reason, "engine") || !strings.Contains(a.Reason, "fake, other") {
		t.Errorf("without an engine: %+v", a)
	}
	if a := f.contract(t, `{"hot_load": {"model_name": "hot", "model_config": {"engine": "othr", `+rest+`}}}`); a.Code != "invalid_request" || !slices.Contains(a.Suggestions, "Did you mean other?") {
		t.Errorf("with an unknown engine: %+v", a)
	}
	if a := f.contract(t, `{"hot_load": {"model_name": "hot", "model_config": {"engine": "other", `+rest+`}}}`); a.Status != "hot_load_started" {
		t.Fatalf("%+v", a)
	}
	served := func(f *front) {
		t.Helper()
		if res := f.post(t, t.Context(), "/v1/completions", `{"model":"hot","prompt":"x"}`); res.StatusCode != http.StatusOK {
			t.Errorf("%d %s", res.StatusCode, enginetest.Whole(t, res))
		}
		s, _ := f.m.Model("hot")
		if e, err := f.engines.EngineOf(&tier.Model{Mover: s.Mover}); err != nil || e.Slots != 3 {
			t.Errorf("it is served by %q: %+v, %v", s.Mover, e, err)
		}
		if a := f.contract(t, `{"list_models": true}`); a.Models["hot"].Engine != "other" || a.Models["small"].Engine != "fake" {
			t.Errorf("%+v", a.Models)
		}
	}
	served(f)
	f.Close()
	if err := f.m.Close(); err != nil {
		t.Fatal(err)
	}
	served(serveFront(t, &options{env: noEnv, config: f.path}))
}

type contractAnswer struct {
	Status, Code, Reason string
	Suggestions          []string
	Models               map[string]struct{ Engine string }
}

// contract asks in the JSON contract.
func (f *front) contract(t *testing.T, request string) (a contractAnswer) {
	t.Helper()
	if err := json.Unmarshal([]byte(enginetest.Whole(t, f.post(t, t.Context(), "/", request))), &a); err != nil {
		t.Fatal(err)
	}
	return a
}
