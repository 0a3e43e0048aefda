package safety

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// maxDepth caps the cgroups around the process that are followed.
const maxDepth = 128

// layoutAge is how long a layout is valid: after it, mounts, limits' places and
// files that were not there are looked for again. A move of the process to another
// cgroup is seen at once.
const layoutAge = 30 * time.Second

// ownCgroups is where a process is in the hierarchies that can limit memory; "":
// in none.
type ownCgroups struct {
	memory  string // of version 1, the hierarchy of the memory controller
	unified string // of version 2
}

// parseOwnCgroups reads the text of /proc/self/cgroup: lines of a hierarchy's
// number, its controllers and the path in it, separated by colons.
func parseOwnCgroups(file string, text []byte) (ownCgroups, error) {
	var own ownCgroups
	for line := range bytes.SplitSeq(text, []byte{'\n'}) {
		if len(line) == 0 {
			continue
		}
		number, rest, ok1 := bytes.Cut(line, []byte{':'})
		controllers, where, ok2 := bytes.Cut(rest, []byte{':'})
		if !ok1 || !ok2 || len(where) == 0 || where[0] != '/' {
			return ownCgroups{}, invalid(file, line, "must be a number, controllers and a path, separated by colons")
		}
		if bytes.Count(where, []byte{'/'}) > maxDepth {
			return ownCgroups{}, invalid(file, line, fmt.Sprintf("must not be deeper than %d cgroups", maxDepth))
		}
		switch {
		case string(number) == "0" && len(controllers) == 0:
			own.unified = string(where)
		case lists(controllers, "memory"):
			own.memory = string(where)
		}
	}
	return own, nil
}

func lists(commaSeparated []byte, name string) bool {
	return slices.Contains(strings.Split(string(commaSeparated), ","), name)
}

// mount is a place where a hierarchy that can limit memory can be seen.
type mount struct {
	root    string // the cgroup that is seen there
	point   string
	unified bool
}

// parseMounts returns the mounts of cgroup hierarchies that can limit memory, of
// the text of /proc/self/mountinfo (proc_pid_mountinfo(5)).
func parseMounts(file string, text []byte) ([]mount, error) {
	var mounts []mount
	for line := range bytes.SplitSeq(text, []byte{'\n'}) {
		// Six fields, any number of optional ones, a hyphen, then the type, the
		// source and the options of the file system. No field holds a blank.
		before, after, _ := bytes.Cut(line, []byte(" - "))
		place, system := strings.Split(string(before), " "), bytes.Split(after, []byte{' '})
		unified := string(system[0]) == "cgroup2"
		if !unified && (string(system[0]) != "cgroup" || !lists(system[len(system)-1], "memory")) {
			continue
		}
		if len(place) < 5 || !strings.HasPrefix(place[3], "/") || !strings.HasPrefix(place[4], "/") {
			return nil, invalid(file, line, "must hold the root and the mount point as absolute paths")
		}
		mounts = append(mounts, mount{root: unescape(place[3]), point: unescape(place[4]), unified: unified})
	}
	return mounts, nil
}

// unescape undoes the kernel's escapes in paths.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\043`, "#", `\134`, `\`).Replace

// place is a cgroup as it can be seen: below, from the mount point down.
type place struct {
	mount
	below string // "" or a path that begins with a slash
	whole bool   // it is the process's own cgroup and not only an ancestor
}

// locate finds the cgroup own among the mounts of its hierarchy. If several show it,
// it takes the one that shows most of its ancestors; if none does (the cgroup is
// outside of the container's view), the nearest place. there reports whether a
// directory of a mount exists.
func locate(mounts []mount, unified bool, own string, there func(m mount, below string) bool) (place, bool) {
	best, found := place{}, false
	for _, m := range mounts {
		if m.unified != unified {
			continue
		}
		p := place{mount: m}
		if below, ok := within(m.root, own); ok {
			p.below, p.whole = below, true
			for p.below != "" && !there(m, p.below) {
				p.below, p.whole = p.below[:strings.LastIndexByte(p.below, '/')], false
			}
		}
		if !found || p.whole && !best.whole || p.whole == best.whole && depth(p.below) > depth(best.below) {
			best, found = p, true
		}
	}
	return best, found
}

