package selector

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modeltier/modeltier/tier"
)

var update = flag.Bool("update", false, "rewrite the golden explanations")

func TestExplain_Golden(t *testing.T) {
	lib := newLibrary(t, append(recordedModels(),
		tier.Model{Name: "pixtral", Size: 4 * tier.GiB, Capabilities: []string{"image-text-to-text"}, Labels: map[string]string{"context": "32k"}},
		tier.Model{Name: "falcon-40b", Size: 24 * tier.GiB, Home: tier.RAM, Capabilities: []string{"text-generation"}},
		tier.Model{Name: "gpt2-twin", Size: tier.GiB / 2, Home: tier.RAM, Capabilities: []string{"text-generation"}},
	)...)
	plenty := viewOf(lib)
	busy := remember(viewOf(lib), 2*tier.GiB, tier.GiB)
	settle(t, busy, "gpt2-large", tier.RAM).Leases = 9
	settle(t, busy, "gpt2-small", tier.RAM)
	settle(t, busy, "llama-7b", tier.Swap).Kept = 2 * tier.GiB
	busy.States[4] = tier.State{Moving: true, To: tier.RAM, InPlace: true}
	busy.States[1].Stuck = true
	long := tier.Constraint{Label: "context", Op: ">=", Value: "8192"}
	for _, x := range []struct {
		name string
		v    *tier.View
		req  tier.Request
	}{
		{"default", plenty, tier.Request{}},
		{"speed", plenty, tier.Request{Priority: tier.Speed, Preferences: []string{"fast"}}},
		{"manual", plenty, tier.Request{Model: "gpt2-large"}},
		{"hybrid", busy, tier.Request{Preferred: "falcon-40b", Fallback: true}},
		{"constraints", plenty, tier.Request{Capabilities: []string{"vision"}, Constraints: []tier.Constraint{long}}},
		{"deadline", busy, tier.Request{Priority: tier.Quality, Deadline: 2 * time.Second}},
		{"none_eligible", busy, tier.Request{Capabilities: []string{"embeddings"}, Deadline: time.Second}},
		{"adaptive_speed", busy, tier.Request{Policy: PolicyAdaptive, Priority: tier.Speed}},
		{"adaptive_quality", busy, tier.Request{Policy: PolicyAdaptive, Priority: tier.Quality, Preferences: []string{"fast"}}},
		{"adaptive_balanced", busy, tier.Request{Policy: PolicyAdaptive}},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := New()
			s.Reported([]tier.Outcome{
				good("gpt2-large", 700*time.Millisecond), failed("gpt2-small", start), failed("gpt2-small", start), failed("gpt2-small", start),
				{Model: "llama-7b", At: start, Latency: time.Second, Served: 5 * time.Second, Waited: 4 * time.Second, Scored: true, Score: 1},
			})
			x.req.Explain = true
			c, err := s.Select(&x.req, x.v)
			got := printed(c, err)
			file := filepath.Join("testdata", "explain_"+x.name+".txt")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// printed is a choice and its explanation as a person may read it.
func printed(c tier.Choice, err error) []byte {
	var b bytes.Buffer
	if err != nil {
		fmt.Fprintf(&b, "error: %v\n", err)
	} else {
		fmt.Fprintf(&b, "%s\n", c.Reason())
	}
	fmt.Fprintf(&b, "policy %s, priority %v\n", c.Explanation.Policy, c.Explanation.Priority)
	for _, x := range c.Explanation.Candidates {
		fmt.Fprintf(&b, "\n%s: %s\n  score %.4g", x.Model, x.Verdict, x.Score)
		sign := " ="
		for _, f := range x.Factors {
			fmt.Fprintf(&b, "%s %s %.4g", sign, f.Name, f.Value)
			sign = ","
		}
		fmt.Fprintf(&b, "; usable in %v\n", x.Expected.Round(10*time.Millisecond))
	}
	return b.Bytes()
}

// A recorded score is the sum of its factors.
func TestExplain_RecordedFactors_AddUp(t *testing.T) {
	v := viewOf(newLibrary(t, recordedModels()...))
	for p := tier.Balanced; p <= tier.Quality; p++ {
		c := mustSelect(t, New(), v, tier.Request{Priority: p, Preferences: []string{"fast", "quality"}, Explain: true})
		for _, x := range c.Explanation.Candidates {
			total := 0.0
			for _, f := range x.Factors {
				total += f.Value
			}
			if math.Abs(total-x.Score) > 1e-9 {
				t.Errorf("%v: %s has %v, factors add up to %v", p, x.Model, x.Score, total)
			}
		}
	}
}

func TestExplain_LargeLibrary_ListsTheBestAndCountsTheRest(t *testing.T) {
	models := make([]tier.Model, maxCandidates+5)
	for i := range models {
		models[i] = tier.Model{Name: fmt.Sprint("m", i), Size: tier.Bytes(i+1) * tier.MiB, Capabilities: []string{"chat"}}
	}
	v := viewOf(newLibrary(t, models...))
	c := mustSelect(t, New(), v, tier.Request{Priority: tier.Quality, Explain: true})
	x := c.Explanation
	if len(x.Candidates) != maxCandidates || x.Omitted != 5 || x.Candidates[0].Model != c.Model {
		t.Errorf("%d candidates, %d omitted, first %s", len(x.Candidates), x.Omitted, x.Candidates[0].Model)
	}
}

func TestExplain_NotAsked_NotThere(t *testing.T) {
	v := viewOf(newLibrary(t, recordedModels()...))
	if c := mustSelect(t, New(), v, tier.Request{}); c.Explanation != nil {
		t.Error("there is one")
	}
	if _, err := New().Select(&tier.Request{Capabilities: []string{"video"}, Explain: true}, v); !errors.Is(err, tier.ErrNoCapableModel) {
		t.Error(err)
	}
}
