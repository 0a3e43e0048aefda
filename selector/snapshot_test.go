package selector

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

// check is every rule that the index of a snapshot keeps.
func (st *snapshot) check() error {
	if len(st.entries) != st.library.Len() || len(st.bySize) != len(st.entries) {
		return fmt.Errorf("%d entries, %d by size, %d models", len(st.entries), len(st.bySize), st.library.Len())
	}
	for i, en := range st.entries {
		if m := st.library.At(i); en.size != m.Size || en.need != m.Size+m.Runtime || en.home != m.Home {
			return fmt.Errorf("entry %d is not of model %s: %+v", i, m.Name, en)
		}
	}
	for k := 1; k < len(st.bySize); k++ {
		a, b := st.bySize[k-1], st.bySize[k]
		if en := st.entries[b.model]; b.size != en.size || b.home != en.home || a.size > b.size || a.size == b.size && a.model >= b.model {
			return fmt.Errorf("model %d stands at the wrong place by size", b.model)
		}
	}
	return nil
}

func TestSnapshot_LibraryAfterLibrary_IndexedLikeNew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lib := drawLibrary(t)
		var st *snapshot
		for step := range rapid.IntRange(1, 30).Draw(t, "steps") {
			last := st
			st = newSnapshot(viewOf(lib), last)
			for _, s := range []*snapshot{st, last} {
				if s == nil {
					continue
				}
				if err := s.check(); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
			}
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				switch rapid.IntRange(0, 2).Draw(t, "change") {
				case 0:
					if lib.Len() > 1 {
						lib = lib.Without(lib.At(rapid.IntRange(0, lib.Len()-1).Draw(t, "which")).Name)
					}
				case 1:
					lib = lib.With(drawModel(t, lib.At(rapid.IntRange(0, lib.Len()-1).Draw(t, "which")).Name))
				default:
					lib = lib.With(drawModel(t, fmt.Sprint("new", step)))
				}
			}
		}
	})
}

// What the index of one library goes over to the next by is not shared by two that
// follow it.
func TestSnapshot_TwoFromOne_DoNotShareWhatGrows(t *testing.T) {
	with := func(lib *tier.Library, name string, size tier.Bytes) *tier.Library {
		return lib.With(tier.Model{Name: name, Size: size, Home: tier.RAM})
	}
	lib := newLibrary(t, recordedModels()...)
	last := newSnapshot(viewOf(lib), nil)
	one := newSnapshot(viewOf(with(lib, "small", 1)), last)
	two := newSnapshot(viewOf(with(lib, "large", 8*tier.GiB)), last)
	for _, st := range []*snapshot{last, one, two} {
		if err := st.check(); err != nil {
			t.Error(err)
		}
	}
}

// Views follow each other and outcomes come in while many ask: each answer is
// right for the view that it was asked with.
func TestSelect_ViewsChangeAndNewsComeIn_EveryAnswerFitsItsView(t *testing.T) {
	s := mustNew(t, Options{Learning: Learning{Explore: 0.2}})
	n := naive{DefaultTaxonomy()}
	var current atomic.Pointer[tier.View]
	current.Store(viewOf(newLibrary(t, recordedModels()...)))
	stop := make(chan struct{})
	var writers, readers sync.WaitGroup
	writers.Go(func() {
		r := rand.New(rand.NewPCG(1, 1))
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			v := move(current.Load(), r)
			v.Now = v.Now.Add(time.Second)
			remember(v, tier.Bytes(r.IntN(12))*tier.GiB, tier.GiB)
			if i%5 == 0 {
				m := *v.Library.At(r.IntN(v.Library.Len()))
				m.Home = tier.Tier(r.IntN(3))
				v.Library = v.Library.With(m)
			}
			current.Store(v)
			s.Reported([]tier.Outcome{good("gpt2-small", time.Second), failed("gpt2-large", v.Now)})
			s.Moved([]tier.Moved{{Move: tier.Move{To: tier.RAM}, Bytes: tier.GiB, Took: time.Second}})
		}
	})
	for g := range 4 {
		readers.Go(func() {
			r := rand.New(rand.NewPCG(2, uint64(g)))
			for range 300 {
				v := current.Load()
				req := tier.Request{Priority: tier.Priority(r.IntN(3))}
				if r.IntN(2) == 0 {
					req.Policy = PolicyAdaptive
				}
				if r.IntN(3) == 0 {
					req.Deadline = 3 * time.Second
				}
				c, err := s.Select(&req, v)
				if err != nil {
					if req.Policy == "" && n.auto(&req, v).index >= 0 {
						t.Errorf("%+v: %v", req, err)
					}
					continue
				}
				if m := v.Library.At(c.Index); m.Name != c.Model || !n.can(m, []string{textGeneration}) || !n.safe(v, c.Index) {
					t.Errorf("%+v: %s may not serve", req, c.Model)
				}
				if want := n.auto(&req, v).index; req.Policy == "" && c.Index != want {
					t.Errorf("%+v: chose %d, want %d", req, c.Index, want)
				}
			}
		})
	}
	readers.Wait()
	close(stop)
	writers.Wait()
}

