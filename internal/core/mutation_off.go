//go:build !mutation

package core

import "github.com/modeltier/modeltier/tier"

func planted(fault) bool { return false }

// refund gives back what was set aside for a move that failed.
func (c *Core) refund(r *tier.Reservation) { c.ledger.Refund(r) }