// within returns the path of own as seen from root, and whether root shows it. A
// path that leads out of a cgroup namespace has a "/..".
func within(root, own string) (below string, ok bool) {
	switch {
	case root == own:
		below = ""
	case root == "/":
		below = own
	case strings.HasPrefix(own, root+"/"):
		below = own[len(root):]
	default:
		return "", false
	}
	return below, !strings.Contains(below+"/", "/../")
}

func depth(below string) int { return strings.Count(below, "/") }

// layOut finds the cgroups around the process, if they are not known yet, the
// layout is old, or the process was moved.
func (s *source) layOut(at time.Time) error {
	text, _, err := readIfThere(s.cgroup, &s.buf) // none: a kernel without cgroups
	if err != nil {
		return err
	}
	fresh := !s.laidOut.IsZero() && at.Sub(s.laidOut) < layoutAge
	if fresh && bytes.Equal(text, s.ownText) {
		return nil
	}
	s.laidOut = time.Time{} // until this has gone well
	own, err := parseOwnCgroups(s.cgroup, text)
	if err != nil {
		return err
	}
	s.ownText = append(s.ownText[:0], text...)

	var (
		mounts []mount
		large  []byte // the list may have megabytes, which are not kept
	)
	text, _, err = readIfThere(s.mountinfo, &large)
	if err == nil {
		mounts, err = parseMounts(s.mountinfo, text)
	}
	if err != nil {
		return err
	}
	before := s.groups
	s.groups, s.hidden, s.unreadable = nil, false, false
	s.ownStalls = s.findOwnStalls(mounts, own.unified)
	s.ownPSI = s.options.Mounts + s.ownStalls + "/memory.pressure"
	if err := s.follow(mounts, own); err != nil {
		s.groups = nil
		return err
	}
	if len(before) > 0 && len(s.groups) > 0 && before[0].name != s.groups[0].name {
		s.rates = rates{} // they were another group's
	}
	for _, g := range s.groups {
		if i := slices.IndexFunc(before, func(b *group) bool { return b.name == g.name }); i >= 0 {
			g.hits = before[i].hits
		}
	}
	s.laidOut = at
	return nil
}

// visible reports whether the directory of a cgroup can be seen.
func (s *source) visible(m mount, below string) bool {
	_, err := os.Stat(s.options.Mounts + m.point + below)
	return err == nil
}

// findOwnStalls returns the process's own cgroup of version 2, in which the kernel
// records how long its tasks stall whichever version has the memory controller; ""
// without such a cgroup. The root's record is the machine's.
func (s *source) findOwnStalls(mounts []mount, own string) string {
	if own == "" {
		return ""
	}
	p, found := locate(mounts, true, own, s.visible)
	if !found || !p.whole {
		return ""
	}
	if p.below == "" && !s.visible(p.mount, "/cgroup.type") && !s.visible(p.mount, "/memory.max") {
		return "" // no root has these
	}
	return p.point + p.below
}

// follow adds the cgroups that can bound the process, from its own up to the mount
// point. A controller is in one hierarchy at a time: memory is in version 1 if that
// has a line for it, whatever else is mounted.
func (s *source) follow(mounts []mount, cgroups ownCgroups) error {
	own, unified := cgroups.memory, false
	if own == "" {
		own, unified = cgroups.unified, true
	}
	if own == "" {
		return nil
	}
	p, found := locate(mounts, unified, own, s.visible)
	s.hidden, s.unified = !p.whole, unified
	if !found {
		return nil
	}
	for below, lowest := p.below, true; ; lowest = false {
		name := p.point + below
		g := newGroup(name, s.options.Mounts+name, unified, lowest)
		// The root of version 1 has the files of a group and counts the whole machine.
		g.own = lowest && p.whole && (unified || below != "" || p.root != "/")
		_, err := readFile(g.limit, &s.buf)
		switch {
		case err == nil:
			s.groups = append(s.groups, g)
		case errors.Is(err, fs.ErrPermission):
			s.unreadable = true
		case !missing(err): // the root of version 2 has none, nor has a group without the controller
			return err
		}
		if below == "" {
			return nil
		}
		below = below[:strings.LastIndexByte(below, '/')]
	}
}

