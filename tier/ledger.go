package tier

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Account numbers one kind of memory in the ledger. The accounts of the memory
// tiers always exist, and their numbers are those of the tiers: Account(RAM) and
// Account(Swap). Further ones, such as the memory of a device, are numbered from
// FurtherAccount on when a Manager is made.
type Account uint8

// FurtherAccount is the first account that is not a tier's; MaxAccounts is how
// many there are at most, the unused one of Storage included.
const (
	FurtherAccount Account = Account(Count)
	MaxAccounts            = 8
)

// Footprint is an amount of bytes for each account, indexed by Tier or Account.
// Storage is not accounted for and stays zero.
type Footprint [MaxAccounts]Bytes

// Plus returns the sum by account, saturated.
func (f Footprint) Plus(g Footprint) Footprint {
	for a := range f {
		f[a] = f[a].Plus(g[a])
	}
	return f
}

// Minus returns the difference by account, saturated.
func (f Footprint) Minus(g Footprint) Footprint {
	for a := range f {
		f[a] = f[a].Minus(g[a])
	}
	return f
}

// Beyond returns by account what f has more than g, never below zero.
func (f Footprint) Beyond(g Footprint) Footprint {
	for a := range f {
		f[a] = max(f[a].Minus(g[a]), 0)
	}
	return f
}

// Within reports whether f is nowhere more than g.
func (f Footprint) Within(g Footprint) bool {
	for a := range f {
		if f[a] > g[a] {
			return false
		}
	}
	return true
}

// IsZero reports whether f holds no bytes.
func (f Footprint) IsZero() bool { return f == Footprint{} }

// Errors of a Ledger that is used wrongly. They are faults of the program, not
// of its input.
var (
	errSpent    = errors.New("ledger: reservation was committed or refunded before")
	errNegative = errors.New("ledger: negative amount")
	errInexact  = errors.New("ledger: amount is a saturated sum and cannot be charged exactly")
	errBeyond   = errors.New("ledger: charge is more than was charged and reserved")
)

// check returns why f cannot be charged or reserved. A saturated sum is Unlimited:
// its true value is not known, so no account can hold it.
func (f Footprint) check() error {
	switch {
	case slices.Min(f[:]) < 0:
		return errNegative
	case slices.Max(f[:]) == Unlimited:
		return errInexact
	}
	return nil
}

// Ledger keeps the accounts of bytes. At all times charged + reserved ≤ limit in
// every account, exactly, also with a limit of Unlimited. It has no lock, clock or
// I/O: its owner guards it. A method that returns an error has changed nothing.
//
// A move goes: Reserve what its peak takes beyond what is charged already, move
// the bytes, then Commit what was seen to be there, or Refund. The zero Ledger
// has no room.
type Ledger struct {
	limits                  Limits
	further                 []Bytes // limits of the further accounts
	charged, reserved, peak Footprint
}

// Reservation is bytes set aside before a move starts. Exactly one Commit or Refund
// spends it.
type Reservation struct {
	held  Footprint
	spent bool
}

// Held returns the bytes set aside; zero after it was spent.
func (r *Reservation) Held() Footprint {
	if r.spent {
		return Footprint{}
	}
	return r.held
}

// NewLedger returns an empty ledger with those limits of ram and swap, and a
// further account for each of the limits that follow, numbered from FurtherAccount
// on; there are MaxAccounts - FurtherAccount of those at most. None is a limit of
// nothing, in a further account as in Limits.
func NewLedger(l Limits, further ...Bytes) *Ledger {
	return &Ledger{limits: l, further: slices.Clone(further[:min(len(further), MaxAccounts-int(FurtherAccount))])}
}

// Accounts returns how many account numbers are in use: from Storage, which has no
// room, up to the last further account.
func (l *Ledger) Accounts() Account { return FurtherAccount + Account(len(l.further)) }

// Limit returns the limit of an account; that of Storage, and of one that does not
// exist, is zero.
func (l *Ledger) Limit(a Account) Bytes {
	switch {
	case a == Account(Storage) || a >= l.Accounts():
		return 0
	case a < FurtherAccount:
		return l.limits.Of(Tier(a))
	}
	return max(l.further[a-FurtherAccount], 0)
}

