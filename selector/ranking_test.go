package selector

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Views follow each other and outcomes come in while many ask: each answer is
// right for the view that it was asked with.
func TestSelect_ViewsChangeAndNewsComeIn_EveryAnswerFitsItsView(t *testing.T) {
	s := New()
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

// Between a refusal and the words for it the adaptive policy may learn that the model
// would have been in time.
func TestQuery_NewsComeInMeanwhile_OneSnapshotFromFirstToLast(t *testing.T) {
	s := NewAdaptive()
	v := viewOf(newLibrary(t, recordedModels()...))
	first := query{p: s, req: &tier.Request{}, v: v, by: &s.adaptive, adaptive: true}
	st := first.snapshot()
	s.Reported([]tier.Outcome{good("gpt2-small", time.Second)})
	if first.snapshot() != st {
		t.Error("what was learned in between changed the answer under way")
	}
	next := query{p: s, req: &tier.Request{}, v: v, by: &s.adaptive, adaptive: true}
	if next.snapshot() == st {
		t.Error("what was learned does not count for the next request")
	}
}

func TestCosts_WhereTheWeightsAre_DecidesOnTheTime(t *testing.T) {
	s := New()
	q := query{p: s, by: &s.recorded, v: &tier.View{Library: newLibrary(t)}}
	st := q.snapshot()
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
		if got := st.expected(&tier.Model{Size: 4 * tier.GiB}, &x.s); got != x.want {
			t.Errorf("%s: %v, want %v", x.name, got, x.want)
		}
	}
	if got := st.expected(&tier.Model{Size: tier.Unlimited}, &tier.State{}); got <= 0 {
		t.Errorf("of more than there is: %v", got)
	}
}

func TestMatches_TheViewChanges_AreMadeOncePerLibrary(t *testing.T) {
	s := New()
	v := viewOf(newLibrary(t, recordedModels()...))
	matches := func(v *tier.View) *pick {
		mustSelect(t, s, v, tier.Request{})
		return &s.recorded.last.Load().answers[string(question(nil, &tier.Request{}))].matches[0]
	}
	first := matches(v)
	next := again(v)
	if matches(next) != first {
		t.Error("made again for other states")
	}
	next = again(next)
	next.Library = next.Library.Without("gpt2-small")
	next.States = next.States[1:]
	if matches(next) == first {
		t.Error("those of another library were used")
	}
}