// group is one cgroup around the process, its own or an ancestor, and the files
// of it that are read.
type group struct {
	name string // its path, for a person
	dir  string // where it is

	unified bool
	lowest  bool // the lowest that can be seen: the process's own, or what comes nearest
	own     bool // it is the process's own, and not the whole machine

	// The paths of its files, of version 2 and of version 1; "": it has none.
	limit   string // memory.max; memory.limit_in_bytes
	high    string // memory.high
	usage   string // memory.current; memory.usage_in_bytes
	stat    string // memory.stat
	events  string // memory.events; memory.oom_control
	failcnt string // memory.failcnt
	swap    string // memory.swap.max; memory.memsw.limit_in_bytes
	swapUse string // memory.swap.current; memory.memsw.usage_in_bytes

	hits hits
}

// hits is how often a group has run into its limit. It is kept when the cgroups are
// laid out again.
type hits struct {
	seen  bool
	count uint64
}

// newGroup returns the cgroup at dir, known to a person as name.
func newGroup(name, dir string, unified, lowest bool) *group {
	at := func(v1, v2 string) string {
		base := v1
		if unified {
			base = v2
		}
		if base == "" {
			return ""
		}
		return dir + "/" + base
	}
	return &group{
		name: name, dir: dir, unified: unified, lowest: lowest,
		limit:   at("memory.limit_in_bytes", "memory.max"),
		high:    at("", "memory.high"),
		usage:   at("memory.usage_in_bytes", "memory.current"),
		stat:    at("memory.stat", "memory.stat"),
		events:  at("memory.oom_control", "memory.events"),
		failcnt: at("memory.failcnt", ""),
		swap:    at("memory.memsw.limit_in_bytes", "memory.swap.max"),
		swapUse: at("memory.memsw.usage_in_bytes", "memory.swap.current"),
	}
}

// bound is what one group allows.
type bound struct {
	limited   bool
	limit     tier.Bytes // what the group may hold
	room      tier.Bytes // of that, what is not taken; clean file pages do not count as taken
	unmapped  tier.Bytes // as room, but file pages that processes map count as taken
	dirty     tier.Bytes // file pages that are taken until they are written
	swapLimit tier.Bytes // Unlimited if there is none
	swapRoom  tier.Bytes
	exhausted bool // it ran into its limit since the last reading, with no file pages left to reclaim

	counted         bool // the kernel counts what follows
	kills, failures uint64

	// Of the process's own group: what it has on swap, and how many of its file pages
	// were read again, if that is counted.
	swapped         tier.Bytes
	refault         uint64
	refaultsCounted bool
}

// read returns what the group allows on a machine with total bytes: a limit
// above that is none.
//
// Clean file pages count as available whether or not they were used lately, as
// they do in the machine's MemAvailable: a file that was read twice is no more in
// use than one that was read once. The pages of our own hot models are among them,
// and admission takes those off, and what else is mapped.
func (g *group) read(buf *[]byte, total tier.Bytes) (bound, error) {
	b := bound{swapLimit: tier.Unlimited, swapRoom: tier.Unlimited}
	r := groupReader{group: g, buf: buf}
	b.limit = min(r.value(g.limit), r.valueIfThere(g.high))
	var s groupStat
	if g.own || g.lowest && !g.unified {
		s = r.figuresIfThere()
		// Version 1 knows of limits on ancestors that a container does not see.
		b.limit = min(b.limit, s.limit)
	}
	b.limited = b.limit <= total
	if b.limited {
		if !s.there {
			s = r.figures()
		}
		r.bound(&b, &s)
	}
	b.swapped, b.refault, b.refaultsCounted = s.swap, s.refault, s.refaultsCounted
	if g.unified {
		r.boundSwap(&b)
	}
	return b, r.err
}

