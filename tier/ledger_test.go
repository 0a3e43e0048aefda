package tier

import (
	"errors"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

// naive is the account kept the slow way: every reservation and charge by name,
// summed anew each time, in numbers that cannot overflow.
type naive struct {
	limits   Limits
	reserved map[*Reservation]Footprint
	charges  map[int]Footprint
	peak     [Count]*big.Int
}

func (n *naive) held(t Tier) *big.Int {
	sum := new(big.Int)
	for _, f := range n.reserved {
		sum.Add(sum, big.NewInt(int64(f[t])))
	}
	for _, f := range n.charges {
		sum.Add(sum, big.NewInt(int64(f[t])))
	}
	return sum
}

func (n *naive) fits(f Footprint) bool {
	for _, t := range []Tier{Swap, RAM} {
		if new(big.Int).Add(n.held(t), big.NewInt(int64(f[t]))).Cmp(big.NewInt(int64(n.limits.Of(t)))) > 0 {
			return false
		}
	}
	return true
}

func (n *naive) note() {
	for _, t := range []Tier{Swap, RAM} {
		if h := n.held(t); n.peak[t] == nil || h.Cmp(n.peak[t]) > 0 {
			n.peak[t] = h
		}
	}
}

func drawFootprint(t *rapid.T) Footprint {
	size := rapid.OneOf(rapid.Int64Range(0, 20), rapid.Just(int64(Unlimited)), rapid.Int64())
	return Footprint{Swap: Bytes(size.Draw(t, "swap")), RAM: Bytes(size.Draw(t, "ram"))}
}

func TestLedger_AnyHistory_AgreesWithANaiveAccount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := Limits{RAM: Bytes(rapid.Int64Range(0, 60).Draw(t, "ram")), Swap: Bytes(rapid.Int64Range(0, 60).Draw(t, "swap"))}
		l := NewLedger(limits)
		n := &naive{limits: limits, reserved: map[*Reservation]Footprint{}, charges: map[int]Footprint{}}
		var open, spent []*Reservation
		next := 0
		pick := func(t *rapid.T, rs []*Reservation) *Reservation {
			return rs[rapid.IntRange(0, len(rs)-1).Draw(t, "reservation")]
		}
		spend := func(r *Reservation) {
			delete(n.reserved, r)
			for i := range open {
				if open[i] == r {
					open = append(open[:i], open[i+1:]...)
					break
				}
			}
			spent = append(spent, r)
		}
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				f := drawFootprint(t)
				r, err := l.Reserve(f)
				if want := !f.negative() && n.fits(f); (err == nil) != want {
					t.Fatalf("Reserve(%v): %v; fits: %v", f, err, want)
				}
				if err == nil {
					n.reserved[r] = f
					open = append(open, r)
					n.note()
				} else if ce, ok := errors.AsType[*CapacityError](err); ok && ce.Need <= ce.Free {
					t.Fatalf("refused though %v ≤ %v", ce.Need, ce.Free)
				}
			},
			"grow": func(t *rapid.T) {
				if len(open) == 0 {
					return
				}
				r, f := pick(t, open), drawFootprint(t)
				err := l.Grow(r, f)
				if want := !f.negative() && n.fits(f); (err == nil) != want {
					t.Fatalf("Grow(%v): %v; fits: %v", f, err, want)
				}
				if err == nil {
					n.reserved[r] = n.reserved[r].Plus(f)
					n.note()
				}
			},
			"commit": func(t *rapid.T) {
				if len(open) == 0 {
					return
				}
				r, now := pick(t, open), drawFootprint(t)
				was := Footprint{}
				key := next
				for k, f := range n.charges {
					was, key = f, k
					break
				}
				err := l.Commit(r, was, now)
				if want := !now.negative() && now.Within(was.Plus(n.reserved[r])); (err == nil) != want {
					t.Fatalf("Commit(%v, was %v, now %v): %v", n.reserved[r], was, now, err)
				}
				if err == nil {
					spend(r)
					n.charges[key] = now
					next++
				}
			},
			"refund": func(t *rapid.T) {
				if len(open) > 0 {
					r := pick(t, open)
					l.Refund(r)
					spend(r)
				}
			},
			"spend twice": func(t *rapid.T) {
				if len(spent) == 0 {
					return
				}
				r := pick(t, spent)
				l.Refund(r)
				if l.Grow(r, Footprint{RAM: 1}) == nil || l.Commit(r, Footprint{}, Footprint{}) == nil || !r.Held().IsZero() {
					t.Fatal("a spent reservation could be used")
				}
			},
			"discharge": func(t *rapid.T) {
				for k, f := range n.charges {
					part := Footprint{RAM: Bytes(rapid.Int64Range(0, int64(f[RAM])).Draw(t, "ram"))}
					if err := l.Discharge(part); err != nil {
						t.Fatalf("Discharge(%v) of %v: %v", part, f, err)
					}
					n.charges[k] = f.Minus(part)
					break
				}
			},
			"limits": func(t *rapid.T) {
				to := Limits{RAM: Bytes(rapid.Int64Range(0, 60).Draw(t, "ram")), Swap: Bytes(rapid.Int64Range(0, 60).Draw(t, "swap"))}
				was := n.limits
				n.limits = to
				want := n.fits(Footprint{})
				if err := l.SetLimits(to); (err == nil) != want {
					t.Fatalf("SetLimits(%+v): %v; fits: %v", to, err, want)
				}
				if !want {
					n.limits = was
				}
			},
			"": func(t *rapid.T) {
				for _, tr := range []Tier{Swap, RAM} {
					held := l.Charged()[tr] + l.Reserved()[tr]
					if n.held(tr).Cmp(big.NewInt(int64(held))) != 0 {
						t.Fatalf("%v: the ledger holds %d, the naive account %v", tr, held, n.held(tr))
					}
					if held > l.Limits().Of(tr) || l.Free()[tr] != l.Limits().Of(tr)-held {
						t.Fatalf("%v: %d held, %d free of %d", tr, held, l.Free()[tr], l.Limits().Of(tr))
					}
					if n.peak[tr] != nil && n.peak[tr].Cmp(big.NewInt(int64(l.Peak()[tr]))) > 0 {
						t.Fatalf("%v: peak %v, the ledger says %v", tr, n.peak[tr], l.Peak()[tr])
					}
				}
			},
		})
	})
}
