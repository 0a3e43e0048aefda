package optimizer_test

import (
	"fmt"
	"math"
	"math/big"
	"testing"
	"time"

	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
	"pgregory.net/rapid"
)

func TestPlacements_AnyMachine_KeepTheContract(t *testing.T) {
	for name, fresh := range map[string]func() tier.Placement{
		"learned":           func() tier.Placement { return optimizer.New() },
		"learned on demand": func() tier.Placement { return optimizer.NewLearned(optimizer.Options{Without: optimizer.Prefetch}) },
		"lru":               func() tier.Placement { return &optimizer.LRU{} },
	} {
		t.Run(name, func(t *testing.T) { tiertest.TestPlacement(t, fresh) })
	}
}

// exactly is arithmetic that cannot overflow.
func exactly(b tier.Bytes) *big.Int { return big.NewInt(int64(b)) }

// tightMachine is a View whose accounts are kept in exact arithmetic.
type tightMachine struct {
	view    tier.View
	charged [2]*big.Int // swap, ram
}

// edge draws amounts at which sums overflow, and usual ones.
func edge() *rapid.Generator[tier.Bytes] {
	return rapid.Custom(func(t *rapid.T) tier.Bytes {
		around := rapid.SampledFrom([]tier.Bytes{0, tier.MiB, tier.GiB, 64 * tier.GiB, 1 << 40, 1 << 57, 1 << 58, 1 << 59, 1 << 60, 1 << 61, 1 << 62, tier.Unlimited}).Draw(t, "around")
		off := rapid.SampledFrom([]tier.Bytes{0, -1, 1, tier.GiB, -tier.GiB}).Draw(t, "off")
		return max(around.Plus(off), 0)
	})
}

func (m *tightMachine) room() tier.Footprint {
	var out tier.Footprint
	for k, a := range [...]tier.Tier{tier.Swap, tier.RAM} {
		n := new(big.Int).Sub(exactly(m.view.Limits.Of(a)), m.charged[k])
		out[a] = tier.Bytes(max(n.Int64(), math.MinInt64))
	}
	return out
}

func (m *tightMachine) charge(f tier.Footprint, sign int64) {
	for k, a := range [...]tier.Tier{tier.Swap, tier.RAM} {
		n := new(big.Int).Mul(exactly(f[a]), big.NewInt(sign))
		m.charged[k].Add(m.charged[k], n)
	}
}

// fits reports whether both accounts are within their limits.
func (m *tightMachine) fits() bool {
	return m.charged[0].Cmp(exactly(m.view.Limits.Of(tier.Swap))) <= 0 && m.charged[1].Cmp(exactly(m.view.Limits.Of(tier.RAM))) <= 0
}

// TestPlan_SizesAndLimitsAtTheEdges_ReturnsStepsThatFit plans on machines whose
// sizes and limits lie where 63 bits end.
func TestPlan_SizesAndLimitsAtTheEdges_ReturnsStepsThatFit(t *testing.T) {
	placements := map[string]func() tier.Placement{
		"learned": func() tier.Placement { return optimizer.New() },
		"lru":     func() tier.Placement { return new(optimizer.LRU) },
	}
	for name, fresh := range placements {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { planAtTheEdges(t, fresh()) })
		})
	}
}

