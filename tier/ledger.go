package tier

import "errors"

// Footprint is an amount of bytes for each tier, indexed by Tier. Storage is not
// accounted for and stays zero.
type Footprint [Count]Bytes

// Plus returns the sum by tier, saturated.
func (f Footprint) Plus(g Footprint) Footprint {
	for t := range f {
		f[t] = f[t].Plus(g[t])
	}
	return f
}

// Minus returns the difference by tier.
func (f Footprint) Minus(g Footprint) Footprint {
	for t := range f {
		f[t] -= g[t]
	}
	return f
}

// Beyond returns by tier what f has more than g, never below zero.
func (f Footprint) Beyond(g Footprint) Footprint {
	for t := range f {
		f[t] = max(f[t]-g[t], 0)
	}
	return f
}

// Within reports whether f is nowhere more than g.
func (f Footprint) Within(g Footprint) bool {
	for t := range f {
		if f[t] > g[t] {
			return false
		}
	}
	return true
}

// IsZero reports whether f holds no bytes.
func (f Footprint) IsZero() bool { return f == Footprint{} }

func (f Footprint) negative() bool { return f[Swap] < 0 || f[RAM] < 0 || f[Storage] < 0 }

// Errors of a Ledger that is used wrongly. They are faults of the program, not
// of its input.
var (
	errSpent    = errors.New("ledger: reservation was committed or refunded before")
	errNegative = errors.New("ledger: negative amount")
	errBeyond   = errors.New("ledger: charge is more than was charged and reserved")
)

// Ledger is the account of bytes by tier. At all times charged + reserved ≤
// limit in every tier. It is a value without locks, clock or I/O: whoever owns
// it guards it. A method that returns an error has changed nothing.
//
// A move goes: Reserve what its peak takes beyond what is charged already, move
// the bytes, then Commit what was seen to be there, or Refund. The zero Ledger
// has no room.
type Ledger struct {
	limits                  Limits
	charged, reserved, peak Footprint
}

// Reservation is bytes set aside before a move starts. It is spent by exactly
// one Commit or Refund.
type Reservation struct {
	held  Footprint
	spent bool
}

// Held returns the bytes set aside; zero once it is spent.
func (r *Reservation) Held() Footprint {
	if r.spent {
		return Footprint{}
	}
	return r.held
}

// NewLedger returns an empty ledger with those limits.
func NewLedger(l Limits) *Ledger { return &Ledger{limits: l} }

// Limits returns the limits in force.
func (l *Ledger) Limits() Limits { return l.limits }

// Charged returns the bytes that are there.
func (l *Ledger) Charged() Footprint { return l.charged }

// Reserved returns the bytes that are promised to moves.
func (l *Ledger) Reserved() Footprint { return l.reserved }

// Peak returns the most that charged + reserved ever was, by tier.
func (l *Ledger) Peak() Footprint { return l.peak }

// Free returns by tier what is neither charged nor reserved.
func (l *Ledger) Free() Footprint {
	var f Footprint
	for _, t := range [...]Tier{Swap, RAM} {
		f[t] = l.limits.Of(t) - l.charged[t] - l.reserved[t]
	}
	return f
}

// Reserve sets f aside. Where it does not fit it returns a *CapacityError with
// the tier, the need and what is free.
func (l *Ledger) Reserve(f Footprint) (*Reservation, error) {
	r := &Reservation{}
	return r, l.Grow(r, f)
}

// Grow adds f to what r holds.
func (l *Ledger) Grow(r *Reservation, f Footprint) error {
	switch {
	case r.spent:
		return errSpent
	case f.negative():
		return errNegative
	}
	free := l.Free()
	for _, t := range [...]Tier{RAM, Swap} {
		if f[t] > free[t] {
			return &CapacityError{
				Tier: t, Need: f[t], Free: free[t], Limit: l.limits.Of(t),
				Never: r.held[t].Plus(f[t]) > l.limits.Of(t),
			}
		}
	}
	f[Storage] = 0
	l.reserved = l.reserved.Plus(f)
	r.held = r.held.Plus(f)
	l.note()
	return nil
}

// Commit spends r and replaces the charge was, which r's owner had, by now. What
// is charged now may be nowhere more than was and r together.
func (l *Ledger) Commit(r *Reservation, was, now Footprint) error {
	switch {
	case r.spent:
		return errSpent
	case was.negative() || now.negative():
		return errNegative
	case !was.Within(l.charged) || !now.Within(was.Plus(r.held)):
		return errBeyond
	}
	r.spent = true
	l.reserved = l.reserved.Minus(r.held)
	l.charged = l.charged.Minus(was).Plus(now)
	l.charged[Storage] = 0
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
	switch {
	case f.negative():
		return errNegative
	case !f.Within(l.charged):
		return errBeyond
	}
	l.charged = l.charged.Minus(f)
	return nil
}

// SetLimits replaces the limits. Where a tier holds more than its new limit it
// returns a *CapacityError with the tier, what it holds as Need, and the limit.
func (l *Ledger) SetLimits(n Limits) error {
	for _, t := range [...]Tier{RAM, Swap} {
		if held := l.charged[t] + l.reserved[t]; held > n.Of(t) {
			return &CapacityError{Tier: t, Need: held, Free: n.Of(t), Limit: n.Of(t)}
		}
	}
	l.limits = n
	return nil
}

func (l *Ledger) note() {
	for t := range l.peak {
		l.peak[t] = max(l.peak[t], l.charged[t]+l.reserved[t])
	}
}
