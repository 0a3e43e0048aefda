package jetson

import (
	"math/bits"

	"github.com/modeltier/modeltier/tier"
)

// Limits returns limits for the board's memory: those of [LimitsFor].
func (b *Board) Limits() tier.Limits { return LimitsFor(b.Memory) }

// LimitsFor returns limits for a board whose system sees that much memory
// (MemTotal). On an 8 GB Orin Nano, under every release, they are 5 GiB of ram,
// 10 GiB of swap and 1 GiB reserved. From there to other boards, with module the
// memory that the module has (the next power of two above what is seen):
//
//	Reserved = module/8, between 512 MiB and 4 GiB
//	RAM      = module − module/16 − 1.5 GiB − Reserved
//	           module/16: what firmware and devices keep back at most
//	           (measured: 8 GB 0.5, 16 GB 0.7, 64 GB 2.6, 128 GB 5.2 GiB);
//	           1.5 GiB: kernel, drivers and services without a desktop
//	           (an idle Orin Nano uses 1.2 to 1.3 GiB),
//	           and never more than seen − Reserved − 1 GiB, for boards whose
//	           firmware keeps more back than that; in steps of 256 MiB
//	Swap     = 2 × RAM
//	MaxModel = Swap + Swap/20
//
// Swap counts weights that stay in their files, so it asks for no swap device,
// and zram adds nothing to it. A size that is not known, zero or less, gives
// tier.DefaultLimits.
func LimitsFor(seen tier.Bytes) tier.Limits {
	if seen <= 0 {
		return tier.DefaultLimits()
	}
	seen = min(seen, beyond)
	module := moduleSize(seen)
	reserved := min(max(module/8, 512*tier.MiB), 4*tier.GiB)
	ram := min(module-module/16-3*tier.GiB/2-reserved, seen-reserved-1*tier.GiB)
	const step = 256 * tier.MiB
	ram = max(ram/step*step, step)
	swap := 2 * ram
	return tier.Limits{RAM: ram, Swap: swap, Reserved: reserved, MaxModel: swap + swap/20}
}

// beyond is more than any board has, and keeps the arithmetic from overflowing.
const beyond tier.Bytes = 1 << 50

// moduleSize returns the memory of the module that shows so much of it.
func moduleSize(seen tier.Bytes) tier.Bytes { return 1 << bits.Len64(uint64(seen-1)) }

// Loading is how weights are best read from a kind of storage.
type Loading struct {
	// Models is how many models to load at once. One everywhere: two loads from one
	// device both take as long as one after the other, and the first is late.
	Models int
	// Readers is how many reads to keep in flight for one model.
	Readers int
	// Rate is the bytes a second to expect from them. They are planning figures, on
	// the low side; measure with MeasureReadRate.
	Rate tier.Bytes
}

// Loading returns what to expect of a kind of storage. The rates: NVMe, one GB a
// second, as model servers see of a Gen3 disk that is sold with two to three; SD,
// 80 MB of the 104 that its fastest bus mode can carry; eMMC 5.1, 250 MB; USB 3,
// 300 MB; SATA, 450 MB. Unknown storage is taken to be as slow as a card.
func (k StorageKind) Loading() Loading {
	const mb = 1_000_000
	switch k {
	case NVMe:
		return Loading{Models: 1, Readers: 4, Rate: 1000 * mb}
	case SATA:
		return Loading{Models: 1, Readers: 4, Rate: 450 * mb}
	case USB:
		return Loading{Models: 1, Readers: 2, Rate: 300 * mb}
	case EMMC:
		return Loading{Models: 1, Readers: 2, Rate: 250 * mb}
	}
	return Loading{Models: 1, Readers: 1, Rate: 80 * mb}
}
