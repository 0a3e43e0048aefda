package safety

import (
	"fmt"

	"github.com/modeltier/modeltier/tier"
)

// Promise is what admission weighs beside a reading: what was promised already,
// and what the reading cannot know. Negative amounts count as zero.
type Promise struct {
	// Limits are those in force. A Reserved of tier.None keeps nothing free.
	Limits tier.Limits
	// Free is what the ledger leaves, by tier.
	Free tier.Footprint
	// Unseen is bytes promised in ram that the reading cannot show yet: reservations
	// in flight that have not arrived, and charges newer than the reading.
	Unseen tier.Bytes
	// Outside is bytes of ram that outsiders were given and that the reading does not
	// show as taken yet: they may take them at any moment.
	Outside tier.Bytes
	// Reclaimable is bytes of our own models that are present and that the reading
	// still counts as available: clean file pages that are not locked.
	Reclaimable tier.Bytes
	// Mapped is the most bytes of files that processes may map on behalf of our own
	// models, the Reclaimable ones and those of models in swap and in moves among them.
	Mapped tier.Bytes
	// Loaded is the bytes of weights that our loads have read so far. Only the Governor
	// uses it.
	Loaded tier.Bytes
	// Leaving is bytes that moves under way will give back. Only the Governor uses it:
	// no admission counts on it.
	Leaving tier.Bytes
	// FileBacked: swap-tier weights are clean pages of their own files and need
	// neither memory nor a swap device.
	FileBacked bool
	// Background: no request waits for what is to be admitted. It is refused at
	// medium pressure.
	Background bool
}

// beyondReserve returns the memory beyond the reserve that is not ours and not
// promised, negative if the reserve is not whole.
func beyondReserve(p *Promise, m *tier.Memory) tier.Bytes {
	return max(m.Available, 0).
		Minus(max(p.Reclaimable, 0)).
		Minus(max(p.Unseen, 0)).
		Minus(max(p.Outside, 0)).
		Minus(max(p.Limits.Reserved, 0))
}

// spare returns the memory that may be promised now, negative if too much is
// promised already. File pages that other programs map are theirs: the kernel takes
// them in need, but no promise counts on it.
func spare(p *Promise, m *tier.Memory) tier.Bytes {
	others := max(m.Mapped, 0).Minus(max(p.Mapped, p.Reclaimable, 0))
	return beyondReserve(p, m).Minus(max(others, 0))
}

// Room returns what may be admitted at once, by tier, never negative. For RAM it
// is the smaller of what the ledger leaves and of
//
//	Available − Reclaimable − pages that others map − Unseen − Outside − Limits.Reserved
//
// (others map what is in Mapped beyond the larger of Promise.Mapped and
// Reclaimable) and for Swap what the ledger leaves; if swap-tier weights are not file backed,
// also no more than that sum, if positive, and SwapFree together. Compressed swap
// never counts. Each tier stands alone here: if weights in Swap need memory, the
// two share it, and Admit accounts for that.
//
// Room is a pure function of numbers: it ignores pressure.
func Room(p Promise, m tier.Memory) tier.Footprint {
	var room tier.Footprint
	memory := max(spare(&p, &m), 0)
	room[tier.RAM] = max(min(p.Free[tier.RAM], memory), 0)
	room[tier.Swap] = max(p.Free[tier.Swap], 0)
	if !p.FileBacked {
		room[tier.Swap] = min(room[tier.Swap], memory.Plus(max(m.SwapFree, 0)))
	}
	return room
}