func TestCosts_Reach_IsTheExactInverse(t *testing.T) {
	check := func(t rapid.TB, c Costs, d time.Duration) {
		r := &recorded{costs: c}
		of := func(size tier.Bytes) time.Duration {
			return r.expected(&candidate{m: &tier.Model{Size: size}, state: &tier.State{}})
		}
		size, _ := r.reach(d)
		if got := of(size); size < tier.Unlimited && got > d {
			t.Errorf("%v at %v per GB reaches %d bytes, which take %v", d, c.Storage, size, got)
		}
		if size < tier.Unlimited && of(size+1) <= d {
			t.Errorf("%v at %v per GB reaches %d bytes, and one more would do", d, c.Storage, size)
		}
	}
	for _, d := range []time.Duration{0, 1, 1<<34 - 1, 1 << 34, 1<<35 - 1, tier.MaxDeadline} { // (d+1)×2^30 is 2^64
		check(t, DefaultCosts(), d)
		check(t, Costs{}, d)
	}
	rapid.Check(t, func(t *rapid.T) {
		c := Costs{Storage: time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "rate"))}
		check(t, c, time.Duration(rapid.Int64Range(0, int64(tier.MaxDeadline)).Draw(t, "deadline")))
	})
}

func TestCosts_WhereTheWeightsAre_DecidesOnTheTime(t *testing.T) {
	c := &recorded{costs: DefaultCosts()}
	for _, x := range []struct {
		name string
		s    tier.State
		want time.Duration
	}{
		{"storage", tier.State{}, 6 * time.Second},
		{"ram", tier.State{Tier: tier.RAM}, 400 * time.Millisecond},
		{"swap", tier.State{Tier: tier.Swap}, 2 * time.Second},
		{"swap, a half kept", tier.State{Tier: tier.Swap, Kept: 2 * tier.GiB}, 1200 * time.Millisecond},
		{"swap, more kept than there is", tier.State{Tier: tier.Swap, Kept: 9 * tier.GiB}, 400 * time.Millisecond},
		{"on its way from storage", tier.State{Moving: true, To: tier.RAM}, 6 * time.Second},
		{"on its way to storage", tier.State{Tier: tier.RAM, Moving: true, To: tier.Storage}, 6 * time.Second},
		{"on its way to swap", tier.State{Tier: tier.RAM, Moving: true, To: tier.Swap}, 2 * time.Second},
	} {
		if got := c.expected(&candidate{m: &tier.Model{Size: 4 * tier.GiB}, state: &x.s}); got != x.want {
			t.Errorf("%s: %v, want %v", x.name, got, x.want)
		}
	}
	if got := c.expected(&candidate{m: &tier.Model{Size: tier.Unlimited}, state: &tier.State{}}); got <= 0 {
		t.Errorf("of more than there is: %v", got)
	}
}
