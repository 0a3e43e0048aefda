package selector

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

var (
	someCapabilities = []string{
		"text-generation", "chat", "code", "code-generation", "embeddings", "embedding", "vision",
		"image-text-to-text", "instruction-following", "fast",
	}
	someConstraints = []tier.Constraint{
		{Label: "vision"}, {Label: "language", Op: "=", Value: "fr"}, {Label: "language", Op: "!=", Value: "en"},
		{Label: "context", Op: ">=", Value: "8k"}, {Label: "context", Op: "<", Value: "16384"},
	}
)

// drawSize prefers round sizes, so that scores tie often.
func drawSize(t *rapid.T) tier.Bytes {
	if rapid.IntRange(0, 3).Draw(t, "odd size") == 0 {
		return tier.Bytes(rapid.Int64Range(1, 12<<30).Draw(t, "bytes"))
	}
	return tier.Bytes(rapid.Int64Range(1, 20).Draw(t, "halves")) * tier.GiB / 2
}

func drawModel(t *rapid.T, name string) tier.Model {
	m := tier.Model{
		Name: name, Size: drawSize(t), Home: tier.Tier(rapid.IntRange(0, 2).Draw(t, "home")),
		Capabilities: rapid.SliceOfN(rapid.SampledFrom(someCapabilities), 0, 3).Draw(t, "capabilities"),
	}
	if rapid.IntRange(0, 4).Draw(t, "declared") == 0 {
		m.Quality = float64(rapid.IntRange(1, 80).Draw(t, "quality")) / 4
	}
	if rapid.IntRange(0, 3).Draw(t, "runs") == 0 {
		m.Runtime = tier.Bytes(rapid.Int64Range(0, 4).Draw(t, "runtime")) * tier.GiB / 2
	}
	if rapid.IntRange(0, 9).Draw(t, "older") == 0 {
		m.VersionOf = "other"
	}
	if rapid.Bool().Draw(t, "labelled") {
		m.Labels = map[string]string{
			"context":  rapid.SampledFrom([]string{"4096", "8192", "32k", "many"}).Draw(t, "context"),
			"language": rapid.SampledFrom([]string{"en", "en, fr", "FR", ""}).Draw(t, "language"),
			"vision":   rapid.SampledFrom([]string{"", "no", "yes"}).Draw(t, "vision"),
		}
	}
	return m
}

func drawState(t *rapid.T, m *tier.Model) tier.State {
	s := tier.State{InPlace: rapid.IntRange(0, 3).Draw(t, "in place") > 0}
	if rapid.IntRange(0, 2).Draw(t, "kind") > 0 {
		return s
	}
	s.Tier = tier.Tier(rapid.IntRange(0, 2).Draw(t, "tier"))
	s.Moving = rapid.IntRange(0, 3).Draw(t, "moving") == 0
	if s.Moving {
		s.To = tier.Tier(rapid.IntRange(0, 2).Draw(t, "to"))
	}
	s.Serving = !s.Moving && s.Tier != tier.Storage
	s.Stuck = rapid.IntRange(0, 7).Draw(t, "stuck") == 0
	if s.Tier == tier.Swap {
		s.Kept = tier.Bytes(rapid.Int64Range(0, int64(m.Size)).Draw(t, "kept"))
	}
	return s
}

func drawLibrary(t *rapid.T) *tier.Library {
	models := make([]tier.Model, rapid.IntRange(1, 24).Draw(t, "models"))
	for i := range models {
		models[i] = drawModel(t, fmt.Sprint("m", i))
	}
	lib, err := tier.NewLibrary(models)
	if err != nil {
		t.Fatal(err)
	}
	return lib
}

// drawMemory sets what decides on safety, often exactly on a threshold.
func drawMemory(t *rapid.T, v *tier.View) {
	if rapid.IntRange(0, 9).Draw(t, "unread") == 0 {
		v.Memory = tier.Memory{}
		return
	}
	v.Memory = tier.Memory{At: v.Now, Available: drawSize(t)}
	v.FreeSwap = drawSize(t)
	if rapid.Bool().Draw(t, "on the edge") {
		m := v.Library.At(rapid.IntRange(0, v.Library.Len()-1).Draw(t, "edge model"))
		v.Memory.Available = (m.Size*10 + tier.Bytes(rapid.IntRange(-10, 16).Draw(t, "off"))) / 7
	}
}

func drawView(t *rapid.T, lib *tier.Library) *tier.View {
	v := &tier.View{Now: start, Library: lib, States: make([]tier.State, lib.Len()), Limits: tier.DefaultLimits()}
	for i := range v.States {
		v.States[i] = drawState(t, lib.At(i))
	}
	drawMemory(t, v)
	return v
}

