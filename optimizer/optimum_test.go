package optimizer

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// unit is the grain of the exact search: sizes and splits are whole units.
const unit = 32 * tier.MiB

// puzzle is a board with whole-unit sizes.
type puzzle struct {
	view   tier.View
	wanted int
	rate   []float64
	save   [][2]float64
}

// newPuzzle draws a board of about 5 models times scale, in memory for as many.
func newPuzzle(dice *rand.Rand, scale int, whole bool) *puzzle {
	p := &puzzle{view: tier.View{Limits: tier.Limits{
		RAM: tier.Bytes((4+dice.IntN(8))*scale) * unit, Swap: tier.Bytes((4+dice.IntN(10))*scale) * unit,
	}}}
	ram, swap := p.view.Limits.RAM, p.view.Limits.Swap
	var models []tier.Model
	for range (3 + dice.IntN(6)) * scale {
		m := tier.Model{Name: fmt.Sprint("m", len(models)), Path: "m", Size: tier.Bytes(1+dice.IntN(7)) * unit}
		s := tier.State{Divisible: !whole, Leaves: !whole, InPlace: true}
		switch kept := min(m.Size, ram); {
		case m.Size <= ram && dice.IntN(2) == 0:
			s.Tier = tier.RAM
			ram -= m.Size
		case whole && m.Size <= swap:
			s.Tier = tier.Swap
			swap -= m.Size
		case !whole && m.Size-kept <= swap:
			s.Tier, s.Kept = tier.Swap, kept
			ram, swap = ram-kept, swap-(m.Size-kept)
		}
		models = append(models, m)
		p.view.States = append(p.view.States, s)
		p.rate = append(p.rate, math.Exp(4*dice.NormFloat64()))
		slow := math.Exp(0.3 * dice.NormFloat64())
		p.save = append(p.save, [2]float64{0.4e-9 * slow, 1e-9 * slow})
	}
	p.view.Room = tier.Footprint{tier.Swap: swap, tier.RAM: ram}
	lib, err := tier.NewLibrary(models)
	if err != nil {
		panic(err)
	}
	p.view.Library = lib
	p.wanted = -1
	for i := range p.view.States {
		if m := lib.At(i); p.view.States[i].Tier != tier.RAM && (!whole || m.Size <= p.view.Limits.RAM || m.Size <= p.view.Limits.Swap) &&
			m.Size <= p.view.Limits.RAM+p.view.Limits.Swap {
			p.wanted = i
		}
	}
	return p
}

func (p *puzzle) value(i int, ram, held tier.Bytes) float64 {
	return p.rate[i] * (p.save[i][0]*float64(ram) + p.save[i][1]*float64(held))
}

// best is the most worth that any placement reaches which raises nothing but the
// wanted model: by dynamic programming over the units of ram and swap.
func (p *puzzle) best() float64 {
	ram, swap := int(p.view.Limits.RAM/unit), int(p.view.Limits.Swap/unit)
	worth := make([]float64, (ram+1)*(swap+1))
	for i := range p.view.States {
		m, s := p.view.Library.At(i), &p.view.States[i]
		size := int(m.Size / unit)
		most, held := 0, 0
		switch {
		case i == p.wanted || s.Tier == tier.RAM:
			most, held = size, size
		case s.Tier == tier.Swap:
			most, held = int(s.Kept/unit), size
		}
		next := make([]float64, len(worth))
		for r := range ram + 1 {
			for w := range swap + 1 {
				b := math.Inf(-1)
				for x := 0; x <= min(most, r); x++ {
					for y := 0; y <= min(held-x, w); y++ {
						switch {
						case !s.Divisible && x+y != 0 && x != size && y != size:
							continue
						case s.Divisible && !s.Leaves && x+y != 0 && x+y != size:
							continue
						case i == p.wanted && x+y == 0 && !(s.Divisible && s.Leaves):
							continue
						}
						v := worth[(r-x)*(swap+1)+w-y] + p.value(i, tier.Bytes(x)*unit, tier.Bytes(x+y)*unit)
						b = max(b, v)
					}
				}
				next[r*(swap+1)+w] = b
			}
		}
		worth = next
	}
	return worth[len(worth)-1]
}

// bestWhole is best for whole models, over the placements that can be reached:
// two models that only fit past each other in parts cannot pass.
func (p *puzzle) bestWhole() float64 {
	n := len(p.view.States)
	to := make([]tier.Tier, n)
	best := math.Inf(-1)
	for code := range int(math.Pow(tier.Count, float64(n))) {
		worth, ok := 0.0, true
		for i := range to {
			to[i] = tier.Tier(code % tier.Count)
			code /= tier.Count
			m := p.view.Library.At(i)
			f := m.Footprint(to[i], 0, false)
			worth += p.value(i, f[tier.RAM], f[tier.RAM]+f[tier.Swap])
			ok = ok && (to[i] <= p.view.States[i].Tier || i == p.wanted) && (to[i] > tier.Storage || i != p.wanted)
		}
		if ok && worth > best && p.passes(to) {
			best = worth
		}
	}
	return best
}

