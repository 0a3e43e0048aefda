package selector

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

var sizes = []int{6, 200, 10_000, 100_000}

// benchLibrary has n models of 0.1 to 12 GiB with one to three of 40 capabilities.
func benchLibrary(b testing.TB, n int) *tier.Library {
	if n == 6 {
		return newLibrary(b, recordedModels()...)
	}
	r := rand.New(rand.NewPCG(7, 7))
	models := make([]tier.Model, n)
	for i := range models {
		m := &models[i]
		*m = tier.Model{
			Name: fmt.Sprint("model-", i), Size: tier.GiB/10 + tier.Bytes(r.Int64N(int64(10*tier.GiB))),
			Home: tier.Tier(r.IntN(3)), Capabilities: []string{"text-generation"},
		}
		for range r.IntN(3) {
			m.Capabilities = append(m.Capabilities, fmt.Sprint("task-", r.IntN(40)))
		}
	}
	return newLibrary(b, models...)
}

// benchView has little memory, so that most models are unsafe and the search has
// to look for one that is not, and one model in 20 resident.
func benchView(lib *tier.Library) *tier.View {
	v := remember(viewOf(lib), 3*tier.GiB, 2*tier.GiB)
	if lib.Len() == 6 {
		remember(v, 64*tier.GiB/10, 11*tier.GiB)
	}
	r := rand.New(rand.NewPCG(8, 8))
	for i := range v.States {
		if r.IntN(20) == 0 {
			v.States[i].Tier, v.States[i].Serving = tier.RAM, true
		}
	}
	return v
}

// move returns the next view: another model is resident now.
func move(v *tier.View, r *rand.Rand) *tier.View {
	n := again(v)
	s := &n.States[r.IntN(len(n.States))]
	if s.Tier == tier.Storage {
		s.Tier, s.Serving = tier.RAM, true
	} else {
		s.Tier, s.Serving = tier.Storage, false
	}
	return n
}

// linear is the plain implementation: the recorded policy in one pass over the
// models, with the same arithmetic, and no care taken but not to allocate.
type linear struct{ p *Policies }

func (l linear) Select(req *tier.Request, v *tier.View) (tier.Choice, error) {
	required := req.Capabilities
	if len(required) == 0 {
		required = []string{textGeneration}
	}
	weights, q := &l.p.options.Weights, &query{p: l.p, v: v}
	best := pick{model: -1}
	for i, m := range v.Library.All() {
		s := &v.States[i]
		if !m.Can(required) || stuck(s) || tooLarge(v, m, s) || m.Size > q.ceiling(m, s) && !resident(s) {
			continue
		}
		score := weights.Capability*float64(len(required)) + weights.bonus(req.Priority, m)
		if p := (pick{onGrid(score), int32(i), readinessOf(s)}); best.model < 0 || p.compare(best) < 0 {
			best = p
		}
	}
	if best.model < 0 {
		return tier.Choice{}, tier.ErrNoCapableModel
	}
	i := int(best.model)
	return tier.Choice{Model: v.Library.At(i).Name, Index: i, Mode: tier.Auto, Score: best.score}, nil
}

// benchRequests are what the benchmarks ask.
func benchRequests(lib *tier.Library) map[string]tier.Request {
	m := lib.At(0) // one that is safe
	for _, other := range lib.All() {
		if len(other.Capabilities) > 1 && other.Size < tier.GiB {
			m = other
		}
	}
	return map[string]tier.Request{
		"manual":   {Model: m.Name},
		"auto":     {},
		"quality":  {Priority: tier.Quality},
		"two":      {Priority: tier.Quality, Capabilities: m.Capabilities},
		"speed":    {Priority: tier.Speed, Capabilities: []string{"text-generation"}},
		"deadline": {Priority: tier.Quality, Deadline: 2 * time.Second},
	}
}

