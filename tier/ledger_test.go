package tier

import (
	"errors"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// device is the further account that the ledgers under test have.
const device = FurtherAccount

// naive is the account kept the slow way: every reservation and charge by name,
// summed each time, in numbers that cannot overflow.
type naive struct {
	limits   Limits
	device   Bytes
	reserved map[*Reservation]exact
	charges  map[int]Footprint
	peak     [MaxAccounts]*big.Int
}

// exact is a Footprint of numbers that cannot overflow.
type exact [MaxAccounts]big.Int

func (e exact) plus(f Footprint) exact {
	var sum exact
	for a := range e {
		sum[a].Add(&e[a], big.NewInt(int64(f[a])))
	}
	return sum
}

// within reports whether f is nowhere more than e.
func (e exact) within(f Footprint) bool {
	for a := range e {
		if big.NewInt(int64(f[a])).Cmp(&e[a]) > 0 {
			return false
		}
	}
	return true
}

func (n *naive) limit(a Account) *big.Int {
	switch a {
	case Account(Swap), Account(RAM):
		return big.NewInt(max(int64([...]Bytes{Swap: n.limits.Swap, RAM: n.limits.RAM}[a]), 0))
	case device:
		return big.NewInt(max(int64(n.device), 0))
	}
	return new(big.Int)
}

func (n *naive) held(a Account) *big.Int {
	sum := new(big.Int)
	for _, e := range n.reserved {
		sum.Add(sum, &e[a])
	}
	for _, f := range n.charges {
		sum.Add(sum, big.NewInt(int64(f[a])))
	}
	return sum
}

func (n *naive) fits(f Footprint) bool {
	for a := Account(Swap); a < MaxAccounts; a++ {
		if new(big.Int).Add(n.held(a), big.NewInt(int64(f[a]))).Cmp(n.limit(a)) > 0 {
			return false
		}
	}
	return true
}

func (n *naive) note() {
	for a := range n.peak {
		if h := n.held(Account(a)); n.peak[a] == nil || h.Cmp(n.peak[a]) > 0 {
			n.peak[a] = h
		}
	}
}

// countable reports whether each amount of f is one that an account can hold.
func countable(f Footprint) bool {
	return !slices.ContainsFunc(f[:], func(b Bytes) bool { return b < 0 || b == Unlimited })
}

// extremes are where sums of two or three leave 63 bits.
var extremes = []int64{
	math.MinInt64, math.MinInt64 + 1, -1, 0, 1, 1<<61 - 1, 1 << 61, 1<<62 - 1, 1 << 62, 1<<62 + 1, math.MaxInt64 - 1, math.MaxInt64,
}

func drawBytes(t *rapid.T, what string) Bytes {
	return Bytes(rapid.OneOf(rapid.Int64Range(0, 20), rapid.SampledFrom(extremes), rapid.Int64()).Draw(t, what))
}

func drawFootprint(t *rapid.T) Footprint {
	return Footprint{Swap: drawBytes(t, "swap"), RAM: drawBytes(t, "ram"), device: drawBytes(t, "device")}
}

func drawLimits(t *rapid.T) Limits {
	limit := rapid.OneOf(rapid.Int64Range(-1, 60), rapid.SampledFrom(extremes))
	return Limits{RAM: Bytes(limit.Draw(t, "ram limit")), Swap: Bytes(limit.Draw(t, "swap limit"))}
}

func TestLedger_AnyHistoryWithExtremeAmounts_AgreesWithANaiveAccount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := &naive{limits: drawLimits(t), device: drawLimits(t).RAM, reserved: map[*Reservation]exact{}, charges: map[int]Footprint{}}
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
		grown := func(t *rapid.T, r *Reservation, f Footprint, err error) {
			if want := countable(f) && n.fits(f); (err == nil) != want {
				t.Fatalf("%v is set aside: %v; fits: %v", f, err, want)
			}
			if err == nil {
				n.reserved[r] = n.reserved[r].plus(f)
				n.note()
				return
			}
			e, ok := errors.AsType[*CapacityError](err)
			if ok && e.Need <= e.Free && e.Need != Unlimited || ok && e.Error() == "" {
				t.Fatalf("refused though %v ≤ %v: %v", e.Need, e.Free, err)
			}
			if negative := slices.ContainsFunc(f[:], func(b Bytes) bool { return b < 0 }); ok == negative {
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
				was := Footprint{}
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
				if l.Grow(r, Footprint{RAM: 1}) == nil || l.Commit(r, Footprint{}, Footprint{}) == nil || !r.Held().IsZero() {
					t.Fatal("a spent reservation could be used")
				}
			},
			"discharge": func(t *rapid.T) {
				for k, f := range n.charges {
					part := Footprint{}
					for _, a := range []Account{Account(Swap), Account(RAM), device} {
						part[a] = Bytes(rapid.Int64Range(0, int64(f[a])).Draw(t, "part"))
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
				want := n.fits(Footprint{})
				if err := l.SetLimits(to); (err == nil) != want {
					t.Fatalf("SetLimits(%+v): %v; fits: %v", to, err, want)
				}
				if !want {
					n.limits = was
				}
			},
			"": func(t *rapid.T) {
				for a := range Account(MaxAccounts) {
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
	l := NewLedger(Limits{RAM: Unlimited, Swap: Unlimited}, Unlimited)
	half := Footprint{Swap: 1 << 62, RAM: 1 << 62, device: 1 << 62}
	r, err := l.Reserve(half)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(r, Footprint{}, half); err != nil {
		t.Fatal(err)
	}
	if want := (Footprint{Swap: 1<<62 - 1, RAM: 1<<62 - 1, device: 1<<62 - 1}); l.Free() != want {
		t.Errorf("free %v, want %v", l.Free(), want)
	}
	for a, tier := range map[Account]string{Account(Swap): "swap", Account(RAM): "ram", device: "account 3"} {
		for _, need := range []Bytes{1 << 62, Unlimited} {
			var f Footprint
			f[a] = need
			_, err := l.Reserve(f)
			e, ok := errors.AsType[*CapacityError](err)
			if !ok || e.Account != a || e.Need != need || e.Never != (need == Unlimited) || !strings.Contains(err.Error(), tier) {
				t.Errorf("%v more in %s: %+v, %v", need, tier, e, err)
			}
		}
	}
	if err := l.Commit(&Reservation{}, half, Footprint{Swap: Unlimited}); !errors.Is(err, errInexact) {
		t.Errorf("a saturated charge: %v", err)
	}
}

func TestLedger_FurtherAccounts_ByTheirOwnLimits(t *testing.T) {
	limits := []Bytes{5, None, 7, 8, 9, 10, 11}
	l := NewLedger(Limits{RAM: 1, Swap: 2}, limits...)
	if l.Accounts() != MaxAccounts || l.Limit(MaxAccounts) != 0 || l.Limit(Account(Storage)) != 0 {
		t.Errorf("%d accounts, limits %d and %d", l.Accounts(), l.Limit(MaxAccounts), l.Limit(Account(Storage)))
	}
	limits[0] = 99 // the ledger has a copy
	if want := (Footprint{Swap: 2, RAM: 1, device: 5, device + 2: 7, device + 3: 8, device + 4: 9}); l.Free() != want {
		t.Errorf("free %v, want %v", l.Free(), want)
	}
	if _, err := l.Reserve(Footprint{RAM: 1, device: 6}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("err = %v", err)
	}
	if _, err := l.Reserve(Footprint{RAM: 1, device: 5}); err != nil {
		t.Errorf("a limit of None elsewhere stands against it: %v", err)
	}
	if _, err := NewLedger(Limits{RAM: 1}, 5).Reserve(Footprint{device + 1: 1}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("room in an account that does not exist: %v", err)
	}
}

func TestFootprint_Differences_SaturateInsteadOfWrapping(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, g := drawFootprint(t), drawFootprint(t)
		minus, beyond, plus := f.Minus(g), f.Beyond(g), f.Plus(g)
		for a := range f {
			x, y := big.NewInt(int64(f[a])), big.NewInt(int64(g[a]))
			saturated := func(n *big.Int) Bytes {
				switch {
				case n.Cmp(big.NewInt(math.MaxInt64)) > 0:
					return math.MaxInt64
				case n.Cmp(big.NewInt(math.MinInt64)) < 0:
					return math.MinInt64
				}
				return Bytes(n.Int64())
			}
			difference := saturated(new(big.Int).Sub(x, y))
			if sum := saturated(new(big.Int).Add(x, y)); minus[a] != difference || beyond[a] != max(difference, 0) || plus[a] != sum {
				t.Fatalf("%d and %d: minus %d, beyond %d, plus %d; want %d and %d", f[a], g[a], minus[a], beyond[a], plus[a], difference, sum)
			}
		}
	})
}