// passes reports whether whole moves can take every model where to says.
func (p *puzzle) passes(to []tier.Tier) bool {
	room := p.view.Room
	left := map[int]bool{}
	for i := range to {
		if to[i] != p.view.States[i].Tier {
			left[i] = true
		}
	}
	for progress := true; progress; {
		progress = false
		for _, down := range []bool{true, false} { // what goes to storage first
			for i := range to {
				m := p.view.Library.At(i)
				if !left[i] || (to[i] == tier.Storage) != down {
					continue
				}
				before, after := p.view.Footprint(i), m.Footprint(to[i], 0, false)
				if after.Beyond(before).Within(room) {
					room = room.Plus(before).Minus(after)
					delete(left, i)
					progress = true
				}
			}
		}
	}
	return len(left) == 0
}

// most bounds what any placement is worth that raises nothing but the wanted
// model: ram and memory as a whole are each filled to the byte with what is worth
// most there, as in the linear relaxation of the knapsack (Dantzig 1957).
func (p *puzzle) most() (sum float64) {
	n := len(p.view.States)
	fill := func(room tier.Bytes, worth func(i int) float64, there func(i int) tier.Bytes) {
		order := make([]int, n)
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order, func(a, b int) int { return cmp.Compare(worth(b), worth(a)) })
		for _, i := range order {
			x := min(there(i), room)
			room -= x
			sum += worth(i) * float64(x)
		}
	}
	present := func(i int) tier.Bytes {
		if i == p.wanted {
			return p.view.Library.At(i).Size
		}
		return p.view.Footprint(i)[tier.RAM]
	}
	held := func(i int) tier.Bytes {
		if i == p.wanted {
			return p.view.Library.At(i).Size
		}
		f := p.view.Footprint(i)
		return f[tier.RAM] + f[tier.Swap]
	}
	ram, swap := p.view.Limits.RAM, p.view.Limits.Swap
	fill(ram, func(i int) float64 { return p.rate[i] * p.save[i][0] }, present)
	fill(ram+swap, func(i int) float64 { return p.rate[i] * p.save[i][1] }, held)
	return sum
}

// planned is the worth of what the planner makes of the puzzle.
func (p *puzzle) planned(t *testing.T) float64 {
	var pl planner
	pl.set(&p.view, &tier.Need{Model: p.wanted, Waiters: 1}, false)
	for k := range pl.items {
		it := &pl.items[k]
		i := it.index
		it.saveHot, it.saveWarm = p.save[i][0], p.save[i][1]
		it.hot, it.warm = p.rate[i]*it.saveHot, p.rate[i]*it.saveWarm
	}
	if !pl.meet() {
		t.Fatalf("no plan for %+v, wanted %d", p.view, p.wanted)
	}
	at := make([]place, len(pl.items))
	for k := range pl.items {
		at[k] = pl.items[k].from
	}
	for _, h := range pl.hops {
		at[h.item] = h.to
	}
	sum := 0.0
	for k := range pl.items {
		sum += p.value(int(pl.items[k].index), at[k].ram, at[k].held())
	}
	return sum
}

func TestMeet_SmallBoards_NearTheExactOptimum(t *testing.T) {
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprint("whole models ", whole), func(t *testing.T) {
			dice := rand.New(rand.NewPCG(7, 7))
			const puzzles = 1000
			equal, played, worst := 0, 0, 1.0
			for range puzzles {
				p := newPuzzle(dice, 1, whole)
				if p.wanted < 0 {
					continue
				}
				best := p.best()
				if whole {
					best = p.bestWhole()
				}
				got := p.planned(t)
				if math.IsInf(best, -1) {
					continue // only by raising others does it fit
				}
				played++
				share := got / best
				worst = min(worst, share)
				if share > 1-1e-9 {
					equal++
				}
			}
			t.Logf("%d puzzles: optimal in %.1f %%, at least %.3f of the optimum", played, 100*float64(equal)/float64(played), worst)
			if worst < 0.95 || float64(equal) < 0.9*float64(played) {
				t.Errorf("want at least 0.95 of the optimum everywhere and the optimum in 90 %%")
			}
		})
	}
}

func TestMeet_LargeBoards_NearTheLinearBound(t *testing.T) {
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprint("whole models ", whole), func(t *testing.T) {
			dice := rand.New(rand.NewPCG(8, 8))
			played, sum, worst := 0, 0.0, 1.0
			for played < 100 {
				p := newPuzzle(dice, 8+dice.IntN(33), whole) // 24 to 320 models
				if p.wanted < 0 {
					continue
				}
				share := p.planned(t) / p.most()
				played++
				sum += share
				worst = min(worst, share)
				if share > 1+1e-9 {
					t.Fatalf("%v of a bound", share)
				}
			}
			t.Logf("%.4f of the bound in the mean, %.4f at least", sum/float64(played), worst)
			if worst < 0.95 {
				t.Errorf("want at least 0.95 of the bound everywhere")
			}
		})
	}
}
