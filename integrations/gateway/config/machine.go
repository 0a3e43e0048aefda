package config

import (
	"fmt"

	"github.com/modeltier/modeltier/tier"
)

// MachineLimits are the limits where a file names none: what the machine has, or the
// container if that has less (mem.Total), but for a reserve of an eighth, at least 512 MiB
// and at most 4 GiB. ram is in steps of 256 MiB. swap, which is files and takes no
// memory, is twice as much, and any model that fits one of them is accepted. Where the size
// is not known (zero), they are tier.DefaultLimits. Boards with one memory for CPU and GPU
// have limits of their own: see jetson.Board.Limits.
func MachineLimits(mem tier.Memory) tier.Limits {
	const step, most = 256 * tier.MiB, 1 << 50 // most keeps the arithmetic from overflowing
	total := min(mem.Total, most)
	if total <= 0 {
		return tier.DefaultLimits()
	}
	reserved := min(max(total/8, 512*tier.MiB), 4*tier.GiB, total/2)
	ram := total - reserved
	if ram > step {
		ram = ram / step * step
	}
	return tier.Limits{RAM: ram, Swap: 2 * ram, Reserved: reserved, MaxModel: 2 * ram}
}

// Beyond returns in words which of the limits the machine cannot have; nil: it can have all.
// Nothing is loaded for which there is no memory, whatever the limits say.
func Beyond(l tier.Limits, mem tier.Memory) (told []string) {
	l = l.Settled()
	where := "the machine"
	if mem.Source != "" && mem.Source != "host" {
		where = "the container"
	}
	switch {
	case mem.Total <= 0:
	case l.Reserved >= mem.Total:
		told = append(told, fmt.Sprintf("%s has %v, and limits.reserve keeps %v free of it: no model will be loaded; lower it", where, mem.Total, l.Reserved))
	case l.RAM > mem.Total-l.Reserved && l.RAM != tier.Unlimited:
		told = append(told, fmt.Sprintf("limits.ram is %v, and %s has %v, of which limits.reserve keeps %v free: models will get %v at most",
			l.RAM, where, mem.Total, l.Reserved, mem.Total-l.Reserved))
	}
	return told
}
