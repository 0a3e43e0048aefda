package tiertest

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// crude is a placement that keeps the contract and no more: for each need it
// unloads every model that may leave. Its faults are for the suite to find.
type crude struct {
	uses int
	crudeFaults
}

type crudeFaults struct {
	mood                                                                                  *float64 // shared by all: the gain of the next step
	unloadsLeased, forgetsTheNeed, refusesAll, neverWrong, noWhy, loudReason, changesView bool
	noWorth, disorder, refusesItsOwn, panicsOnDamage, saysChannel, expectsLess            bool
}

func (c *crude) Plan(v *tier.View, need *tier.Need) tier.Plan {
	if c.changesView {
		v.States[0].LastUse = v.Now
	}
	if need == nil {
		return tier.Plan{}
	}
	var plan tier.Plan
	step := func(i int, to tier.Tier, keep tier.Bytes) {
		s := tier.Step{Reason: tier.ReasonRoom, Why: "room for a need"}
		switch {
		case c.noWhy:
			s.Why = ""
		case c.loudReason:
			s.Reason = tier.Reason("room for " + v.Library.At(i).Name)
		}
		if c.mood != nil {
			*c.mood++
			s.Gain = *c.mood
		}
		s.Move = tier.Move{Model: *v.Library.At(i), From: v.States[i].Tier, To: to, Keep: keep}
		plan.Steps = append(plan.Steps, s)
	}
	room, limits := v.Room, tier.Footprint{tier.RAM: v.Limits.RAM, tier.Swap: v.Limits.Swap}
	for i := range v.States {
		switch leaves := v.Evictable(i) || (need.Patient || c.unloadsLeased) && v.Drainable(i); {
		case i == need.Model:
			room = room.Plus(v.Footprint(i))
		case leaves && v.States[i].Tier != tier.Storage:
			step(i, tier.Storage, 0)
			room = room.Plus(v.Footprint(i))
		}
	}
	if c.forgetsTheNeed {
		return plan
	}
	to, keep, ok := c.target(v, need, room)
	if !ok || c.refusesAll {
		_, _, ever := c.target(v, need, limits)
		return tier.Plan{Err: &tier.CapacityError{Tier: tier.RAM, Never: ever == c.neverWrong}}
	}
	if need.Model >= 0 {
		if st := &v.States[need.Model]; to != st.Tier || keep != st.Kept || st.Left != 0 {
			step(need.Model, to, keep)
		}
	}
	return plan
}

// target returns the tier that room has space for the wanted model in.
func (c *crude) target(v *tier.View, need *tier.Need, room tier.Footprint) (to tier.Tier, keep tier.Bytes, ok bool) {
	room = room.Minus(need.Room)
	if need.Model < 0 {
		return 0, 0, room[tier.RAM] >= 0 && room[tier.Swap] >= 0
	}
	m, st := v.Library.At(need.Model), &v.States[need.Model]
	if need.To != tier.Swap && m.Size.Plus(m.Runtime) <= room[tier.RAM] && room[tier.Swap] >= 0 {
		return tier.RAM, 0, true
	}
	if need.To == tier.Storage {
		room[tier.RAM] = room[tier.RAM].Minus(m.Runtime)
	}
	if need.To == tier.RAM || need.To == tier.Storage && !st.InPlace || room[tier.RAM] < 0 || room[tier.Swap] < 0 {
		return 0, 0, false
	}
	keep = max(m.Size-room[tier.Swap], 0)
	return tier.Swap, keep, keep == 0 || st.Divisible && keep <= room[tier.RAM]
}

func (c *crude) Accessed(uses []tier.Access)                    { c.uses += len(uses) }
func (c *crude) Moved([]tier.Moved)                             {}
func (c *crude) Reported(outs []tier.Outcome)                   { c.uses += len(outs) }
func (c *crude) Hint(string, float64, time.Duration, time.Time) {}

func (c *crude) Worth(v *tier.View) []float64 {
	if c.noWorth {
		return []float64{math.NaN()}
	}
	return make([]float64, len(v.States))
}

func (c *crude) Expect(v *tier.View, _ time.Duration) []tier.Expectation {
	all := make([]tier.Expectation, len(v.States))
	if c.expectsLess {
		all[0].Announced = 1
	}
	return all
}

func (c *crude) Predict(*tier.Model, tier.Tier, tier.Tier, tier.Bytes) (took, low, high time.Duration) {
	if c.disorder {
		return 1, 2, 3
	}
	return 2, 1, 3
}

func (c *crude) MarshalBinary() ([]byte, error) { return []byte{'c', 'r', 'u', 'd', 'e'}, nil }

func (c *crude) UnmarshalBinary(data []byte) error {
	switch ok := string(data) == "crude"; {
	case !ok && c.panicsOnDamage:
		panic("damaged")
	case !ok || c.refusesItsOwn:
		return errors.New("not mine")
	}
	return nil
}

func (c *crude) PartStatus() any {
	if c.saysChannel {
		return make(chan int)
	}
	return map[string]int{"uses": c.uses}
}

func TestTestPlacement_CrudePlacement_Passes(t *testing.T) {
	TestPlacement(t, func() tier.Placement { return &crude{} })
}

func TestTestPlacement_EachFault_IsFound(t *testing.T) {
	for what, faults := range map[string]crudeFaults{
		"may not be moved":           {unloadsLeased: true},
		"wanted model":               {forgetsTheNeed: true},
		"could be met":               {refusesAll: true},
		"disagree":                   {neverWrong: true},
		"does not say why":           {noWhy: true},
		"tier.Reason":                {loudReason: true},
		"view was changed":           {changesView: true},
		"different plans":            {mood: new(float64)},
		"have a worth":               {noWorth: true},
		"tier.Predictor":             {disorder: true},
		"tier.Expecter":              {expectsLess: true},
		"encoding.BinaryUnmarshaler": {refusesItsOwn: true},
		"panicked":                   {panicsOnDamage: true},
		"tier.PartStatuser":          {saysChannel: true},
	} {
		var err error
		for seed := uint64(0); seed < 60 && err == nil; seed++ {
			err = func() (err error) {
				defer func() {
					if r := recover(); r != nil {
						err = fmt.Errorf("panicked: %v", r)
					}
				}()
				return checkPlacement(func() tier.Placement {
					return &crude{crudeFaults: faults}
				}, seed)
			}()
		}
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%+v: %v, want one about %q", faults, err, what)
		}
	}
}
