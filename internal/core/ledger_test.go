package core

import (
	"errors"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/modeltier/modeltier/tier"
)

// device is the further account that the ledgers under test have.
const device = tier.FurtherAccount

// naive is the account kept the slow way: every reservation and charge by name,
// summed each time, in numbers that cannot overflow.
type naive struct {
	limits   tier.Limits
	device   tier.Bytes
	reserved map[*Reservation]exact
	charges  map[int]tier.Footprint
	peak     [tier.MaxAccounts]*big.Int
}

// exact is a Footprint of numbers that cannot overflow.
type exact [tier.MaxAccounts]big.Int

func (e exact) plus(f tier.Footprint) exact {
	var sum exact
	for a := range e {
		sum[a].Add(&e[a], big.NewInt(int64(f[a])))
	}
	return sum
}

// within reports whether f is nowhere more than e.
func (e exact) within(f tier.Footprint) bool {
	for a := range e {
		if big.NewInt(int64(f[a])).Cmp(&e[a]) > 0 {
			return false
		}
	}
	return true
}

func (n *naive) limit(a tier.Account) *big.Int {
	switch a {
	case tier.Account(tier.Swap), tier.Account(tier.RAM):
		return big.NewInt(max(int64([...]tier.Bytes{tier.Swap: n.limits.Swap, tier.RAM: n.limits.RAM}[a]), 0))
	case device:
		return big.NewInt(max(int64(n.device), 0))
	}
	return new(big.Int)
}

func (n *naive) held(a tier.Account) *big.Int {
	sum := new(big.Int)
	for _, e := range n.reserved {
		sum.Add(sum, &e[a])
	}
	for _, f := range n.charges {
		sum.Add(sum, big.NewInt(int64(f[a])))
	}
	return sum
}

func (n *naive) fits(f tier.Footprint) bool {
	for a := tier.Account(tier.Swap); a < tier.MaxAccounts; a++ {
		if new(big.Int).Add(n.held(a), big.NewInt(int64(f[a]))).Cmp(n.limit(a)) > 0 {
			return false
		}
	}
	return true
}

func (n *naive) note() {
	for a := range n.peak {
		if h := n.held(tier.Account(a)); n.peak[a] == nil || h.Cmp(n.peak[a]) > 0 {
			n.peak[a] = h
		}
	}
}

// countable reports whether each amount of f is one that an account can hold.
func countable(f tier.Footprint) bool {
	return !slices.ContainsFunc(f[:], func(b tier.Bytes) bool { return b < 0 || b == tier.Unlimited })
}

// extremes are where sums of two or three leave 63 bits.
var extremes = []int64{
	math.MinInt64, math.MinInt64 + 1, -1, 0, 1, 1<<61 - 1, 1 << 61, 1<<62 - 1, 1 << 62, 1<<62 + 1, math.MaxInt64 - 1, math.MaxInt64,
}

func drawBytes(t *rapid.T, what string) tier.Bytes {
	return tier.Bytes(rapid.OneOf(rapid.Int64Range(0, 20), rapid.SampledFrom(extremes), rapid.Int64()).Draw(t, what))
}

func drawFootprint(t *rapid.T) tier.Footprint {
	return tier.Footprint{tier.Swap: drawBytes(t, "swap"), tier.RAM: drawBytes(t, "ram"), device: drawBytes(t, "device")}
}

func drawLimits(t *rapid.T) tier.Limits {
	limit := rapid.OneOf(rapid.Int64Range(-1, 60), rapid.SampledFrom(extremes))
	return tier.Limits{RAM: tier.Bytes(limit.Draw(t, "ram limit")), Swap: tier.Bytes(limit.Draw(t, "swap limit"))}
}

