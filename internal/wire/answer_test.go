package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

func view(t *testing.T, models ...tier.Model) *tier.View {
	t.Helper()
	lib, err := tier.NewLibrary(models)
	if err != nil {
		t.Fatal(err)
	}
	return &tier.View{Library: lib, States: make([]tier.State, len(models)), Limits: tier.DefaultLimits()}
}

func TestAnswers_ToTheByte(t *testing.T) {
	v := view(t, tier.Model{Name: `a"<b>`, Size: 3 * tier.GiB / 2, Home: tier.Swap, Capabilities: []string{"é"}}, tier.Model{Name: "b", Size: 1})
	labelled := view(t, tier.Model{Name: "a", Size: tier.GiB, Labels: map[string]string{"format": "gguf", "b<": `"`, tier.ProjectorLabel: "/p/mmproj.gguf"}})
	v.States[0].Tier = tier.RAM
	v.Charged[tier.RAM], v.Reserved[tier.RAM] = tier.GiB, tier.GiB
	v.Memory.Available, v.FreeSwap = 3*tier.GiB/2, tier.GiB
	move := Job{ID: "id", Model: "a", Kind: "optimize", From: tier.RAM, To: tier.Swap, Running: true, Progress: 0.5, Elapsed: time.Second, Estimate: 2500 * time.Millisecond}
	load := Job{ID: "id", Model: "a", Kind: "load", To: tier.RAM, Err: &tier.NotFoundError{What: "model", Name: "a"}, Elapsed: time.Second}
	promoted := move
	promoted.From, promoted.To, promoted.Running = tier.Swap, tier.RAM, false
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"error", Error(errors.New("broken")), `{"status":"error","reason":"broken","code":"internal","suggestions":[]}`},
		{"busy", Error(&tier.BusyError{Reason: "x", RetryAfter: 1500 * time.Millisecond}), `{"status":"error","reason":"x","code":"busy","suggestions":["Retry in 1.5s."],"retry_after":1.5}`},
		{"hot load", HotLoadStarted(&move), `{"status":"hot_load_started","job_id":"id","model_name":"a","estimated_time":"2.5s"}`},
		{"move", MoveStarted(&move), `{"status":"tier_move_started","job_id":"id","model_name":"a","operation":"demote","source_tier":"ram","target_tier":"swap"}`},
		{"move runs", JobStatus(&JobRef{}, &move), `{"job_id":"id","model_name":"a","operation":"demote","source_tier":"ram","target_tier":"swap","progress":0.5,"status":"running","elapsed_time":1,"estimated_time":2.5,"error":null}`},
		{"move done", JobStatus(&JobRef{}, &promoted), `{"job_id":"id","model_name":"a","operation":"promote","source_tier":"swap","target_tier":"ram","progress":0.5,"status":"success","elapsed_time":1,"estimated_time":2.5,"error":null}`},
		{"load runs", JobStatus(&JobRef{Load: true}, &move), `{"job_id":"id","model_name":"a","status":"loading","progress":0.5,"elapsed_time":1,"error":null}`},
		{"load failed", JobStatus(&JobRef{Load: true}, &load), `{"job_id":"id","model_name":"a","status":"failed","progress":0,"elapsed_time":1,"error":"Model 'a' not found","code":"not_found"}`},
		{"limits", LimitsUpdated(tier.DefaultLimits(), tier.Limits{RAM: tier.GiB, Swap: tier.None, Reserved: tier.None}), `{"status":"success","old_limits":{"ram_max_gb":5,"swap_max_gb":10,"ram_reserved_gb":1},"new_limits":{"ram_max_gb":1,"swap_max_gb":0,"ram_reserved_gb":0}}`},
		{"hint", HintTaken("a"), `{"status":"hint_taken","model_name":"a"}`},
		{"tiers", Tiers(v, v.Limits, nil), `{"status":"success","tiers":{"ram":{"used_gb":2,"available_gb":1.5,"limit_gb":5,"utilization":0.4,"models":1},"swap":{"used_gb":0,"available_gb":1,"limit_gb":10,"utilization":0,"models":0}}}`},
		{"models", Models(v, 2), `{"status":"success","models":{"a\"<b>":{"size_gb":1.5,"tier":"swap","capabilities":["é"],"resident_tier":"ram"},"b":{"size_gb":0,"tier":"storage","capabilities":[],"resident_tier":"storage"}},"total_models":2,"active_hot_loads":2}`},
		{"models with labels", Models(labelled, 0), `{"status":"success","models":{"a":{"size_gb":1,"tier":"storage","capabilities":[],"resident_tier":"storage","labels":{"b<":"\"","format":"gguf"}}},"total_models":1,"active_hot_loads":0}`},
		{"OpenAI with labels", OpenAIModels(labelled, time.Unix(7, 0)), `{"data":[{"id":"a","object":"model","owned_by":"modeltier","size_gb":1,"capabilities":[],"tier":"storage","resident_tier":"storage","created":7,"labels":{"b<":"\"","format":"gguf"}}],"object":"list"}`},
		{"no models", Models(view(t), 0), `{"status":"success","models":{},"total_models":0,"active_hot_loads":0}`},
		{"OpenAI", OpenAIModels(v, time.Unix(7, 0)), `{"data":[{"id":"a\"<b>","object":"model","owned_by":"modeltier","size_gb":1.5,"capabilities":["é"],"tier":"swap","resident_tier":"ram","created":7},{"id":"b","object":"model","owned_by":"modeltier","size_gb":0,"capabilities":[],"tier":"storage","resident_tier":"storage","created":7}],"object":"list"}`},
		{"no OpenAI", OpenAIModels(view(t), time.Time{}), `{"data":[],"object":"list"}`},
		{"no optimizations", Optimized(nil), `{"status":"success","optimizations":[]}`},
		{"optimizations", Optimized([]tier.Step{
			{Move: tier.Move{Model: tier.Model{Name: "a"}, From: tier.Swap, To: tier.RAM}, Why: "it is wanted", Gain: 2.04},
			{Move: tier.Move{Model: tier.Model{Name: "b"}, From: tier.Swap, To: tier.Swap, Keep: tier.GiB, Leave: tier.MiB}},
		}), `{"status":"success","optimizations":["Moving a from swap to ram: it is wanted (saves about 2.0 s of waiting an hour)","Keeping 1.0 GiB of b present in swap, 1.0 MiB in storage"]}`},
		{"selected", Selected(&Served{Model: *v.Library.At(0), Tier: tier.RAM, Waited: time.Second}, &tier.Choice{Model: "a", Score: math.NaN()}, 10*time.Millisecond),
			`{"status":"success","model":"a\"<b>","size_gb":1.5,"tier":"ram","capabilities":["é"],"selection_reason":"Explicit model 'a' selected","selection_time_ms":10,"swap_executed":false,"swap_time":0,"performance_target_met":true}`},
		{"selected from swap", Selected(&Served{Tier: tier.Swap, Moved: true, Waited: time.Second, Kept: tier.GiB}, &tier.Choice{Model: "a", Mode: tier.Auto, Explanation: &tier.Explanation{
			Policy: "p", Priority: tier.Speed, Omitted: 3,
			Candidates: []tier.Candidate{{Model: "a", Score: math.NaN(), Factors: []tier.Factor{{Name: "f", Value: math.Inf(1)}}, Eligible: true, Verdict: "<chosen>", Expected: time.Second}},
		}}, 11*time.Millisecond),
			`{"status":"success","model":"","size_gb":0,"tier":"swap","capabilities":[],"selection_reason":"Intelligent selection: a (score: 0.0)","selection_time_ms":11,"swap_executed":true,"swap_time":1,"performance_target_met":false,"kept_gb":1,"explanation":{"policy":"p","priority":"speed","candidates":[{"model":"a","eligible":true,"verdict":"<chosen>","score":0,"factors":{"f":0},"expected_s":1}],"omitted":3}}`},
		{"not selected", NotSelected(tier.ErrClosed, &tier.Choice{}, 1500*time.Microsecond, v), `{"status":"error","reason":"closed","selection_time_ms":1.5,"available_models":["a\"<b>","b"],"code":"closed","suggestions":["The server is shutting down: ask again when it is back."]}`},
		{"reserved", Reserved("r-1", tier.GiB/2, 600*time.Second), `{"status":"success","reservation":"r-1","granted_gb":0.5,"expires_in":600}`},
		{"reserved for good", Reserved("r-1", 4*tier.GiB, 0), `{"status":"success","reservation":"r-1","granted_gb":4,"expires_in":null}`},
		{"released", Released("r-1"), `{"status":"success","reservation":"r-1"}`},
		{"tiers with reservations", Tiers(view(t), tier.Limits{}, []Reservation{
			{ID: "r-1", Reason: "a <game>", Bytes: tier.GiB, Since: time.Unix(0, 0).UTC(), Until: time.Unix(60, 0).UTC()}, {ID: "r-2", Bytes: tier.GiB, Since: time.Unix(1, 0).UTC()},
		}), `{"status":"success","tiers":{"ram":{"used_gb":0,"available_gb":0,"limit_gb":0,"utilization":0,"models":0},"swap":{"used_gb":0,"available_gb":0,"limit_gb":0,"utilization":0,"models":0}},"reservations":[{"reservation":"r-1","reason":"a <game>","gb":1,"since":"1970-01-01T00:00:00Z","until":"1970-01-01T00:01:00Z"},{"reservation":"r-2","reason":"","gb":1,"since":"1970-01-01T00:00:01Z"}]}`},
	} {
		if string(c.got) != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, c.got, c.want)
		}
	}
}

// FuzzObject holds the encoding of strings and numbers against encoding/json.
func FuzzObject(f *testing.F) {
	for i, s := range []string{"", "plain", `"\`, "<&>", "\x00\x1f", "\x7f", "\xff", "é\u2028", "𝄞"} {
		for _, n := range []float64{0, math.Copysign(0, -1), 1, -1.5, 1e-6, 9.99e-7, 1e21, 9.99e20, math.MaxFloat64, math.SmallestNonzeroFloat64, 1.0 / 3} {
			f.Add(s, n*float64(i+1))
		}
	}
	f.Fuzz(func(t *testing.T, s string, n float64) {
		n = finite(n)
		got := object(nil).text(s, s).number("n", n).list("l", []string{s, s}).end()
		key, err := Encode(s)
		if err != nil {
			t.Fatal(err)
		}
		number, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf(`{%s:%s,"n":%s,"l":[%s,%s]}`, key, key, number, key, key); string(got) != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	})
}
