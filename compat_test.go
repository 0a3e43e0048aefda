package modeltier_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/selector"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// recordedLibrary is the default library of the contract.
func recordedLibrary() []tier.Model {
	m := func(name string, gb float64, home tier.Tier, capabilities ...string) tier.Model {
		m := model(name, gb)
		m.Home, m.Capabilities = home, capabilities
		return m
	}
	return []tier.Model{
		m("gpt2-small", 0.5, tier.RAM, "text-generation", "fast"),
		m("gpt2-medium", 1.5, tier.RAM, "text-generation", "balanced"),
		m("gpt2-large", 3.0, tier.RAM, "text-generation", "quality"),
		m("bert-large", 1.3, tier.RAM, "text-classification", "embeddings"),
		m("gpt-j-6b", 6.0, tier.Swap, "text-generation", "high-quality"),
		m("llama-7b", 7.0, tier.Swap, "text-generation", "instruction-following"),
	}
}

func gbytes(gb float64) tier.Bytes {
	b, err := tier.FromGB(gb)
	if err != nil {
		panic(err)
	}
	return b
}

// wireRig is a Manager of the recorded library on a machine of the 8 GB board.
func wireRig(t *testing.T, availableGB, swapFreeGB float64) *rig {
	t.Helper()
	probe := tiertest.NewProbe(tier.Memory{
		Total: gbytes(7.4), Available: gbytes(availableGB), SwapTotal: gbytes(12), SwapFree: gbytes(swapFreeGB),
	})
	// Idle planning would add moves that are no answer to a request.
	r := newRig(t, modeltier.Config{Models: recordedLibrary(), Probe: probe, OptimizeEvery: -1})
	time.Sleep(time.Minute) // home tiers are filled
	return r
}

// ask sends one request of the contract and returns the answer's object.
func (r *rig) ask(request string) map[string]any {
	r.t.Helper()
	raw := r.HandleRequest(r.t.Context(), []byte(request))
	var answer map[string]any
	if err := json.Unmarshal(raw, &answer); err != nil {
		r.t.Fatalf("%s is answered with %q: %v", request, raw, err)
	}
	return answer
}

// await asks for the job until it has ended.
func (r *rig) await(query, job string) map[string]any {
	r.t.Helper()
	for range 1000 {
		a := r.ask(fmt.Sprintf(`{%q: %q}`, query, job))
		if s := a["status"]; s != "loading" && s != "running" {
			return a
		}
		time.Sleep(100 * time.Millisecond)
	}
	r.t.Fatalf("job %s does not end", job)
	return nil
}

type recording struct {
	Memory struct {
		Available float64 `json:"available_gb"`
		SwapFree  float64 `json:"swap_free_gb"`
	}
	Exchanges []struct {
		Request  json.RawMessage
		Response map[string]any
	}
}

// differs lists the recorded answers that the contract's list of differences
// changes, by recording and place: the number of the difference, and what is
// answered instead. An empty status means that only the words of the reason, or
// the state that it follows from, differ.
var differs = map[string]map[int]struct {
	difference int
	status     string
	code       string
	model      string
}{
	"full-day.json": {
		8:  {2, "error", "no_capable_model", ""}, // code-generation: no model has it
		9:  {2, "success", "", "bert-large"},     // embeddings: the one that has them
		18: {4, "error", "invalid_request", ""},  // a hot load without tier and capabilities
		19: {4, "error", "not_found", ""},        // … so there is no such job
		23: {difference: 1},                      // the reason's sum is of what is resident
		34: {1, "running|success", "", ""},       // if it had left ram before, only its home changes, at once
		38: {difference: 1},                      // use is within the limits: there is something to optimise
	},
	"low-memory.json": {
		4: {2, "error", "no_capable_model", ""}, // text-classification: the one that has it is unsafe
		5: {difference: 1},
	},
}

// The first recording is the project's own, written by hand from the contract.
func TestContract_Recordings_Replay(t *testing.T) {
	shared := filepath.Join("..", "shared", "wire")
	for _, path := range []string{filepath.Join("testdata", "short-day.json"), filepath.Join(shared, "full-day.json"), filepath.Join(shared, "low-memory.json")} {
		name := filepath.Base(path)
		t.Run(name, func(t *testing.T) {
			raw, err := os.ReadFile(path)
			if _, missing := os.Stat(shared); missing != nil && filepath.Dir(path) == shared {
				t.Skip("the recordings of the earlier system are not here: ../shared/wire is missing")
			} else if err != nil {
				t.Fatal(err)
			}
			var rec recording
			if err := json.Unmarshal(raw, &rec); err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) { replay(t, name, rec) })
		})
	}
}