// tierOf returns the tier of an account; RAM for a further one, which is memory too.
func tierOf(a Account) Tier {
	if a < FurtherAccount {
		return Tier(a)
	}
	return RAM
}

// Limits returns the limits of ram and swap in force.
func (l *Ledger) Limits() Limits { return l.limits }

// Charged returns the bytes that are there.
func (l *Ledger) Charged() Footprint { return l.charged }

// Reserved returns the bytes that are promised to moves.
func (l *Ledger) Reserved() Footprint { return l.reserved }

// Peak returns the most that charged + reserved ever was, by account.
func (l *Ledger) Peak() Footprint { return l.peak }

// Free returns by account what is neither charged nor reserved.
func (l *Ledger) Free() Footprint {
	var f Footprint
	for a := range l.Accounts() {
		f[a] = l.Limit(a) - l.charged[a] - l.reserved[a]
	}
	return f
}

// Reserve sets f aside. If it does not fit, the error is a *CapacityError with the
// account, the need and what is free.
func (l *Ledger) Reserve(f Footprint) (*Reservation, error) {
	r := &Reservation{}
	return r, l.Grow(r, f)
}

// Grow adds f to what r holds.
func (l *Ledger) Grow(r *Reservation, f Footprint) error {
	if r.spent {
		return errSpent
	}
	if f.check() == errNegative {
		return errNegative
	}
	f[Storage] = 0
	free := l.Free()
	for a := Account(len(f) - 1); a > 0; a-- { // ram before swap: it is the scarcer
		if f[a] <= free[a] && f[a] < Unlimited {
			continue
		}
		e := &CapacityError{
			Account: a, Tier: tierOf(a), Need: f[a], Free: free[a], Limit: l.Limit(a),
			Never: r.held[a].Plus(f[a]) > l.Limit(a),
		}
		if f[a] == Unlimited {
			e.Never, e.Reason = true, fmt.Sprintf("needs more bytes in %s than can be counted", e.place())
		}
		return e
	}
	l.reserved = l.reserved.Plus(f)
	r.held = r.held.Plus(f)
	for a := range l.peak {
		l.peak[a] = max(l.peak[a], l.charged[a]+l.reserved[a])
	}
	return nil
}

// Commit spends r and replaces the charge was, which r's owner had, by now. What
// is charged now may be nowhere more than was and r together.
func (l *Ledger) Commit(r *Reservation, was, now Footprint) error {
	if r.spent {
		return errSpent
	}
	if err := cmp.Or(was.check(), now.check()); err != nil {
		return err
	}
	if !was.Within(l.charged) || !now.Within(was.Plus(r.held)) {
		return errBeyond
	}
	l.Refund(r)
	l.charged = l.charged.Minus(was).Plus(now)
	return nil
}

// Refund spends r and gives its bytes back. Refunding what is spent does
// nothing, so it can stand in a defer next to the Reserve.
func (l *Ledger) Refund(r *Reservation) {
	if r.spent {
		return
	}
	r.spent = true
	l.reserved = l.reserved.Minus(r.held)
}

// Discharge takes f, which was charged and was seen to be gone, off the account.
func (l *Ledger) Discharge(f Footprint) error {
	if err := f.check(); err != nil {
		return err
	}
	if !f.Within(l.charged) {
		return errBeyond
	}
	l.charged = l.charged.Minus(f)
	return nil
}

// SetLimits replaces the limits of ram and swap. If one of them holds more than
// its new limit, the error is a *CapacityError with the account, what it holds as
// Need, and the limit.
func (l *Ledger) SetLimits(n Limits) error {
	for _, t := range [...]Tier{RAM, Swap} {
		if held := l.charged[t] + l.reserved[t]; held > n.Of(t) {
			return &CapacityError{Account: Account(t), Tier: t, Need: held, Free: n.Of(t), Limit: n.Of(t)}
		}
	}
	l.limits = n
	return nil
}