func BenchmarkSelect(b *testing.B) {
	for _, n := range sizes {
		lib := benchLibrary(b, n)
		v := benchView(lib)
		reqs := benchRequests(lib)
		for _, s := range []struct {
			name string
			tier.Selector
			asks []string
		}{
			{"recorded", New(), []string{"manual", "auto", "quality", "two", "speed", "deadline"}},
			{"adaptive", mustNew(b, Options{Policy: PolicyAdaptive}), []string{"manual", "auto", "quality", "speed", "deadline"}},
			{"linear", linear{New()}, []string{"auto", "quality", "two", "speed"}},
		} {
			for _, ask := range s.asks {
				req := reqs[ask]
				b.Run(fmt.Sprintf("%d/%s/%s", n, ask, s.name), func(b *testing.B) {
					mustSelect(b, s, v, req) // what is made once, BenchmarkRenewal measures
					b.ReportAllocs()
					for b.Loop() {
						if _, err := s.Select(&req, v); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// BenchmarkManual_EveryName asks for all models in turn, so that nothing of one is
// in a cache when it is asked for again.
func BenchmarkManual_EveryName(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			v := viewOf(benchLibrary(b, n))
			v.Limits.RAM = tier.Unlimited
			s := New()
			names := make([]string, n)
			for i, j := range rand.New(rand.NewPCG(1, 1)).Perm(n) {
				names[i] = v.Library.At(j).Name
			}
			req := tier.Request{}
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				req.Model = names[i]
				if i++; i == n {
					i = 0
				}
				if _, err := s.Select(&req, v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkParallel: run with -cpu 1,2. The time of an operation on two
// processors is to be at most 1/1.8 of that on one.
func BenchmarkParallel(b *testing.B) {
	for _, n := range sizes {
		for _, ask := range []string{"manual", "auto"} {
			b.Run(fmt.Sprintf("%d/%s", n, ask), func(b *testing.B) {
				lib := benchLibrary(b, n)
				v := benchView(lib)
				req := benchRequests(lib)[ask]
				s := New()
				mustSelect(b, s, v, req)
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(p *testing.PB) {
					req := req
					for p.Next() {
						if _, err := s.Select(&req, v); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

// BenchmarkRenewal is the first request after a change: of who is resident, or of
// the library.
func BenchmarkRenewal(b *testing.B) {
	for _, n := range sizes {
		lib := benchLibrary(b, n)
		v := benchView(lib)
		changed := again(v)
		added := *v
		added.Library = lib.With(tier.Model{Name: "one more", Size: tier.GiB, Capabilities: []string{"text-generation"}})
		added.States = append(slices.Clone(v.States), tier.State{InPlace: true})
		for name, next := range map[string]*tier.View{"states": changed, "library": &added} {
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				s := New()
				views := [2]*tier.View{v, next}
				i := 0
				for b.Loop() {
					if _, err := s.Select(&tier.Request{}, views[i&1]); err != nil {
						b.Fatal(err)
					}
					i++
				}
			})
		}
	}
}

// BenchmarkTail asks in auto while a writer changes who is resident 100 times a
// second, and reports how long single requests took, the clock's own 20 to 40 ns
// included.
func BenchmarkTail(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var current atomic.Pointer[tier.View]
			current.Store(benchView(benchLibrary(b, n)))
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				r := rand.New(rand.NewPCG(9, 9))
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for {
					select {
					case <-stop:
						return
					case <-tick.C:
						current.Store(move(current.Load(), r))
					}
				}
			})
			s := New()
			req := tier.Request{Priority: tier.Quality}
			mustSelect(b, s, current.Load(), req)
			took := make([]time.Duration, 1<<20)
			i := 0
			for b.Loop() {
				v := current.Load()
				began := time.Now()
				if _, err := s.Select(&req, v); err != nil {
					b.Fatal(err)
				}
				took[i&(len(took)-1)] = time.Since(began)
				i++
			}
			close(stop)
			wg.Wait()
			took = took[:min(i, len(took))]
			slices.Sort(took)
			for _, p := range []float64{50, 99, 99.9} {
				b.ReportMetric(float64(took[int(float64(len(took)-1)*p/100)]), fmt.Sprint("p", p, "-ns"))
			}
		})
	}
}

// What it costs in time, the benchmarks say.
func TestSelect_AnyRequestAndLibrary_AllocatesNothing(t *testing.T) {
	for _, n := range sizes {
		lib := benchLibrary(t, n)
		v := benchView(lib)
		s := New()
		for name, req := range benchRequests(lib) {
			for _, req.Policy = range []string{PolicyRecorded, PolicyAdaptive} {
				f := func() {
					if _, err := s.Select(&req, v); err != nil {
						t.Fatal(err)
					}
				}
				f()
				if a := testing.AllocsPerRun(100, f); a != 0 {
					t.Errorf("%d models, %s, %s: %v allocations", n, name, req.Policy, a)
				}
			}
		}
	}
}
