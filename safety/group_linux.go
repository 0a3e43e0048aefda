package safety

import (
	"bytes"

	"github.com/modeltier/modeltier/tier"
)

// group is one cgroup around the process, its own or an ancestor, and the files
// of it that we read. Files of a limit that is not set are never opened.
type group struct {
	name string // its path, for a person

	unified bool
	lowest  bool // the lowest that we see: our own, or what comes nearest

	limit    file // memory.max; memory.limit_in_bytes
	high     file // memory.high
	usage    file // memory.current; memory.usage_in_bytes
	stat     file // memory.stat
	events   file // memory.events; memory.oom_control
	failcnt  file // memory.failcnt
	swap     file // memory.swap.max; memory.memsw.limit_in_bytes
	swapUse  file // memory.swap.current; memory.memsw.usage_in_bytes
	pressure file // memory.pressure

	hits hits
}

// hits is how often a group has run into its limit; it outlives the group's
// place in a layout.
type hits struct {
	seen  bool
	count uint64
}

// newGroup returns the cgroup at dir, which a person knows as name.
func newGroup(name, dir string, unified, lowest bool) *group {
	at := func(v1, v2 string) file {
		base := v1
		if unified {
			base = v2
		}
		return file{path: dir + "/" + base, absent: base == ""}
	}
	return &group{
		name: name, unified: unified, lowest: lowest,
		limit:    at("memory.limit_in_bytes", "memory.max"),
		high:     at("", "memory.high"),
		usage:    at("memory.usage_in_bytes", "memory.current"),
		stat:     at("memory.stat", "memory.stat"),
		events:   at("memory.oom_control", "memory.events"),
		failcnt:  at("memory.failcnt", ""),
		swap:     at("memory.memsw.limit_in_bytes", "memory.swap.max"),
		swapUse:  at("memory.memsw.usage_in_bytes", "memory.swap.current"),
		pressure: at("", "memory.pressure"),
	}
}

func (g *group) files() [9]*file {
	return [9]*file{&g.limit, &g.high, &g.usage, &g.stat, &g.events, &g.failcnt, &g.swap, &g.swapUse, &g.pressure}
}

// bound is what one group allows.
type bound struct {
	limited   bool
	limit     tier.Bytes // what the group may hold
	room      tier.Bytes // of that, what is not taken; file pages do not count as taken
	strict    tier.Bytes // as room, but file pages on the active list count as taken
	swapLimit tier.Bytes // Unlimited where there is none
	swapRoom  tier.Bytes
	exhausted bool // it ran into its limit since the last reading, with no file pages left to give way

	counted         bool // the kernel counts what follows
	kills, failures uint64
}

// read returns what the group allows on a machine with total bytes: a limit
// above that is none. The pressure of a limited group raises p.
//
// File pages count as available whether or not they were used lately, as they do
// in the machine's MemAvailable: the pages of our own hot models are among them,
// and the guard takes those off. The convention that counts the active list as
// taken would take them off twice, once the kernel has moved them there; its
// figure is strict, for the guard to weigh.
func (g *group) read(buf *[]byte, total tier.Bytes, p *tier.Pressure) (bound, error) {
	b := bound{limit: tier.Unlimited, swapLimit: tier.Unlimited, swapRoom: tier.Unlimited}
	hard, err := value(&g.limit, buf)
	if err != nil {
		return bound{}, err
	}
	soft, _, err := valueIfThere(&g.high, buf)
	if err != nil {
		return bound{}, err
	}
	b.limit = min(hard, soft)
	var s groupStat
	if !g.unified && g.lowest {
		// The kernel knows of limits on ancestors that a container does not see.
		if s, err = g.readStat(buf); err != nil {
			return bound{}, err
		}
		b.limit = min(b.limit, s.limit)
	}
	b.limited = b.limit <= total
	if b.limited {
		if s, err = g.readStat(buf); err != nil {
			return bound{}, err
		}
		use, err := value(&g.usage, buf)
		if err != nil {
			return bound{}, err
		}
		b.room = max(b.limit-max(use-s.files, 0), 0)
		b.strict = max(b.limit-max(use-s.inactive, 0), 0)
		if err := g.readEvents(buf, &b); err != nil {
			return bound{}, err
		}
		if err := g.readPressure(buf, p); err != nil {
			return bound{}, err
		}
		if !g.unified {
			return b, g.boundBoth(buf, &b, use, s)
		}
	}
	if g.unified {
		return b, g.boundSwap(buf, &b)
	}
	return b, nil
}

// boundSwap applies version 2's limit on swap.
func (g *group) boundSwap(buf *[]byte, b *bound) error {
	limit, _, err := valueIfThere(&g.swap, buf)
	if err != nil || limit == tier.Unlimited {
		return err
	}
	use, err := value(&g.swapUse, buf)
	if err != nil {
		return err
	}
	b.swapLimit, b.swapRoom = limit, max(limit-use, 0)
	return nil
}