func planAtTheEdges(t *rapid.T, p tier.Placement) {
	m := &tightMachine{charged: [2]*big.Int{new(big.Int), new(big.Int)}}
	m.view = tier.View{Now: epoch, Limits: tier.Limits{
		RAM: edge().Draw(t, "ram"), Swap: edge().Draw(t, "swap"), MaxModel: tier.Unlimited,
	}}
	var models []tier.Model
	for i := range rapid.IntRange(1, 6).Draw(t, "models") {
		models = append(models, tier.Model{
			Name: fmt.Sprint("m", i), Path: "m", Size: edge().Draw(t, "size"),
			Runtime: rapid.OneOf(rapid.Just(tier.Bytes(0)), edge()).Draw(t, "runtime"),
			Home:    tier.Tier(rapid.IntRange(0, 2).Draw(t, "home")),
		})
	}
	lib, err := tier.NewLibrary(models)
	if err != nil {
		t.Skip("not a library: ", err)
	}
	m.view.Library = lib
	m.view.States = make([]tier.State, lib.Len())
	for i := range m.view.States {
		s := &m.view.States[i]
		s.Divisible, s.InPlace = rapid.Bool().Draw(t, "divisible"), rapid.Bool().Draw(t, "in place")
		s.Leaves = s.Divisible && rapid.Bool().Draw(t, "leaves")
		for _, to := range []tier.Tier{tier.RAM, tier.Swap} {
			f := lib.At(i).Footprint(to, 0, false)
			m.charge(f, 1)
			if m.fits() && rapid.Bool().Draw(t, "there") {
				s.Tier = to
				break
			}
			m.charge(f, -1)
		}
	}
	if l, ok := p.(tier.Learner); ok {
		for i := range 3 * lib.Len() {
			m.view.Now = m.view.Now.Add(time.Minute)
			l.Accessed([]tier.Access{{Model: lib.At(i * i % lib.Len()).Name, At: m.view.Now}})
		}
	}
	if h, ok := p.(tier.Hinter); ok {
		h.Hint(lib.At(0).Name, 0.9, time.Minute, m.view.Now)
	}
	for range 4 {
		var need *tier.Need
		if rapid.Bool().Draw(t, "needed") {
			need = &tier.Need{Model: rapid.IntRange(-1, lib.Len()-1).Draw(t, "model"), To: tier.Tier(rapid.IntRange(0, 2).Draw(t, "to")), Waiters: 1}
			if need.Model < 0 || rapid.Bool().Draw(t, "room") {
				need.Room = tier.Footprint{tier.RAM: edge().Draw(t, "room of ram"), tier.Swap: edge().Draw(t, "room of swap")}
			}
		}
		m.view.Room = m.room()
		began := time.Now()
		plan := p.Plan(&m.view, need)
		if took := time.Since(began); took > time.Second {
			t.Fatalf("the plan took %v", took)
		}
		m.carryOut(t, plan)
	}
}

// carryOut takes the steps, each of which has to fit beside what it leaves.
func (m *tightMachine) carryOut(t *rapid.T, plan tier.Plan) {
	for _, step := range plan.Steps {
		i, ok := m.view.Library.Find(step.Model.Name)
		if !ok || m.view.States[i].Tier != step.From {
			t.Fatalf("step %+v starts where the model is not", step)
		}
		if step.Keep < 0 || step.Leave < 0 || step.Keep.Plus(step.Leave) > step.Model.Size {
			t.Fatalf("step %v to %v keeps %d and leaves %d of %d bytes", step.Model.Name, step.To, step.Keep, step.Leave, step.Model.Size)
		}
		before, after := m.view.Footprint(i), step.Footprint(false)
		m.charge(after.Beyond(before), 1)
		if !m.fits() {
			t.Fatalf("step %v from %v to %v, %d kept: charges %v of %v", step.Model.Name, step.From, step.To, step.Keep, m.charged, m.view.Limits)
		}
		m.charge(before.Beyond(after), -1)
		s := &m.view.States[i]
		if s.Tier, s.Kept, s.Left = step.To, 0, 0; step.To == tier.Swap {
			s.Kept, s.Left = step.Keep, step.Leave
		}
	}
}

// TestPlan_NoBoundOnSwap_IsPlannedLikeMuchSwap compares idle plans.
func TestPlan_NoBoundOnSwap_IsPlannedLikeMuchSwap(t *testing.T) {
	steps := func(ram, swap tier.Bytes) (n int) {
		var models []tier.Model
		for i := range 6 {
			models = append(models, tier.Model{Name: fmt.Sprint("m", i), Path: "m", Size: tier.Bytes(i+1) * tier.GiB / 2})
		}
		lib, err := tier.NewLibrary(models)
		if err != nil {
			t.Fatal(err)
		}
		p := optimizer.New()
		m := newMachine(lib, tier.Limits{RAM: ram, Swap: swap}, p)
		for k := range 40 {
			at := float64(30 * k)
			if err := m.request(k%4, at); err != nil {
				t.Fatal(err)
			}
			p.Hint(fmt.Sprint("m", 4+k%2), 0.9, time.Minute, m.view.Now)
			m.tell()
			n += len(p.Plan(&m.view, nil).Steps)
			if err := m.rest(at, at+30); err != nil {
				t.Fatal(err)
			}
		}
		return n
	}
	for _, ram := range []tier.Bytes{3 * tier.GiB, tier.Unlimited} {
		much := steps(ram, 64*tier.GiB)
		for _, swap := range []tier.Bytes{1 << 61, 1 << 62, 1<<62 + 1<<61, tier.Unlimited - 1, tier.Unlimited} {
			if got := steps(ram, swap); got != much || got == 0 {
				t.Errorf("ram %v: %d idle steps with a swap of %d, %d with 64 GiB", ram, got, swap, much)
			}
		}
	}
}
