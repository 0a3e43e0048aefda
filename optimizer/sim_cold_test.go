package optimizer_test

import "github.com/modeltier/modeltier/tier"

// movedCold returns the bytes that a move leaves in storage.
func movedCold(mv *tier.Move) tier.Bytes { return 0 }

// setCold notes the bytes of a swap-tier model that are in storage.
func setCold(s *tier.State, b tier.Bytes) {}