// boundBoth applies version 1's limit on memory and swap together: swap may take
// what it leaves beyond the limit on memory.
func (g *group) boundBoth(buf *[]byte, b *bound, use tier.Bytes, s groupStat) error {
	limit, _, err := valueIfThere(&g.swap, buf)
	if err != nil || limit == tier.Unlimited {
		return err
	}
	both, err := value(&g.swapUse, buf)
	if err != nil {
		return err
	}
	b.room = min(b.room, max(limit-max(both-s.files, 0), 0))
	b.strict = min(b.strict, max(limit-max(both-s.inactive, 0), 0))
	b.swapLimit = max(limit-b.limit, 0)
	b.swapRoom = max(b.swapLimit-max(both-use, 0), 0)
	return nil
}

func (g *group) readPressure(buf *[]byte, p *tier.Pressure) error {
	text, ok, err := g.pressure.readIfThere(buf)
	if err != nil || !ok {
		return err
	}
	return parsePSI(g.pressure.path, text, p)
}

// readEvents counts kills and failures, and finds out whether the group is
// exhausted. That it runs into its limit says nothing alone: reading files does
// that all the time, a hundred thousand times for a gigabyte, and the pages of
// the one before give way. It is exhausted when less than a sixteenth of the
// limit would be left without any file pages.
func (g *group) readEvents(buf *[]byte, b *bound) error {
	var e groupEvents
	text, ok, err := g.events.readIfThere(buf)
	if err == nil && ok {
		e, err = parseGroupEvents(g.events.path, text)
	}
	if err != nil {
		return err
	}
	b.counted, b.kills, b.failures = e.counted, e.kills, e.failures
	count := e.hits
	if !g.unified {
		n, ok, err := valueIfThere(&g.failcnt, buf)
		if err != nil {
			return err
		}
		if ok {
			count = uint64(n)
		}
	}
	b.exhausted = g.hits.seen && count > g.hits.count && b.room < b.limit/16
	g.hits = hits{seen: true, count: count}
	return nil
}

func (g *group) readStat(buf *[]byte) (groupStat, error) {
	text, err := g.stat.read(buf)
	if err != nil {
		return groupStat{}, err
	}
	return parseGroupStat(g.stat.path, text, g.unified)
}

// groupStat is what we use of a memory.stat.
type groupStat struct {
	files    tier.Bytes // file pages that are not locked, of the group and those below it
	inactive tier.Bytes // of those, the ones on the inactive list
	limit    tier.Bytes // version 1: the smallest limit from here up
}

func parseGroupStat(path string, text []byte, unified bool) (groupStat, error) {
	s := groupStat{limit: tier.Unlimited}
	for l := (lines{text}); ; {
		line, ok := l.next()
		if !ok {
			return s, nil
		}
		key, rest := word(line)
		if !unified && !bytes.HasPrefix(key, []byte("hierarchical_")) {
			// Without the prefix a line is of this group alone.
			if key, ok = bytes.CutPrefix(key, []byte("total_")); !ok {
				continue
			}
		}
		files := false
		switch string(key) {
		case "inactive_file", "active_file":
			files = true
		case "hierarchical_memory_limit":
		default:
			continue
		}
		text, _ := word(rest)
		n, ok := limited(text)
		switch {
		case !ok:
			return groupStat{}, invalid(path, line, "must be a number of bytes")
		case files:
			s.files = s.files.Plus(n)
			if key[0] == 'i' {
				s.inactive = n
			}
		default:
			s.limit = n
		}
	}
}

// groupEvents is what we use of memory.events and of memory.oom_control.
type groupEvents struct {
	counted         bool // kills are there: not before Linux 4.13
	kills, failures uint64
	hits            uint64 // version 2 only
}

func parseGroupEvents(path string, text []byte) (groupEvents, error) {
	var e groupEvents
	for l := (lines{text}); ; {
		line, ok := l.next()
		if !ok {
			return e, nil
		}
		key, rest := word(line)
		var to *uint64
		switch string(key) {
		case "oom_kill":
			to, e.counted = &e.kills, true
		case "oom":
			to = &e.failures
		case "max":
			to = &e.hits
		default:
			continue
		}
		text, _ := word(rest)
		if *to, ok = number(text); !ok {
			return groupEvents{}, invalid(path, line, "must be a counter")
		}
	}
}

// value reads a file of one number of bytes or the word max, which is Unlimited.
func value(f *file, buf *[]byte) (tier.Bytes, error) {
	text, err := f.read(buf)
	if err != nil {
		return 0, err
	}
	return parseValue(f.path, text)
}

// valueIfThere is value for a file that a kernel need not have; without it there
// is no limit.
func valueIfThere(f *file, buf *[]byte) (v tier.Bytes, ok bool, err error) {
	text, ok, err := f.readIfThere(buf)
	if err != nil || !ok {
		return tier.Unlimited, false, err
	}
	v, err = parseValue(f.path, text)
	return v, err == nil, err
}

func parseValue(path string, text []byte) (tier.Bytes, error) {
	w, rest := word(bytes.TrimRight(text, "\n"))
	if string(w) == "max" && len(rest) == 0 {
		return tier.Unlimited, nil
	}
	v, ok := limited(w)
	if !ok || len(rest) > 0 {
		return 0, invalid(path, text, `must be a number of bytes or "max"`)
	}
	return v, nil
}

// limited returns a number of bytes; what does not fit 63 bits is no limit.
func limited(text []byte) (tier.Bytes, bool) {
	n, ok := number(text)
	return tier.Bytes(min(n, uint64(tier.Unlimited))), ok
}
