//go:build mutation

package core

import (
	"os"

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
		c.ledger.Refund(late)
		late = r
	default:
		c.ledger.Refund(r)
	}
}

// late is what a late refund holds back.
var late = new(tier.Reservation)