func TestLedger_AnyHistoryWithExtremeAmounts_AgreesWithANaiveAccount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := &naive{limits: drawLimits(t), device: drawLimits(t).RAM, reserved: map[*Reservation]exact{}, charges: map[int]tier.Footprint{}}
		l := NewLedger(n.limits, n.device)
		var open, spent []*Reservation
		next := 0
		pick := func(t *rapid.T, rs []*Reservation) *Reservation {
			return rs[rapid.IntRange(0, len(rs)-1).Draw(t, "reservation")]
		}
		spend := func(r *Reservation) {
			delete(n.reserved, r)
			open = slices.DeleteFunc(open, func(o *Reservation) bool { return o == r })
			spent = append(spent, r)
		}
		grown := func(t *rapid.T, r *Reservation, f tier.Footprint, err error) {
			if want := countable(f) && n.fits(f); (err == nil) != want {
				t.Fatalf("%v is set aside: %v; fits: %v", f, err, want)
			}
			if err == nil {
				n.reserved[r] = n.reserved[r].plus(f)
				n.note()
				return
			}
			e, ok := errors.AsType[*tier.CapacityError](err)
			if ok && e.Need <= e.Free && e.Need != tier.Unlimited || ok && e.Error() == "" {
				t.Fatalf("refused though %v ≤ %v: %v", e.Need, e.Free, err)
			}
			if negative := slices.ContainsFunc(f[:], func(b tier.Bytes) bool { return b < 0 }); ok == negative {
				t.Fatalf("%v is refused with %T", f, err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				f := drawFootprint(t)
				r, err := l.Reserve(f)
				if grown(t, r, f, err); err == nil {
					open = append(open, r)
				}
			},
			"grow": func(t *rapid.T) {
				if len(open) > 0 {
					r, f := pick(t, open), drawFootprint(t)
					grown(t, r, f, l.Grow(r, f))
				}
			},
			"commit": func(t *rapid.T) {
				if len(open) == 0 {
					return
				}
				r, now := pick(t, open), drawFootprint(t)
				if rapid.Bool().Draw(t, "all of it") {
					now = r.Held()
				}
				was := tier.Footprint{}
				key := next
				for k, f := range n.charges {
					was, key = f, k
					break
				}
				err := l.Commit(r, was, now)
				if want := countable(now) && n.reserved[r].plus(was).within(now); (err == nil) != want {
					t.Fatalf("Commit(%v, was %v, now %v): %v", r.Held(), was, now, err)
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
				if l.Grow(r, tier.Footprint{tier.RAM: 1}) == nil || l.Commit(r, tier.Footprint{}, tier.Footprint{}) == nil || !r.Held().IsZero() {
					t.Fatal("a spent reservation could be used")
				}
			},
			"discharge": func(t *rapid.T) {
				for k, f := range n.charges {
					part := tier.Footprint{}
					for _, a := range []tier.Account{tier.Account(tier.Swap), tier.Account(tier.RAM), device} {
						part[a] = tier.Bytes(rapid.Int64Range(0, int64(f[a])).Draw(t, "part"))
					}
					if err := l.Discharge(part); err != nil {
						t.Fatalf("Discharge(%v) of %v: %v", part, f, err)
					}
					n.charges[k] = f.Minus(part)
					break
				}
			},
			"discharge anything": func(t *rapid.T) {
				f := drawFootprint(t)
				if !countable(f) || !f.Within(l.Charged()) {
					if l.Discharge(f) == nil {
						t.Fatalf("Discharge(%v) of %v", f, l.Charged())
					}
				}
			},
			"limits": func(t *rapid.T) {
				to, was := drawLimits(t), n.limits
				n.limits = to
				want := n.fits(tier.Footprint{})
				if err := l.SetLimits(to); (err == nil) != want {
					t.Fatalf("SetLimits(%+v): %v; fits: %v", to, err, want)
				}
				if !want {
					n.limits = was
				}
			},
			"": func(t *rapid.T) {
				for a := range tier.Account(tier.MaxAccounts) {
					held := new(big.Int).Add(big.NewInt(int64(l.Charged()[a])), big.NewInt(int64(l.Reserved()[a])))
					if n.held(a).Cmp(held) != 0 {
						t.Fatalf("account %d: the ledger holds %d, the naive account %v", a, held, n.held(a))
					}
					free := new(big.Int).Sub(n.limit(a), held)
					if free.Sign() < 0 || free.Cmp(big.NewInt(int64(l.Free()[a]))) != 0 || n.limit(a).Cmp(big.NewInt(int64(l.Limit(a)))) != 0 {
						t.Fatalf("account %d: %d held, %d free of %d, want %d free of %d", a, held, l.Free()[a], l.Limit(a), free, n.limit(a))
					}
					if n.peak[a] != nil && n.peak[a].Cmp(big.NewInt(int64(l.Peak()[a]))) != 0 {
						t.Fatalf("account %d: peak %v, the ledger says %v", a, n.peak[a], l.Peak()[a])
					}
				}
			},
		})
	})
}

