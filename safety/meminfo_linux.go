package safety

import (
	"bytes"

	"github.com/modeltier/modeltier/tier"
)

// meminfo is what we use of /proc/meminfo.
type meminfo struct {
	total, free, available   tier.Bytes
	buffers, cached, shmem   tier.Bytes
	slab                     tier.Bytes // SReclaimable
	swapTotal, swapFree      tier.Bytes
	zswap                    tier.Bytes // memory that zswap takes
	cmaTotal, cmaFree        tier.Bytes
	hasAvailable, hasMemFree bool
}

// parseMeminfo reads the text of /proc/meminfo. Lines that we do not use are not
// looked at: vendors add their own.
func parseMeminfo(path string, text []byte) (meminfo, error) {
	var m meminfo
	for l := (lines{text}); ; {
		line, ok := l.next()
		if !ok {
			break
		}
		key, rest, found := bytes.Cut(line, []byte{':'})
		if !found {
			continue
		}
		field := m.field(key)
		if field == nil {
			continue
		}
		value, rest := word(rest)
		unit, end := word(rest)
		n, ok := amount(value, tier.KiB)
		if !ok || string(unit) != "kB" || len(bytes.TrimSpace(end)) > 0 {
			return meminfo{}, invalid(path, line, "must be a number of kB")
		}
		*field = n
		switch string(key) {
		case "MemAvailable":
			m.hasAvailable = true
		case "MemFree":
			m.hasMemFree = true
		}
	}
	switch {
	case m.total == 0:
		return meminfo{}, invalid(path, text, "must hold a MemTotal above 0")
	case !m.hasAvailable && !m.hasMemFree:
		return meminfo{}, invalid(path, text, "must hold MemAvailable, or MemFree where the kernel is older")
	}
	return m, nil
}

func (m *meminfo) field(key []byte) *tier.Bytes {
	switch string(key) {
	case "MemTotal":
		return &m.total
	case "MemFree":
		return &m.free
	case "MemAvailable":
		return &m.available
	case "Buffers":
		return &m.buffers
	case "Cached":
		return &m.cached
	case "Shmem":
		return &m.shmem
	case "SReclaimable":
		return &m.slab
	case "SwapTotal":
		return &m.swapTotal
	case "SwapFree":
		return &m.swapFree
	case "Zswap":
		return &m.zswap
	case "CmaTotal":
		return &m.cmaTotal
	case "CmaFree":
		return &m.cmaFree
	}
	return nil
}

// estimate is what the kernel before 3.14, which has no MemAvailable, would have
// said: free pages and the page cache, without tmpfs, and half of the slab that
// can be reclaimed, less the low watermarks that the kernel keeps to itself.
func (m *meminfo) estimate(watermarks tier.Bytes) tier.Bytes {
	return m.free.Plus(m.buffers).Plus(m.cached).Plus(-m.shmem).Plus(m.slab / 2).Plus(-watermarks)
}

// parseWatermarks returns the sum of the zones' low watermarks, in pages, of the
// text of /proc/zoneinfo.
func parseWatermarks(path string, text []byte) (uint64, error) {
	const most = 1 << 48 // pages; no machine has more
	sum := uint64(0)
	for l := (lines{text}); ; {
		line, ok := l.next()
		if !ok {
			return sum, nil
		}
		key, rest := word(line)
		if string(key) != "low" {
			continue
		}
		value, _ := word(rest)
		n, ok := number(value)
		if !ok || n > most || sum > most {
			return 0, invalid(path, line, "must be a number of pages")
		}
		sum += n
	}
}
