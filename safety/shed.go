package safety

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// MinResidency is how long a model in ram is spared by Shed as long as there is
// anything else to take: less would give back what was only just paid for.
const MinResidency = 30 * time.Second

// largestPage is the largest page that a kernel is built with on arm64; all others
// divide it.
const largestPage = 64 * tier.KiB

// Shed returns moves that give back that many bytes of memory, cheapest loss
// first, and how many they give back at least: fewer than asked for where not
// enough is idle. It takes
//
//  1. kept bytes of models in swap, which are clean and on offer anyway;
//  2. models in ram that have been there for MinResidency;
//  3. models in ram that have not;
//  4. models in swap that cannot be divided, such as frozen engines: what they
//     have in memory is all that keeps them from a start.
//
// Within each, cheaper says who goes first, as for slices.SortFunc over indexes
// of v.Library; nil: who was used least recently. Models under lease, with
// waiters, pinned, moving or stuck are never named (see tier.View.Evictable). A
// divisible model gives no more than is asked for, in whole pages of any machine
// (64 KiB), as less may free nothing. A model goes to swap where
// v.Room has room for it there, and else to storage; so does one of
// the last kind.
//
// Shed is a pure function of the view; the view's reservations count as bytes
// that stay.
func Shed(v *tier.View, bytes tier.Bytes, cheaper func(a, b int) int) ([]tier.Step, tier.Bytes) {
	if cheaper == nil {
		cheaper = func(a, b int) int { return v.States[a].LastUse.Compare(v.States[b].LastUse) }
	}
	class := func(i int) int {
		switch s := &v.States[i]; {
		case s.Tier == tier.Swap && s.Divisible:
			return 1
		case s.Tier == tier.Swap:
			return 4
		case v.Now.Sub(s.Since) >= MinResidency:
			return 2
		}
		return 3
	}
	var victims []int
	for i := range v.States {
		if v.Evictable(i) && (v.States[i].Tier == tier.RAM || v.States[i].Kept > 0) {
			victims = append(victims, i)
		}
	}
	slices.SortStableFunc(victims, func(a, b int) int {
		return cmp.Or(cmp.Compare(class(a), class(b)), cheaper(a, b))
	})

	var steps []tier.Step
	var given tier.Bytes
	swap := v.Room[tier.Swap]
	for _, i := range victims {
		if given >= bytes {
			break
		}
		step, freed, grows := shedOne(v, i, bytes-given, swap)
		steps = append(steps, step)
		given = given.Plus(freed)
		swap -= grows
	}
	return steps, given
}

// shedOne returns the move by which model i gives back bytes, or as much as it
// has, what it frees in memory, and what it adds to swap.
func shedOne(v *tier.View, i int, bytes, swap tier.Bytes) (step tier.Step, freed, grows tier.Bytes) {
	m, s := v.Library.At(i), &v.States[i]
	present := m.Size
	if s.Tier == tier.Swap {
		present = min(s.Kept, m.Size)
	}
	grows = present
	if s.Divisible {
		grows = min(present, bytes.Plus(largestPage-1)/largestPage*largestPage)
	}
	step.Move = tier.Move{Model: *m, From: s.Tier, To: tier.Swap, Keep: present - grows, Leave: s.Left}
	step.Why = fmt.Sprintf("memory pressure: %v of an idle model", grows)
	if grows <= swap && (s.Divisible || s.Tier != tier.Swap) {
		return step, grows, grows
	}
	step.To, step.Keep, step.Leave = tier.Storage, 0, 0
	step.Why = "memory pressure: an idle model that swap cannot take out of memory"
	return step, v.Footprint(i)[tier.RAM], 0
}

// Holders returns the models that hold bytes of tier t, largest first, for the
// Holders of a tier.CapacityError.
func Holders(v *tier.View, t tier.Tier) []tier.Holder {
	var holders []tier.Holder
	for i := range v.States {
		s := &v.States[i]
		if held := v.Footprint(i)[t]; held > 0 {
			m := v.Library.At(i)
			holders = append(holders, tier.Holder{
				Model: m.Name, Bytes: held, Leases: int(s.Leases),
				Pinned: m.Pinned, Moving: s.Moving, Stuck: s.Stuck,
			})
		}
	}
	slices.SortStableFunc(holders, func(a, b tier.Holder) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return holders
}