func TestLedger_UnlimitedAccounts_HoldWhatCanBeCounted(t *testing.T) {
	l := NewLedger(tier.Limits{RAM: tier.Unlimited, Swap: tier.Unlimited}, tier.Unlimited)
	half := tier.Footprint{tier.Swap: 1 << 62, tier.RAM: 1 << 62, device: 1 << 62}
	r, err := l.Reserve(half)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(r, tier.Footprint{}, half); err != nil {
		t.Fatal(err)
	}
	if want := (tier.Footprint{tier.Swap: 1<<62 - 1, tier.RAM: 1<<62 - 1, device: 1<<62 - 1}); l.Free() != want {
		t.Errorf("free %v, want %v", l.Free(), want)
	}
	for a, place := range map[tier.Account]string{tier.Account(tier.Swap): "swap", tier.Account(tier.RAM): "ram", device: "account 3"} {
		for _, need := range []tier.Bytes{1 << 62, tier.Unlimited} {
			var f tier.Footprint
			f[a] = need
			_, err := l.Reserve(f)
			e, ok := errors.AsType[*tier.CapacityError](err)
			if !ok || e.Account != a || e.Need != need || e.Never != (need == tier.Unlimited) || !strings.Contains(err.Error(), place) {
				t.Errorf("%v more in %s: %+v, %v", need, place, e, err)
			}
		}
	}
	if err := l.Commit(&Reservation{}, half, tier.Footprint{tier.Swap: tier.Unlimited}); !errors.Is(err, errInexact) {
		t.Errorf("a saturated charge: %v", err)
	}
}

func TestLedger_FurtherAccounts_ByTheirOwnLimits(t *testing.T) {
	limits := []tier.Bytes{5, tier.None, 7, 8, 9, 10, 11}
	l := NewLedger(tier.Limits{RAM: 1, Swap: 2}, limits...)
	if l.Accounts() != tier.MaxAccounts || l.Limit(tier.MaxAccounts) != 0 || l.Limit(tier.Account(tier.Storage)) != 0 {
		t.Errorf("%d accounts, limits %d and %d", l.Accounts(), l.Limit(tier.MaxAccounts), l.Limit(tier.Account(tier.Storage)))
	}
	limits[0] = 99 // the ledger has a copy
	if want := (tier.Footprint{tier.Swap: 2, tier.RAM: 1, device: 5, device + 2: 7, device + 3: 8, device + 4: 9}); l.Free() != want {
		t.Errorf("free %v, want %v", l.Free(), want)
	}
	if _, err := l.Reserve(tier.Footprint{tier.RAM: 1, device: 6}); !errors.Is(err, tier.ErrTooLarge) {
		t.Errorf("err = %v", err)
	}
	if _, err := l.Reserve(tier.Footprint{tier.RAM: 1, device: 5}); err != nil {
		t.Errorf("a limit of None elsewhere stands against it: %v", err)
	}
	if _, err := NewLedger(tier.Limits{RAM: 1}, 5).Reserve(tier.Footprint{device + 1: 1}); !errors.Is(err, tier.ErrTooLarge) {
		t.Errorf("room in an account that does not exist: %v", err)
	}
}

func TestFootprint_Differences_SaturateInsteadOfWrapping(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, g := drawFootprint(t), drawFootprint(t)
		minus, beyond, plus := f.Minus(g), f.Beyond(g), f.Plus(g)
		for a := range f {
			x, y := big.NewInt(int64(f[a])), big.NewInt(int64(g[a]))
			saturated := func(n *big.Int) tier.Bytes {
				switch {
				case n.Cmp(big.NewInt(math.MaxInt64)) > 0:
					return math.MaxInt64
				case n.Cmp(big.NewInt(math.MinInt64)) < 0:
					return math.MinInt64
				}
				return tier.Bytes(n.Int64())
			}
			difference := saturated(new(big.Int).Sub(x, y))
			if sum := saturated(new(big.Int).Add(x, y)); minus[a] != difference || beyond[a] != max(difference, 0) || plus[a] != sum {
				t.Fatalf("%d and %d: minus %d, beyond %d, plus %d; want %d and %d", f[a], g[a], minus[a], beyond[a], plus[a], difference, sum)
			}
		}
	})
}
