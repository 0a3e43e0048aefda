package selector

import (
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

func TestCosts_Reach_IsTheExactInverse(t *testing.T) {
	check := func(t rapid.TB, c Costs, d time.Duration) {
		state := &tier.State{}
		size := c.reach(d)
		if got := c.of(size, state); size < tier.Unlimited && got > d {
			t.Errorf("%v at %v per GB reaches %d bytes, which take %v", d, c.Storage, size, got)
		}
		if size < tier.Unlimited && c.of(size+1, state) <= d {
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
	c := DefaultCosts()
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
		if got := c.of(4*tier.GiB, &x.s); got != x.want {
			t.Errorf("%s: %v, want %v", x.name, got, x.want)
		}
	}
	if got := c.of(tier.Unlimited, &tier.State{}); got <= 0 {
		t.Errorf("of more than there is: %v", got)
	}
}
