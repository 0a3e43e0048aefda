package core

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// Errors of a Ledger that is used wrongly. They are faults of the program, not
// of its input.
var (
	errSpent    = errors.New("ledger: reservation was committed or refunded before")
	errNegative = errors.New("ledger: negative amount")
	errInexact  = errors.New("ledger: amount is a saturated sum and cannot be charged exactly")
	errBeyond   = errors.New("ledger: charge is more than was charged and reserved")
)

// chargeable returns why f cannot be charged or reserved. A saturated sum is Unlimited:
// its true value is not known, so no account can hold it.
func chargeable(f tier.Footprint) error {
	switch {
	case slices.Min(f[:]) < 0:
		return errNegative
	case slices.Max(f[:]) == tier.Unlimited:
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
	limits                  tier.Limits
	further                 []tier.Bytes // limits of the further accounts
	charged, reserved, peak tier.Footprint
}

// Reservation is bytes set aside before a move starts. Exactly one Commit or Refund
// spends it.
type Reservation struct {
	held  tier.Footprint
	spent bool
}

// Held returns the bytes set aside; zero after it was spent.
func (r *Reservation) Held() tier.Footprint {
	if r.spent {
		return tier.Footprint{}
	}
	return r.held
}

// NewLedger returns an empty ledger with those limits of ram and swap, and a
// further account for each of the limits that follow, numbered from FurtherAccount
// on; there are MaxAccounts - FurtherAccount of those at most. None is a limit of
// nothing, in a further account as in Limits.
func NewLedger(l tier.Limits, further ...tier.Bytes) *Ledger {
	return &Ledger{limits: l, further: slices.Clone(further[:min(len(further), tier.MaxAccounts-int(tier.FurtherAccount))])}
}

// Accounts returns how many account numbers are in use: from Storage, which has no
// room, up to the last further account.
func (l *Ledger) Accounts() tier.Account { return tier.FurtherAccount + tier.Account(len(l.further)) }

// Limit returns the limit of an account; that of Storage, and of one that does not
// exist, is zero.
func (l *Ledger) Limit(a tier.Account) tier.Bytes {
	switch {
	case a == tier.Account(tier.Storage) || a >= l.Accounts():
		return 0
	case a < tier.FurtherAccount:
		return l.limits.Of(tier.Tier(a))
	}
	return max(l.further[a-tier.FurtherAccount], 0)
}

// tierOf returns the tier of an account; RAM for a further one, which is memory too.
func tierOf(a tier.Account) tier.Tier {
	if a < tier.FurtherAccount {
		return tier.Tier(a)
	}
	return tier.RAM
}

// Limits returns the limits of ram and swap in force.
func (l *Ledger) Limits() tier.Limits { return l.limits }

// Charged returns the bytes that are there.
func (l *Ledger) Charged() tier.Footprint { return l.charged }

// Reserved returns the bytes that are promised to moves.
func (l *Ledger) Reserved() tier.Footprint { return l.reserved }

// Peak returns the most that charged + reserved ever was, by account.
func (l *Ledger) Peak() tier.Footprint { return l.peak }

// Free returns by account what is neither charged nor reserved.
func (l *Ledger) Free() tier.Footprint {
	var f tier.Footprint
	for a := range l.Accounts() {
		f[a] = l.Limit(a) - l.charged[a] - l.reserved[a]
	}
	return f
}

// Reserve sets f aside. If it does not fit, the error is a *CapacityError with the
// account, the need and what is free.
func (l *Ledger) Reserve(f tier.Footprint) (*Reservation, error) {
	r := &Reservation{}
	return r, l.Grow(r, f)
}

// Grow adds f to what r holds.
func (l *Ledger) Grow(r *Reservation, f tier.Footprint) error {
	if r.spent {
		return errSpent
	}
	if chargeable(f) == errNegative {
		return errNegative
	}
	f[tier.Storage] = 0
	free := l.Free()
	for a := tier.Account(len(f) - 1); a > 0; a-- { // ram before swap: it is the scarcer
		if f[a] <= free[a] && f[a] < tier.Unlimited {
			continue
		}
		e := &tier.CapacityError{
			Account: a, Tier: tierOf(a), Need: f[a], Free: free[a], Limit: l.Limit(a),
			Never: r.held[a].Plus(f[a]) > l.Limit(a),
		}
		if f[a] == tier.Unlimited {
			place := tierOf(a).String()
			if a >= tier.FurtherAccount {
				place = fmt.Sprint("account ", a)
			}
			e.Never, e.Reason = true, fmt.Sprintf("needs more bytes in %s than can be counted", place)
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
func (l *Ledger) Commit(r *Reservation, was, now tier.Footprint) error {
	if r.spent {
		return errSpent
	}
	if err := cmp.Or(chargeable(was), chargeable(now)); err != nil {
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
func (l *Ledger) Discharge(f tier.Footprint) error {
	if err := chargeable(f); err != nil {
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
func (l *Ledger) SetLimits(n tier.Limits) error {
	for _, t := range [...]tier.Tier{tier.RAM, tier.Swap} {
		if held := l.charged[t] + l.reserved[t]; held > n.Of(t) {
			return &tier.CapacityError{Account: tier.Account(t), Tier: t, Need: held, Free: n.Of(t), Limit: n.Of(t)}
		}
	}
	l.limits = n
	return nil
}