func drawRequest(t *rapid.T) tier.Request {
	req := tier.Request{
		Priority:     tier.Priority(rapid.IntRange(0, 2).Draw(t, "priority")),
		Capabilities: rapid.SliceOfN(rapid.SampledFrom(someCapabilities), 0, 2).Draw(t, "required"),
	}
	if rapid.IntRange(0, 3).Draw(t, "has preferences") == 0 {
		req.Preferences = rapid.SliceOfN(rapid.SampledFrom(someCapabilities), 1, 3).Draw(t, "preferences")
	}
	if rapid.IntRange(0, 3).Draw(t, "has constraints") == 0 {
		req.Constraints = []tier.Constraint{rapid.SampledFrom(someConstraints).Draw(t, "constraint")}
	}
	if rapid.IntRange(0, 3).Draw(t, "has deadline") == 0 {
		req.Deadline = time.Duration(rapid.Int64Range(1, int64(20*time.Second)).Draw(t, "deadline"))
		if rapid.Bool().Draw(t, "round") {
			req.Deadline = req.Deadline.Round(250*time.Millisecond) + 1 - 1
		}
	}
	name := fmt.Sprint("m", rapid.IntRange(0, 26).Draw(t, "named"))
	switch rapid.IntRange(0, 5).Draw(t, "mode") {
	case 0:
		req.Model = name
	case 1:
		req.Preferred = name
	case 2:
		req.Preferred, req.Fallback = name, true
	}
	return req
}

// drawChange makes the next view from this one: other memory, other limits, other
// states, a model more or less, another home, or several of these at once. What
// has not changed is the same slice or pointer as before.
func drawChange(t *rapid.T, v *tier.View) *tier.View {
	copied := *v
	n := &copied
	change := func(name string) bool { return rapid.IntRange(0, 2).Draw(t, name) == 0 }
	switch lib := v.Library; {
	case change("add"):
		m := drawModel(t, fmt.Sprint("new", lib.Len()))
		if _, taken := lib.Find(m.Name); !taken {
			n.Library = lib.With(m)
			n.States = append(slices.Clone(n.States), drawState(t, &m))
		}
	case lib.Len() > 1 && change("remove"):
		i := rapid.IntRange(0, lib.Len()-1).Draw(t, "which")
		n.Library = lib.Without(lib.At(i).Name)
		n.States = slices.Delete(slices.Clone(n.States), i, i+1)
	case change("rehome"):
		m := *lib.At(rapid.IntRange(0, lib.Len()-1).Draw(t, "which"))
		m.Home = tier.Tier(rapid.IntRange(0, 2).Draw(t, "home"))
		n.Library = lib.With(m)
	}
	if change("states") {
		n.States = slices.Clone(n.States)
		for i := range n.States {
			n.States[i] = drawState(t, n.Library.At(i))
		}
	}
	if change("memory") {
		drawMemory(t, n)
	}
	if change("limits") {
		n.Limits.RAM = drawSize(t)
		n.Limits.Swap = drawSize(t)
	}
	return n
}

// checkAgainst compares one answer with the naive one.
func checkAgainst(t *rapid.T, n naive, req *tier.Request, v *tier.View, c tier.Choice, err error) {
	name := req.Model
	if name == "" {
		name = req.Preferred
	}
	if name != "" {
		i, known := v.Library.Find(name)
		// Stuck models asked for by name alone are the Manager's to refuse.
		may := known && (n.may(req, v, i) || !req.Fallback && v.States[i].Stuck && n.may(req, without1(v, i), i))
		if may {
			if err != nil || c.Index != i || c.FellBack || !math.IsNaN(c.Score) || (c.Mode == tier.Hybrid) != req.Fallback {
				t.Fatalf("named model may serve, got %+v, %v", c, err)
			}
			return
		}
		if !req.Fallback {
			switch {
			case err == nil:
				t.Fatalf("named model may not serve, got %+v", c)
			case !known && !errors.Is(err, tier.ErrNotFound):
				t.Fatalf("unknown model: %v", err)
			}
			return
		}
	}
	want := n.auto(req, v)
	if want.index < 0 {
		if !errors.Is(err, tier.ErrNoCapableModel) {
			t.Fatalf("no model may serve, got %+v, %v", c, err)
		}
		return
	}
	if err != nil || c.Index != want.index || !close64(c.Score, want.score) || c.Model != v.Library.At(c.Index).Name {
		t.Fatalf("got %+v, %v; want %s with %s", c, err, v.Library.At(want.index).Name, want.score.FloatString(12))
	}
	if c.FellBack != (name != "") || c.FellBack != (c.Why != "") {
		t.Fatalf("fell back for no reason, or does not say so: %+v", c)
	}
}

// without1 is v in which model i is not stuck.
func without1(v *tier.View, i int) *tier.View {
	n := again(v)
	n.States[i].Stuck = false
	return n
}

