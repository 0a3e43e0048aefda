package optimizer

import "github.com/modeltier/modeltier/tier"

// leavesParts says whether a swap-tier model may leave a part of its weights in
// storage.
const leavesParts = false

// coldOf returns the part of a swap-tier model's weights that is in storage.
func coldOf(*tier.State) tier.Bytes { return 0 }

// move returns the move of a model from one place to another.
func move(m *tier.Model, from, to place) tier.Move {
	mv := tier.Move{Model: *m, From: from.tier, To: to.tier}
	if to.tier == tier.Swap {
		mv.Keep = to.ram
	}
	return mv
}