// apply bounds a reading by what one cgroup allows. Groups come from the process's
// own up.
func (b *bound) apply(m *tier.Memory, s *signs, g *group) {
	m.SwapTotal, m.SwapFree = min(m.SwapTotal, b.swapLimit), min(m.SwapFree, b.swapRoom)
	m.CompressedSwapTotal, m.CompressedSwapFree = min(m.CompressedSwapTotal, b.swapLimit), min(m.CompressedSwapFree, b.swapRoom)
	if !b.limited {
		return
	}
	m.Total = min(m.Total, b.limit)
	if b.room < m.Available {
		m.Available, m.Dirty, m.Source = b.room, b.dirty, g.name
	}
	s.exhausted = s.exhausted || b.exhausted
	if !b.counted {
		return
	}
	// Version 2 counts what happened below as well, version 1 does not.
	if s.scope != host && !g.unified {
		b.kills, b.failures = b.kills+m.Pressure.OOMKills, b.failures+s.failures
	}
	s.scope, s.failures, m.Pressure.OOMKills = g.name, b.failures, b.kills
}

// groupReader reads the files of a group one after the other. After the first error
// it reads no more, and what it returns means nothing.
type groupReader struct {
	*group
	buf *[]byte
	err error
}

// value reads a file of one number of bytes or the word max, which is Unlimited.
func (r *groupReader) value(path string) (v tier.Bytes) {
	if text := r.text(path); r.err == nil {
		v, r.err = parseValue(path, text)
	}
	return v
}

// valueIfThere is value for a file that a kernel need not have; without it there
// is no limit.
func (r *groupReader) valueIfThere(path string) (v tier.Bytes) {
	v = tier.Unlimited
	if text, ok := r.textIfThere(path); ok {
		v, r.err = parseValue(path, text)
	}
	return v
}

func (r *groupReader) text(path string) (text []byte) {
	if r.err == nil {
		text, r.err = readFile(path, r.buf)
	}
	return text
}

func (r *groupReader) textIfThere(path string) (text []byte, ok bool) {
	if r.err == nil {
		text, ok, r.err = readIfThere(path, r.buf)
	}
	return text, ok
}

// figures reads memory.stat.
func (r *groupReader) figures() (s groupStat) {
	if text := r.text(r.stat); r.err == nil {
		s, r.err = parseGroupStat(r.stat, text, r.unified)
	}
	return s
}

// figuresIfThere is figures for a group that need not have them: it may have no
// limit.
func (r *groupReader) figuresIfThere() (s groupStat) {
	s.limit = tier.Unlimited
	if text, ok := r.textIfThere(r.stat); ok {
		s, r.err = parseGroupStat(r.stat, text, r.unified)
	}
	return s
}

// bound fills in what a limited group has left and what has happened in it. Version
// 1 limits memory and swap together as well: swap may take what that leaves beyond
// the limit on memory.
func (r *groupReader) bound(b *bound, s *groupStat) {
	use := r.value(r.usage)
	left := func(limit, use, gives tier.Bytes) tier.Bytes { return max(limit-max(use-gives, 0), 0) }
	clean := s.files.clean()
	unmapped := clean - s.files.cleanMapped()
	b.room, b.unmapped = left(b.limit, use, clean), left(b.limit, use, unmapped)
	b.dirty = s.files.active.Plus(s.files.inactive) - clean
	r.readEvents(b)
	if r.unified {
		return
	}
	if limit := r.valueIfThere(r.swap); limit != tier.Unlimited {
		both := r.value(r.swapUse)
		b.room, b.unmapped = min(b.room, left(limit, both, clean)), min(b.unmapped, left(limit, both, unmapped))
		b.swapLimit = max(limit-b.limit, 0)
		b.swapRoom = max(b.swapLimit-max(both-use, 0), 0)
	}
}

// boundSwap applies version 2's limit on swap, and reads what our own group has there.
func (r *groupReader) boundSwap(b *bound) {
	limit := r.valueIfThere(r.swap)
	switch {
	case limit != tier.Unlimited:
		b.swapped = r.value(r.swapUse)
		b.swapLimit, b.swapRoom = limit, max(limit-b.swapped, 0)
	case r.own:
		if b.swapped = r.valueIfThere(r.swapUse); b.swapped == tier.Unlimited {
			b.swapped = 0 // the kernel does not count it
		}
	}
}

