package safety

import (
	"bytes"

	"github.com/modeltier/modeltier/tier"
)

// swapSpace is the swap of the machine, parted by what is behind it. Swap in
// zram is memory again and no capacity for weights, which do not compress.
type swapSpace struct {
	diskTotal, diskFree tier.Bytes
	zramTotal, zramFree tier.Bytes
}

// parseSwaps reads the text of /proc/swaps: a line of headings, then a line for
// each device with name, type, size, use and priority, sizes in KiB.
func parseSwaps(path string, text []byte) (swapSpace, error) {
	var s swapSpace
	l := lines{text}
	l.next()
	for {
		line, ok := l.next()
		if !ok {
			return s, nil
		}
		name, rest := word(line)
		if len(name) == 0 {
			continue
		}
		kind, rest := word(rest)
		size, rest := word(rest)
		used, _ := word(rest)
		total, ok1 := amount(size, tier.KiB)
		taken, ok2 := amount(used, tier.KiB)
		if !ok1 || !ok2 {
			return swapSpace{}, invalid(path, line, "must name a device, its type, its size and its use in KiB")
		}
		free := max(total-taken, 0)
		if string(kind) == "partition" && isZRAM(name) {
			s.zramTotal, s.zramFree = s.zramTotal.Plus(total), s.zramFree.Plus(free)
		} else {
			s.diskTotal, s.diskFree = s.diskTotal.Plus(total), s.diskFree.Plus(free)
		}
	}
}

// isZRAM reports whether a device is called zram and a number, as the kernel
// names them all.
func isZRAM(device []byte) bool {
	base := device[bytes.LastIndexByte(device, '/')+1:]
	digits, ok := bytes.CutPrefix(base, []byte("zram"))
	if !ok {
		return false
	}
	_, ok = number(digits)
	return ok
}