func replay(t *testing.T, name string, rec recording) {
	r := wireRig(t, rec.Memory.Available, rec.Memory.SwapFree)
	jobs := map[string]string{} // recorded → ours
	for i, x := range rec.Exchanges {
		request := string(x.Request)
		for theirs, ours := range jobs {
			request = strings.ReplaceAll(request, theirs, ours)
		}
		want := x.Response
		var q map[string]any
		if err := json.Unmarshal([]byte(request), &q); err != nil {
			t.Fatal(err)
		}
		for _, query := range []string{"load_status", "tier_job_status"} {
			if job, ok := q[query].(string); ok && (want["status"] == "success" || want["status"] == "failed") {
				r.await(query, job)
			}
		}
		got := r.ask(request)
		if theirs, ok := want["job_id"].(string); ok && q["load_status"] == nil && q["tier_job_status"] == nil {
			if ours, ok := got["job_id"].(string); ok {
				jobs[theirs] = ours
			}
		}
		d, differs := differs[name][i]
		switch {
		case differs && d.status != "":
			if status, _ := got["status"].(string); !slices.Contains(strings.Split(d.status, "|"), status) || d.code != "" && got["code"] != d.code || d.model != "" && got["model"] != d.model {
				t.Errorf("%d %s: difference %d wants %+v, got %v", i, request, d.difference, d, got)
			}
			continue
		case !differs:
			for _, key := range []string{"status", "code", "model", "selection_reason", "reason", "operation", "source_tier", "target_tier", "model_name", "error"} {
				if want[key] != nil && got[key] != want[key] {
					t.Errorf("%d %s: %s is %q, recorded %q", i, request, key, got[key], want[key])
				}
			}
		case got["status"] != want["status"]:
			t.Errorf("%d %s: status %v, recorded %v", i, request, got["status"], want["status"])
		}
		sameShape(t, fmt.Sprintf("%d %s", i, request), got, want)
	}
}

// sameShape checks that every recorded key is present with its type, recursively.
func sameShape(t *testing.T, where string, got, want map[string]any) {
	t.Helper()
	for key, w := range want {
		g, ok := got[key]
		if !ok {
			t.Errorf("%s: %s is missing in %v", where, key, got)
			continue
		}
		if reflect.TypeOf(g) != reflect.TypeOf(w) {
			t.Errorf("%s: %s is %T, recorded %T", where, key, g, w)
			continue
		}
		if inner, ok := w.(map[string]any); ok {
			sameShape(t, where+"."+key, g.(map[string]any), inner)
		}
	}
}

// Virtual time passes only while something waits.
func TestContract_ErrorAfterAWait_SelectionTimeIsThatOfTheSelection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{
			Models: []tier.Model{model("a", 4), model("c", 60)},
			Limits: tier.Limits{RAM: 64 * tier.GiB, Swap: 64 * tier.GiB, Reserved: tier.GiB, MaxModel: 64 * tier.GiB},
			Mover:  &tiertest.Mover{Fault: func(tier.Move) error { return errors.New("broken") }},
			Probe:  slowly{tiertest.NewProbe(plenty)},
		})
		for _, request := range []string{`{"model": "a"}`, `{"model": "c"}`} {
			time.Sleep(10*time.Second + 650*time.Millisecond) // no reading is fresh
			began := time.Now()
			a := r.ask(request)
			if a["status"] != "error" || a["selection_time_ms"] != 0.0 {
				t.Errorf("%s: %v", request, a)
			}
			if time.Since(began) == 0 {
				t.Errorf("%s: nothing was waited for", request)
			}
		}
	})
}

func TestContract_Hybrid_FallsBackAndSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wireRig(t, 1.5, 1.95)
		a := r.ask(`{"preferred_model": "llama-7b", "fallback": "auto", "priority": "speed"}`)
		if a["status"] != "success" || a["model"] != "gpt2-small" || !strings.Contains(a["selection_reason"].(string), "llama-7b") {
			t.Errorf("%v", a)
		}
		if a = r.ask(`{"preferred_model": "llama-7b"}`); a["status"] != "error" {
			t.Errorf("without fallback: %v", a)
		}
		if a = r.ask(`{"preferred_model": "gpt2-small", "fallback": "auto"}`); a["model"] != "gpt2-small" || strings.Contains(a["selection_reason"].(string), "fell back") {
			t.Errorf("%v", a)
		}
	})
}

func TestContract_ContextEnds_IsAnAnswerToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var a map[string]any
		if err := json.Unmarshal(r.HandleRequest(ctx, []byte(`{"model": "a"}`)), &a); err != nil || a["code"] != "deadline_exceeded" {
			t.Errorf("%v, %v", a, err)
		}
	})
}

