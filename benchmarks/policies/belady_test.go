package policies_test

import (
	"math"
	"slices"
	"testing"

	"github.com/modeltier/modeltier/benchmarks/policies"
	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

// Seconds for each byte: any that rise will do.
const (
	ramCost     = 1.0
	swapCost    = 5.0
	storageCost = 15.0
)

func wait(sizes []tier.Bytes, who []int32, ram, swap tier.Bytes) (sum float64) {
	for f := range policies.Belady(sizes, who, ram, swap) {
		sum += f.Wait(ramCost, swapCost, storageCost)
	}
	return sum
}

// exact is the least wait of any on-demand placement, by search through all
// states.
type exact struct {
	sizes     []tier.Bytes
	who       []int32
	ram, swap tier.Bytes
	known     map[string]float64
}

// from returns the least wait from request k on; at holds each model's bytes in
// ram and swap.
func (e *exact) from(k int, at []tier.Bytes) float64 {
	if k == len(e.who) {
		return 0
	}
	key := string(rune('A' + k))
	for _, b := range at {
		key += string(rune('a' + b))
	}
	if v, ok := e.known[key]; ok {
		return v
	}
	m := int(e.who[k])
	size := e.sizes[m]
	cost := ramCost*float64(at[2*m]) + swapCost*float64(at[2*m+1]) + storageCost*float64(size-at[2*m]-at[2*m+1])
	best := math.Inf(1)
	next := slices.Clone(at)
	var place func(i int, ram, swap tier.Bytes)
	place = func(i int, ram, swap tier.Bytes) {
		if i == len(e.sizes) {
			best = min(best, e.from(k+1, slices.Clone(next)))
			return
		}
		up, all := at[2*i], at[2*i]+at[2*i+1]
		if i == m {
			up, all = size, size
		}
		for x := tier.Bytes(0); x <= min(up, ram); x++ {
			for y := tier.Bytes(0); y <= min(all-x, swap); y++ {
				next[2*i], next[2*i+1] = x, y
				place(i+1, ram-x, swap-y)
			}
		}
	}
	place(0, e.ram, e.swap)
	e.known[key] = cost + best
	return cost + best
}

func TestBelady_SmallCases_EqualsTheExactOptimum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := make([]tier.Bytes, rapid.IntRange(1, 3).Draw(t, "models"))
		for i := range sizes {
			sizes[i] = tier.Bytes(rapid.IntRange(0, 2).Draw(t, "size"))
		}
		who := make([]int32, rapid.IntRange(0, 7).Draw(t, "requests"))
		for k := range who {
			who[k] = int32(rapid.IntRange(0, len(sizes)-1).Draw(t, "who"))
		}
		e := &exact{sizes: sizes, who: who, ram: tier.Bytes(rapid.IntRange(0, 2).Draw(t, "ram")), swap: tier.Bytes(rapid.IntRange(0, 2).Draw(t, "swap")), known: map[string]float64{}}
		want := e.from(0, make([]tier.Bytes, 2*len(sizes)))
		if got := wait(sizes, who, e.ram, e.swap); math.Abs(got-want) > 1e-9 {
			t.Fatalf("waited %v, the optimum is %v", got, want)
		}
	})
}

func TestBelady_EverythingFits_LoadsEachModelOnce(t *testing.T) {
	sizes := []tier.Bytes{3, 4}
	var moved tier.Bytes
	for f := range policies.Belady(sizes, []int32{0, 1, 0, 1, 1, 0}, 7, 0) {
		moved += f.Moved
	}
	if moved != 7 {
		t.Fatalf("%d bytes moved, want 7", moved)
	}
}

func TestBelady_CallerStops_Stops(t *testing.T) {
	n := 0
	for range policies.Belady([]tier.Bytes{1}, []int32{0, 0, 0}, 1, 1) {
		n++
		break
	}
	if n != 1 {
		t.Fatalf("%d requests, want 1", n)
	}
}
