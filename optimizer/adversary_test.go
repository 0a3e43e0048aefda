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
			tr := &trace{name: c.name}
			for i := range models {
				tr.models = append(tr.models, tier.Model{Name: fmt.Sprint("m", i), Size: tier.Bytes(0.4e9 + 2.6e9*float64(i*7%models)/models)})
			}
			at := 0.0
			for k := range requests {
				at += 20 * dice.ExpFloat64()
				tr.at, tr.who = append(tr.at, at), append(tr.who, int32(c.next(k)))
			}
			lru := replay(t, tr, 5, 10, new(optimizer.LRU))
			learned := replay(t, tr, 5, 10, optimizer.New())
			t.Logf("%.3f of LRU's wait", learned.mean/lru.mean)
			if learned.mean > 1.1*lru.mean {
				t.Errorf("waits %.3f s in the mean, LRU %.3f", learned.mean, lru.mean)
			}
		})
	}
}