// The server's answers to the byte, reviewed by a person. They check the contract
// where the recordings of the earlier system are not available.
//
// A line of the script is a machine with its memory, a wait, or a request; the line
// below a request is its answer, in which times and job numbers are masked.
func TestContract_Golden_AnswersToTheByte(t *testing.T) {
	path := filepath.Join("testdata", "contract.golden")
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := runScript(t, string(want))
	if os.Getenv("MODELTIER_GOLDEN") == "write" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			t.Fatalf("line %d of %s, after %s:\n got %s\nwant %s", i+1, path, g[max(i, 1)-1], line(g, i), line(w, i))
		}
	}
}

func line(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}

// runScript returns the script with the answers that are given now.
func runScript(t *testing.T, script string) string {
	var out strings.Builder
	synctest.Test(t, func(t *testing.T) {
		var r *rig
		job := ""
		for line := range strings.Lines(script) {
			line = strings.TrimSuffix(line, "\n")
			if !strings.HasPrefix(line, "< ") {
				fmt.Fprintln(&out, line)
			}
			what, rest, _ := strings.Cut(line, " ")
			switch what {
			case "machine":
				var available, swap float64
				if _, err := fmt.Sscanf(rest, "available=%g swap=%g", &available, &swap); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				r = wireRig(t, available, swap)
			case "wait":
				d, err := time.ParseDuration(rest)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(d)
			case ">", ">>": // as it stands, and as a quoted Go string
				request := strings.ReplaceAll(rest, "$JOB", job)
				if what == ">>" {
					var err error
					if request, err = strconv.Unquote(rest); err != nil {
						t.Fatalf("%q: %v", line, err)
					}
				}
				answer := r.HandleRequest(t.Context(), []byte(request))
				if !json.Valid(answer) {
					t.Errorf("%s is answered with %q", line, answer)
				}
				if id := jobID.FindSubmatch(answer); id != nil {
					job = string(id[1])
				}
				fmt.Fprintf(&out, "< %s\n", mask(answer))
			}
		}
	})
	return out.String()
}

var (
	jobID     = regexp.MustCompile(`"job_id":"([^"]+)"`)
	jobNumber = regexp.MustCompile(`("job_id":"[^"]*_)[0-9]+"`)
	times     = regexp.MustCompile(`"(selection_time_ms|swap_time|elapsed_time)":[0-9.e+-]+`)
	estimates = regexp.MustCompile(`"estimated_time":("?)[0-9.e+-]+`)
)

// mask replaces what varies in an answer.
func mask(answer []byte) []byte {
	answer = jobNumber.ReplaceAll(answer, []byte(`${1}N"`))
	answer = estimates.ReplaceAll(answer, []byte(`"estimated_time":${1}0`))
	return times.ReplaceAll(answer, []byte(`"$1":0`))
}

