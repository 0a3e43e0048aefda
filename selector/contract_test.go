package selector

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// The recordings of the wire contract, read as far as they concern selection.
type recording struct {
	Memory struct {
		Available float64 `json:"available_gb"`
		SwapFree  float64 `json:"swap_free_gb"`
	} `json:"memory"`
	Exchanges []struct {
		Request struct {
			Model        string        `json:"model"`
			Preferred    string        `json:"preferred_model"`
			Fallback     string        `json:"fallback"`
			AutoSelect   bool          `json:"auto_select"`
			Capabilities []string      `json:"capabilities"`
			Priority     tier.Priority `json:"priority"`
			HotLoad      *struct {
				Name   string `json:"model_name"`
				Config struct {
					Size         float64   `json:"size_gb"`
					Tier         tier.Tier `json:"tier"`
					Capabilities []string  `json:"capabilities"`
				} `json:"model_config"`
			} `json:"hot_load"`
			MoveTier *struct {
				Name string    `json:"model_name"`
				To   tier.Tier `json:"target_tier"`
			} `json:"move_tier"`
			ListModels    bool            `json:"list_models"`
			TierStatus    bool            `json:"tier_status"`
			AutoOptimize  bool            `json:"auto_optimize"`
			LoadStatus    string          `json:"load_status"`
			TierJobStatus string          `json:"tier_job_status"`
			UpdateLimits  json.RawMessage `json:"update_limits"`
		} `json:"request"`
		Response struct {
			Status string `json:"status"`
			Model  string `json:"model"`
			Name   string `json:"model_name"`
			Reason string `json:"reason"`
			Chosen string `json:"selection_reason"`
			JobID  string `json:"job_id"`
		} `json:"response"`
	} `json:"exchanges"`
}

// The recordings of an earlier system, which lie beside the repository and not in it.
func TestRecordings_EverySelection_SameModelAndReason(t *testing.T) {
	const folder = "../../shared/wire"
	if _, err := os.Stat(folder); err != nil {
		t.Skipf("the recordings of the earlier system are not here; testdata/wire is replayed without them: %v", err)
	}
	replayAll(t, folder)
}

// What the text of the wire contract says of the default library, worked out by
// hand.
func TestContract_EverySelection_SameModelAndReason(t *testing.T) {
	replayAll(t, filepath.Join("testdata", "wire"))
}

func replayAll(t *testing.T, folder string) {
	files, _ := filepath.Glob(filepath.Join(folder, "*.json"))
	if len(files) == 0 {
		t.Errorf("%s has no recordings", folder)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if replay(t, text) < 3 {
				t.Error("hardly any selection in the recording")
			}
		})
	}
}

// replay returns how many selections it compared.
func replay(t *testing.T, text []byte) (compared int) {
	var rec recording
	if err := json.Unmarshal(lenient(t, text), &rec); err != nil {
		t.Fatal(err)
	}
	lib := newLibrary(t, recordedModels()...)
	jobs := make(map[string]tier.Model) // hot loads under way
	s := New()
	for i, x := range rec.Exchanges {
		req, resp := &x.Request, &x.Response
		switch {
		case req.HotLoad != nil:
			size, _ := tier.FromGB(req.HotLoad.Config.Size)
			jobs[resp.JobID] = tier.Model{
				Name: req.HotLoad.Name, Size: size, Home: req.HotLoad.Config.Tier, Capabilities: req.HotLoad.Config.Capabilities,
			}
			continue
		case req.LoadStatus != "":
			if m, ok := jobs[req.LoadStatus]; ok && resp.Status == "success" {
				lib = lib.With(m)
			}
			continue
		case req.MoveTier != nil:
			if j, ok := lib.Find(req.MoveTier.Name); ok && resp.Status == "tier_move_started" {
				m := *lib.At(j)
				m.Home = req.MoveTier.To
				lib = lib.With(m)
			}
			continue
		case req.ListModels, req.TierStatus, req.AutoOptimize, req.TierJobStatus != "", req.UpdateLimits != nil:
			continue
		}
		available, _ := tier.FromGB(rec.Memory.Available)
		swap, _ := tier.FromGB(rec.Memory.SwapFree)
		v := remember(viewOf(lib), available, swap)
		r := tier.Request{
			Model: req.Model, Preferred: req.Preferred, Fallback: req.Fallback == "auto", Capabilities: req.Capabilities, Priority: req.Priority,
		}
		c, err := s.Select(&r, v)
		compared++
		if resp.Status == "error" {
			if err == nil || err.Error() != resp.Reason {
				t.Errorf("exchange %d: got error %v, recorded %q", i, err, resp.Reason)
			}
			continue
		}
		j, _ := lib.Find(resp.Model)
		if r.Model == "" && r.Preferred == "" && !lib.At(j).Can(r.Capabilities) {
			// The difference on purpose: a model without the capability never answers.
			if err == nil && !lib.At(c.Index).Can(r.Capabilities) || err != nil && !errors.Is(err, tier.ErrNoCapableModel) {
				t.Errorf("exchange %d: got %+v, %v, want a capable model or none", i, c, err)
			}
			continue
		}
		if err != nil || c.Model != resp.Model || c.Reason() != resp.Chosen {
			t.Errorf("exchange %d: got %q (%s), %v; recorded %q (%s)", i, c.Model, c.Reason(), err, resp.Model, resp.Chosen)
		}
	}
	return compared
}

// lenient drops the exchanges that do not name a tier or priority correctly:
// faults that never reach a selector.
func lenient(t *testing.T, text []byte) []byte {
	var raw struct {
		Memory    json.RawMessage   `json:"memory"`
		Exchanges []json.RawMessage `json:"exchanges"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		t.Fatal(err)
	}
	kept := raw.Exchanges[:0]
	for _, x := range raw.Exchanges {
		var probe recording
		if json.Unmarshal([]byte(`{"exchanges":[`+string(x)+`]}`), &probe) == nil {
			kept = append(kept, x)
		}
	}
	raw.Exchanges = kept
	out, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestConformance(t *testing.T) {
	t.Run("default", func(t *testing.T) { tiertest.TestSelector(t, New()) })
	t.Run("adaptive", func(t *testing.T) { tiertest.TestSelector(t, NewAdaptive()) })
	t.Run("adaptive by default", func(t *testing.T) { tiertest.TestSelector(t, mustNew(t, Options{Policy: PolicyAdaptive})) })
}