func TestRecorded_AnyLibraryAndRequest_AgreesWithNaiveScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := New()
		n := naive{DefaultTaxonomy()}
		v := drawView(t, drawLibrary(t))
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			req := drawRequest(t)
			before := req
			c, err := s.Select(&req, v)
			if !reflect.DeepEqual(req, before) {
				t.Fatal("the request was changed")
			}
			checkAgainst(t, n, &req, v, c, err)
			if d, err2 := s.Select(&req, v); fmt.Sprint(d, err2) != fmt.Sprint(c, err) {
				t.Fatalf("asked twice: %+v, %v then %+v, %v", c, err, d, err2)
			}
			if d, err2 := New().Select(&req, again(v)); fmt.Sprint(d, err2) != fmt.Sprint(c, err) {
				t.Fatalf("a fresh selector says %+v, %v, this one %+v, %v", d, err2, c, err)
			}
			v = drawChange(t, v)
		}
	})
}

// The scores of the adaptive policy have no independent oracle. The chosen model may
// serve, and no other that may is better by the explanation's score.
func TestAdaptive_AnyLibraryAndRequest_ChoosesTheBestEligible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewAdaptive()
		n := naive{DefaultTaxonomy()}
		v := drawView(t, drawLibrary(t))
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "learn") {
				s.Reported(drawOutcomes(t, v))
				s.Moved([]tier.Moved{{
					Move:  tier.Move{From: tier.Tier(rapid.IntRange(0, 1).Draw(t, "from")), To: tier.RAM},
					Bytes: drawSize(t), Took: time.Duration(rapid.Int64Range(1, 1e10).Draw(t, "took")),
				}})
			}
			req := drawRequest(t)
			req.Model, req.Preferred, req.Fallback = "", "", false
			c, err := s.Select(&req, v)
			if d, err2 := s.Select(&req, again(v)); fmt.Sprint(d, err2) != fmt.Sprint(c, err) {
				t.Fatalf("equal input: %+v, %v then %+v, %v", c, err, d, err2)
			}
			req.Explain = true
			x, err2 := s.Select(&req, v)
			if (err == nil) != (err2 == nil) || err == nil && x.Index != c.Index {
				t.Fatalf("explained, the answer is another: %+v, %v, not %+v, %v", x, err2, c, err)
			}
			checkExplained(t, n, &req, v, x, err)
			v = drawChange(t, v)
			v.Now = v.Now.Add(time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "later")))
		}
	})
}

func checkExplained(t *rapid.T, n naive, req *tier.Request, v *tier.View, c tier.Choice, err error) {
	chosen := naiveChoice{index: -1}
	for _, x := range c.Explanation.Candidates {
		m := v.Library.At(x.Index)
		able := m.VersionOf == "" && n.can(m, req.Capabilities) && n.meets(m, req.Constraints)
		if len(req.Capabilities) == 0 && able {
			text := func(m *tier.Model) bool { return m.VersionOf == "" && n.can(m, []string{"text-generation"}) }
			able = text(m)
			if !able {
				able = true
				for _, other := range v.Library.All() {
					able = able && !text(other)
				}
			}
		}
		may := able && n.safe(v, x.Index) && (req.Deadline == 0 || x.Expected <= req.Deadline)
		if x.Eligible != may {
			t.Fatalf("%s: eligible %v, want %v (%s)", x.Model, x.Eligible, may, x.Verdict)
		}
		if may && chosen.index < 0 {
			chosen.index = x.Index
			if err != nil || c.Index != x.Index || c.Score != x.Score {
				t.Fatalf("%s is first with %v, chosen was %+v, %v", x.Model, x.Score, c, err)
			}
		}
		soonest := func(i int) int { return n.steps(v, i)*len(v.States) + i }
		if may && (x.Score > c.Score || x.Score == c.Score && soonest(x.Index) < soonest(c.Index)) {
			t.Fatalf("%s with %v is better than %s with %v", x.Model, x.Score, c.Model, c.Score)
		}
	}
	if chosen.index < 0 && !errors.Is(err, tier.ErrNoCapableModel) {
		t.Fatalf("no model may serve, got %+v, %v", c, err)
	}
}

func drawOutcomes(t *rapid.T, v *tier.View) []tier.Outcome {
	outcomes := make([]tier.Outcome, rapid.IntRange(0, 6).Draw(t, "outcomes"))
	for i := range outcomes {
		second := func(name string) time.Duration {
			return time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(t, name))
		}
		o := tier.Outcome{
			Model: fmt.Sprint("m", rapid.IntRange(0, 5).Draw(t, "model")), At: v.Now,
			Waited: second("waited"), Served: second("served"), Latency: second("latency"),
			Scored: rapid.Bool().Draw(t, "scored"), Score: rapid.Float64Range(0, 1).Draw(t, "score"),
		}
		if rapid.Bool().Draw(t, "failed") {
			o.Err = errors.New("failed")
		}
		outcomes[i] = o
	}
	return outcomes
}