// readEvents counts kills and failures, and finds out whether the group is
// exhausted. Running into its limit means nothing by itself: reading files does
// that all the time, a hundred thousand times for a gigabyte, and pages read before
// are reclaimed. It is exhausted if less than a sixteenth of the limit would be left
// without any file pages.
func (r *groupReader) readEvents(b *bound) {
	var e groupEvents
	if text, ok := r.textIfThere(r.events); ok {
		e, r.err = parseGroupEvents(r.events, text)
	}
	b.counted, b.kills, b.failures = e.counted, e.kills, e.failures
	if !r.unified {
		e.hits = uint64(r.valueIfThere(r.failcnt))
	}
	if r.err == nil {
		b.exhausted = r.hits.seen && e.hits > r.hits.count && b.room.Plus(b.dirty) < b.limit/shortShare
		r.hits = hits{seen: true, count: e.hits}
	}
}

// groupStat is the figures of a memory.stat that count here, of the group and of
// those below it.
type groupStat struct {
	there           bool
	files           filePages
	swap            tier.Bytes // version 1 only
	refault         uint64     // file pages that were read again
	refaultsCounted bool       // not by version 1 of older kernels, such as 5.10
	limit           tier.Bytes // version 1: the smallest limit from here up
}

func parseGroupStat(path string, text []byte, unified bool) (groupStat, error) {
	var n struct{ cached, swapCached, active, inactive, shmem, mapped, dirty, writeback, swap, limit uint64 }
	var s groupStat
	err := sum(path, text, func(key []byte) *uint64 {
		if !unified {
			if string(key) == "hierarchical_memory_limit" {
				return &n.limit
			}
			var ok bool // the lines without the prefix are of this group alone
			if key, ok = bytes.CutPrefix(key, []byte("total_")); !ok {
				return nil
			}
		}
		switch string(key) {
		case "file", "cache":
			return &n.cached
		case "swapcached":
			return &n.swapCached
		case "active_file":
			return &n.active
		case "inactive_file":
			return &n.inactive
		case "shmem":
			return &n.shmem
		case "file_mapped", "mapped_file":
			return &n.mapped
		case "file_dirty", "dirty":
			return &n.dirty
		case "file_writeback", "writeback":
			return &n.writeback
		case "swap":
			return &n.swap
		case "workingset_refault_file", "workingset_refault": // before Linux 5.9 of all kinds
			s.refaultsCounted = true
			return &s.refault
		}
		return nil
	})
	s.there, s.files = true, filePages{
		cached: max(bounded(n.cached)-bounded(n.swapCached), 0), active: bounded(n.active), inactive: bounded(n.inactive),
		shmem: bounded(n.shmem), mapped: bounded(n.mapped), dirty: bounded(n.dirty), writeback: bounded(n.writeback),
	}
	s.swap, s.limit = bounded(n.swap), tier.Unlimited
	if n.limit > 0 {
		s.limit = bounded(n.limit)
	}
	return s, err
}

// groupEvents is the figures of memory.events and memory.oom_control that count
// here.
type groupEvents struct {
	counted         bool // kills are there: not before Linux 4.13
	kills, failures uint64
	hits            uint64 // version 2 only
}

func parseGroupEvents(path string, text []byte) (e groupEvents, err error) {
	err = sum(path, text, func(key []byte) *uint64 {
		switch string(key) {
		case "oom_kill":
			e.counted = true
			return &e.kills
		case "oom":
			return &e.failures
		case "max":
			return &e.hits
		}
		return nil
	})
	return e, err
}

func parseValue(path string, text []byte) (tier.Bytes, error) {
	text = bytes.TrimRight(text, "\n")
	if string(text) == "max" {
		return tier.Unlimited, nil
	}
	n, ok := number(text)
	if !ok {
		return 0, invalid(path, text, `must be a number of bytes or "max"`)
	}
	return bounded(n), nil
}
