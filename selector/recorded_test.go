package selector

import (
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

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