func FuzzHandleRequest(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"model": "gpt2-small"}`, `{"capabilities": ["x"], "priority": "speed"}`, `{"tier_status": true}`,
		`{"hot_load": {"model_name": "x", "model_config": {"size_gb": 1, "tier": "ram", "capabilities": ["x"]}}}`,
		`{"move_tier": {"model_name": "gpt2-small", "target_tier": "swap"}}`, `{"update_limits": {"ram_max_gb": 6}}`,
		`{"preferred_model": "a", "fallback": "auto"}`, `{"list_models": true}`, `{"auto_optimize": true}`, `{"load_status": "x"}`, `{"a":`,
	} {
		f.Add([]byte(s))
	}
	m, err := modeltier.New(modeltier.Config{
		Models: recordedLibrary(), Probe: tiertest.NewProbe(plenty),
		Mover: &tiertest.Mover{Time: func(tier.Move) time.Duration { return 0 }},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { m.Close() })
	statuses := []any{"success", "loading", "running", "failed", "error", "hot_load_started", "tier_move_started", "hint_taken"}
	f.Fuzz(func(t *testing.T, request []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var a map[string]any
		raw := m.HandleRequest(ctx, request)
		if err := json.Unmarshal(raw, &a); err != nil {
			t.Fatalf("%q is answered with %q: %v", request, raw, err)
		}
		if !slices.Contains(statuses, a["status"]) {
			t.Fatalf("%q has the status %v", request, a["status"])
		}
		if a["status"] == "error" && (a["code"] == "" || a["code"] == "internal" || a["reason"] == "") {
			t.Fatalf("%q is answered with %s", request, raw)
		}
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestContract_ExplainAndConstraints_AreUnderstood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wireRig(t, 6.4, 10.95)
		a := r.ask(`{"capabilities": ["text-generation"], "priority": "speed", "explain": true}`)
		x, ok := a["explanation"].(map[string]any)
		if !ok || len(x["candidates"].([]any)) != 6 {
			t.Fatalf("%v", a)
		}
		if first := x["candidates"].([]any)[0].(map[string]any); first["model"] != a["model"] || first["eligible"] != true {
			t.Errorf("the first candidate is %v", first)
		}
		if a = r.ask(`{"constraints": ["context >= 8192"]}`); a["code"] != "no_capable_model" {
			t.Errorf("%v", a)
		}
		for _, request := range []string{
			`{"deadline_ms": -1}`, `{"deadline_ms": "5"}`, `{"deadline_ms": 1e300}`, `{"constraints": ["context >= much"]}`, `{"policy": "astrology"}`, `{"explain": 1}`,
		} {
			if a = r.ask(request); a["code"] != "invalid_request" {
				t.Errorf("%s: %v", request, a)
			}
		}
	})
}

// listener is a placement that records the last hint.
type listener struct {
	*optimizer.Learned
	last atomic.Value
}

type heard struct {
	model       string
	probability float64
	within      time.Duration
}

// Hint implements tier.Hinter.
func (l *listener) Hint(model string, probability float64, within time.Duration, _ time.Time) {
	l.last.Store(heard{model, probability, within})
}

func TestContract_Hint_ReachesThePlacementOrSaysWhyNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &listener{Learned: optimizer.New()}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}, Placement: l})
		for _, c := range []struct {
			hint, code string
			want       heard
		}{
			{`{"model_name": "a"}`, "", heard{"a", 1, time.Minute}},
			{`{"model_name": "a", "probability": 0.25, "within_s": 1.5}`, "", heard{"a", 0.25, 1500 * time.Millisecond}},
			{`{}`, "invalid_request", heard{}},
			{`{"model_name": "unknown"}`, "not_found", heard{}},
			{`{"model_name": "a", "probability": 0}`, "invalid_request", heard{}},
			{`{"model_name": "a", "probability": 1.5}`, "invalid_request", heard{}},
			{`{"model_name": "a", "within_s": 1e300}`, "invalid_request", heard{}},
			{`{"model_name": "a", "within_s": -1}`, "invalid_request", heard{}},
			{`{"model_name": "a", "soon": true}`, "invalid_request", heard{}},
		} {
			var answer struct{ Status, Code string }
			if err := json.Unmarshal(r.HandleRequest(t.Context(), []byte(`{"hint": `+c.hint+`}`)), &answer); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			switch {
			case answer.Code != c.code || (answer.Status == "hint_taken") != (c.code == ""):
				t.Errorf("%s: %+v, want code %q", c.hint, answer, c.code)
			case c.code == "" && l.last.Load() != c.want:
				t.Errorf("%s: heard %+v", c.hint, l.last.Load())
			}
		}
	})
}

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

func TestHandler_EveryPath_AnswersJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}, MaxBody: 100})
		r.use("a")
		ask := func(method, path, body string, status int, want string) {
			t.Helper()
			w := httptest.NewRecorder()
			r.Handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
			answer := w.Body.String()
			if w.Code != status || !strings.Contains(answer, want) || w.Header().Get("Content-Type") != "application/json" || !json.Valid([]byte(answer)) || !strings.HasSuffix(answer, "}\n") {
				t.Errorf("%s %s: %d %s %q, want %d and %s", method, path, w.Code, w.Header().Get("Content-Type"), answer, status, want)
			}
			if allow := w.Header().Get("Allow"); (status == http.StatusMethodNotAllowed) != (allow == "POST") {
				t.Errorf("%s %s: Allow is %q", method, path, allow)
			}
		}
		ask("POST", "/", `{"model": "a"}`, 200, `"selection_reason":"Explicit model 'a' selected"`)
		ask("POST", "/", `{"model": "b"}`, 200, `"code":"not_found"`)
		ask("POST", "/", `{"model": "a"} x`, 200, `Request is not valid JSON`)
		ask("POST", "/", strings.Repeat(" ", 101), http.StatusRequestEntityTooLarge, `"reason":"Request is larger than 100 bytes"`)
		ask("GET", "/", "", http.StatusMethodNotAllowed, `"reason":"Method GET is not for this path"`)
		ask("GET", "/nowhere", "", http.StatusNotFound, `"reason":"There is nothing at this path"`)
		ask("GET", "/v1/models", "", 200, `{"data":[{"id":"a","object":"model","owned_by":"modeltier","size_gb":2,`)
		ask("GET", "/status", "", 200, `"limits":{"ram":5368709120`)
		ask("GET", "/healthz", "", 200, `{"status":"ok"}`)
		ask("GET", "/readyz", "", 200, `{"status":"ready"}`)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		ask("GET", "/healthz", "", http.StatusServiceUnavailable, `"code":"closed"`)
		ask("GET", "/readyz", "", http.StatusServiceUnavailable, `"code":"closed"`)
		ask("POST", "/", `{"model": "a"}`, 200, `"code":"closed"`)
	})
}

func TestHandler_BodyBreaksOff_IsBadRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{})
		w := httptest.NewRecorder()
		body := io.MultiReader(strings.NewReader(`{"model`), errorReader{})
		r.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/", body))
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "The body did not come whole: unexpected EOF") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
