package optimizer_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
)

// TestLearned_TrafficBuiltAgainstIt_IsHardlyWorseThanLRU plays traffic that breaks
// what the estimates go by.
func TestLearned_TrafficBuiltAgainstIt_IsHardlyWorseThanLRU(t *testing.T) {
	const models, requests = 16, 3000
	dice := rand.New(rand.NewPCG(3, 4))
	skewed := func() int { return min(int(dice.ExpFloat64()*2.5), models-1) }
	for _, c := range []struct {
		name string
		next func(k int) int
	}{
		{"popularity is swapped every 500 requests", func(k int) int {
			if k/500%2 == 0 {
				return skewed()
			}
			return models - 1 - skewed()
		}},
		{"two sets that do not fit together alternate every 40", func(k int) int { return k/40%2*8 + dice.IntN(8) }},
		{"every other request is for a one-hit wonder", func(k int) int {
			if k%2 == 0 {
				return 4 + k/2%(models-4)
			}
			return dice.IntN(4)
		}},
		{"a sweep over all of them every 200", func(k int) int {
			if k%200 < models {
				return k % 200
			}
			return skewed()
		}},
		{"round and round", func(k int) int { return k % models }},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := madeUp(c.name, models, requests, dice, c.next)
			lru := replay(t, tr, 5, 10, new(optimizer.LRU), silent)
			learned := replay(t, tr, 5, 10, optimizer.New(), silent)
			t.Logf("%.3f of LRU's wait", learned.mean/lru.mean)
			if learned.mean > 1.1*lru.mean {
				t.Errorf("waits %.3f s in the mean, LRU %.3f", learned.mean, lru.mean)
			}
		})
	}
}

// madeUp is a trace of models of 0.4 to 3 GB, of which next names one for each
// request.
func madeUp(name string, models, requests int, dice *rand.Rand, next func(k int) int) *trace {
	tr := &trace{name: name}
	for i := range models {
		tr.models = append(tr.models, tier.Model{Name: fmt.Sprint("m", i), Size: tier.Bytes(0.4e9 + 2.6e9*float64(i*7%models)/float64(models))})
	}
	at := 0.0
	for k := range requests {
		at += 20 * dice.ExpFloat64()
		tr.at, tr.who = append(tr.at, at), append(tr.who, int32(next(k)))
	}
	return tr
}

// TestHint_Liar_IsSoonNotBelieved has one caller announce, before every request, a
// model that is not asked for then, and sees what that does to everybody else.
func TestHint_Liar_IsSoonNotBelieved(t *testing.T) {
	const models, requests = 16, 3000
	dice := rand.New(rand.NewPCG(5, 6))
	tr := madeUp("liar", models, requests, dice, func(int) int { return min(int(dice.ExpFloat64()*2.5), models-1) })
	honest := func(k int) int32 { return tr.who[k] }
	lies := map[string]announcement{
		"always the model that is asked for least": func(int) int32 { return models - 1 },
		"another one each time":                    func(k int) int32 { return (tr.who[k] + 1 + int32(k)%(models-1)) % models },
		"the truth at first": func(k int) int32 {
			if k < requests/10 {
				return honest(k)
			}
			return (tr.who[k] + 1) % models
		},
	}
	without := replay(t, tr, 5, 10, optimizer.New(), silent)
	with := replay(t, tr, 5, 10, optimizer.New(), honest)
	t.Logf("honest hints: %.3f of the wait without any", with.mean/without.mean)
	if with.mean > 0.7*without.mean {
		t.Errorf("honest hints bring little")
	}
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			lied := replay(t, tr, 5, 10, optimizer.New(), lie)
			t.Logf("%.3f of the wait without hints, %.3f GB moved a request, %.3f without", lied.mean/without.mean, lied.moved, without.moved)
			if lied.mean > 1.05*without.mean {
				t.Errorf("waits %.3f s in the mean, %.3f without hints", lied.mean, without.mean)
			}
		})
	}
}