// Admit returns nil if need fits: the bytes by tier that a move of model takes at
// its peak beyond what is charged for it already. A need that fills the room
// exactly fits. Otherwise it returns a *tier.CapacityError about the first obstacle
// of these:
//
//   - the tier's limit, or all that the machine has beyond the reserve, is smaller
//     than need: the error unwraps to tier.ErrTooLarge;
//   - need takes memory, and pressure (m.Pressure.Level; pass the Governor's level)
//     is high, or is medium and the move is in the background;
//   - the ledger leaves less than need;
//   - the memory that the probe sees leaves less than need.
//
// The last three unwrap to tier.ErrNoCapacity. The caller fills in the Holders. A
// nil model leaves the error without a name. Admit allocates only for an error.
func Admit(p Promise, m tier.Memory, model *tier.Model, need tier.Footprint) error {
	memory := spare(&p, &m)
	need[tier.RAM], need[tier.Swap] = max(need[tier.RAM], 0), max(need[tier.Swap], 0)
	// What need takes of memory and swap together, and what there is of them.
	taken, backed := need[tier.RAM], max(memory, 0)
	if !p.FileBacked {
		taken = taken.Plus(need[tier.Swap])
		backed = backed.Plus(max(m.SwapFree, 0))
	}
	holds := max(m.Total.Minus(max(p.Limits.Reserved, 0)), 0) // all that this machine can ever have free

	for _, t := range [...]tier.Tier{tier.RAM, tier.Swap} {
		if need[t] > p.Limits.Of(t) {
			return overLimit(&p, model, t, need[t])
		}
	}
	if m.Total > 0 && need[tier.RAM] > holds {
		e := short(model, tier.RAM, "RAM", need[tier.RAM], max(memory, 0), holds)
		e.Never = true
		return e
	}
	if taken > 0 && (m.Pressure.Level >= tier.PressureHigh || p.Background && m.Pressure.Level >= tier.PressureMedium) {
		return pressed(&p, &m, model, need)
	}
	for _, t := range [...]tier.Tier{tier.RAM, tier.Swap} {
		if need[t] > max(p.Free[t], 0) {
			return overLimit(&p, model, t, need[t])
		}
	}
	if need[tier.RAM] > 0 && need[tier.RAM] > memory {
		return short(model, tier.RAM, "RAM", need[tier.RAM], max(memory, 0), holds)
	}
	if taken > backed {
		return short(model, tier.Swap, "capacity", taken, backed, holds.Plus(max(m.SwapTotal, 0)))
	}
	return nil
}

// tierNames are the tiers' names in the recorded wordings of the wire contract.
var tierNames = [tier.Count]string{tier.Storage: "Storage", tier.Swap: "Swap", tier.RAM: "RAM"}

// overLimit returns the error of a need beyond what the ledger leaves.
func overLimit(p *Promise, model *tier.Model, t tier.Tier, need tier.Bytes) *tier.CapacityError {
	limit, free := p.Limits.Of(t), max(p.Free[t], 0)
	used := max(limit-free, 0).Plus(need)
	is, may := used.Apart(limit)
	return &tier.CapacityError{
		Model: nameOf(model), Tier: t, Need: need, Free: free, Limit: limit,
		Never:  need > limit,
		Reason: fmt.Sprintf("%s limit exceeded: %sGB > %sGB", tierNames[t], is, may),
	}
}

// short returns the error of a need beyond what the probe sees.
func short(model *tier.Model, t tier.Tier, what string, need, have, limit tier.Bytes) *tier.CapacityError {
	needs, has := need.Apart(have)
	return &tier.CapacityError{
		Model: nameOf(model), Tier: t, Need: need, Free: have, Limit: limit,
		Reason: fmt.Sprintf("Insufficient %s: need %sGB, have %sGB", what, needs, has),
	}
}

// pressed returns the error of a need under pressure.
func pressed(p *Promise, m *tier.Memory, model *tier.Model, need tier.Footprint) *tier.CapacityError {
	t := tier.RAM
	if need[tier.RAM] == 0 {
		t = tier.Swap
	}
	until := "no model is loaded until it falls: retry in a minute, or close other programs"
	if m.Pressure.Level < tier.PressureHigh {
		until = "nothing is moved in the background until it falls"
	}
	return &tier.CapacityError{
		Model: nameOf(model), Tier: t, Need: need[t], Limit: p.Limits.Of(t),
		Reason: fmt.Sprintf("Memory pressure is %v (%s); %s", m.Pressure.Level, figures(m.Pressure), until),
	}
}

// figures puts the figures of a pressure into words.
func figures(p tier.Pressure) string {
	switch {
	case p.HasPSI:
		return fmt.Sprintf("in the last 10 s some tasks stalled %.1f%% of the time, all %.1f%%; %d OOM kills", p.Some10, p.Full10, p.OOMKills)
	case p.Refault == 0 && p.SwapOut == 0 && p.Stalls == 0 && p.OOMKills == 0:
		return "as the system judges it"
	}
	return fmt.Sprintf("%v/s read again, %v/s swapped out, %.0f direct reclaims/s, %d OOM kills", p.Refault, p.SwapOut, p.Stalls, p.OOMKills)
}

func nameOf(model *tier.Model) string {
	if model == nil {
		return ""
	}
	return model.Name
}
