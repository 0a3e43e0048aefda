package tier

// Account numbers one kind of memory that bytes are charged to. The accounts of the memory
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
