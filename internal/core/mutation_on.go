//go:build mutation

package core

import (
	"os"
	"sync"

	"github.com/modeltier/modeltier/tier"
)

// mutation is the fault that is planted in this process; empty: none.
var mutation = fault(os.Getenv("MODELTIER_MUTATION"))

func planted(f fault) bool { return mutation == f }

// refund gives back what was set aside for a move that failed, unless a fault has
// it forgotten, or done only once the next such move has failed.
func (c *Core) refund(r *tier.Reservation) {
	switch {
	case planted(missedRefund):
	case planted(lateRefund):
		if before, ok := late.Swap(c, r); ok {
			c.ledger.Refund(before.(*tier.Reservation))
		}
	default:
		c.ledger.Refund(r)
	}
}

// late is what late refunds hold back: a *tier.Reservation for each *Core.
var late sync.Map
