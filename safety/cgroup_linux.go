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
	better := func(p place) bool {
		switch {
		case !found:
			return true
		case p.whole != best.whole:
			return p.whole
		}
		return depth(p.below) > depth(best.below)
	}
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
		if better(p) {
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
	text, ok, err := s.cgroup.readIfThere(&s.buf)
	switch {
	case err != nil:
		return err
	case !ok:
		text = nil // a kernel without cgroups
	}
	fresh := !s.laidOut.IsZero() && at.Sub(s.laidOut) < layoutAge
	if fresh && bytes.Equal(text, s.ownText) {
		return nil
	}
	s.laidOut = time.Time{} // until this has gone well
	for _, f := range s.files() {
		f.forget()
	}
	own, err := parseOwnCgroups(s.cgroup.path, text)
	if err != nil {
		return err
	}
	s.ownText = append(s.ownText[:0], text...)

	var (
		mounts []mount
		large  []byte // the list may have megabytes, which are not kept
	)
	text, ok, err = s.mountinfo.readIfThere(&large)
	if err == nil && ok {
		mounts, err = parseMounts(s.mountinfo.path, text)
	}
	if err != nil {
		return err
	}
	before := s.groups
	defer closeAll(before)
	s.groups, s.hidden, s.unreadable = nil, false, false
	if err := s.follow(mounts, own); err != nil {
		s.closeGroups()
		return err
	}
	for _, g := range s.groups {
		if i := slices.IndexFunc(before, func(b *group) bool { return b.name == g.name }); i >= 0 {
			g.hits = before[i].hits
		}
	}
	s.laidOut = at
	return nil
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
	p, found := locate(mounts, unified, own, func(m mount, below string) bool {
		_, err := os.Stat(s.options.Mounts + m.point + below)
		return err == nil
	})
	s.hidden, s.unified = !p.whole, unified
	if !found {
		return nil
	}
	for below, lowest := p.below, true; ; lowest = false {
		name := p.point + below
		g := newGroup(name, s.options.Mounts+name, unified, lowest)
		err := g.limit.reopen()
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

func (s *source) closeGroups() {
	closeAll(s.groups)
	s.groups = nil
}

func closeAll(groups []*group) {
	for _, g := range groups {
		for _, f := range g.files() {
			f.close()
		}
	}
}

// group is one cgroup around the process, its own or an ancestor, and the files
// of it that are read. Files of a limit that is not set are never opened.
type group struct {
	name string // its path, for a person
	dir  string // where it is

	unified bool
	lowest  bool // the lowest that can be seen: the process's own, or what comes nearest

	limit   file // memory.max; memory.limit_in_bytes
	high    file // memory.high
	usage   file // memory.current; memory.usage_in_bytes
	stat    file // memory.stat
	events  file // memory.events; memory.oom_control
	failcnt file // memory.failcnt
	swap    file // memory.swap.max; memory.memsw.limit_in_bytes
	swapUse file // memory.swap.current; memory.memsw.usage_in_bytes

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
	at := func(v1, v2 string) file {
		base := v1
		if unified {
			base = v2
		}
		return file{path: dir + "/" + base, absent: base == ""}
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

func (g *group) files() [8]*file {
	return [8]*file{&g.limit, &g.high, &g.usage, &g.stat, &g.events, &g.failcnt, &g.swap, &g.swapUse}
}

// bound is what one group allows.
type bound struct {
	limited   bool
	limit     tier.Bytes // what the group may hold
	room      tier.Bytes // of that, what is not taken; file pages do not count as taken
	strict    tier.Bytes // as room, but file pages on the active list count as taken
	swapLimit tier.Bytes // Unlimited if there is none
	swapRoom  tier.Bytes
	exhausted bool // it ran into its limit since the last reading, with no file pages left to reclaim

	counted         bool // the kernel counts what follows
	kills, failures uint64
}

// read returns what the group allows on a machine with total bytes: a limit
// above that is none. The pressure of a limited group raises p.
//
// File pages count as available whether or not they were used lately, as they do
// in the machine's MemAvailable: the pages of our own hot models are among them,
// and admission takes those off. To count the active list as taken would take them
// off twice, once the kernel has moved them there; that figure is strict, for
// admission to weigh.
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
		if !g.unified {
			return b, g.boundBoth(buf, &b, use, s)
		}
		if err := raisePSI(g.dir, "memory.pressure", p); err != nil {
			return bound{}, err
		}
	}
	if g.unified {
		return b, g.boundSwap(buf, &b)
	}
	return b, nil
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
		m.Available, m.Source = b.room, g.name
	}
	s.exhausted = s.exhausted || b.exhausted
	if !b.counted {
		return
	}
	// Version 2 counts what happened below as well, version 1 does not.
	if s.scope != "host" && !g.unified {
		b.kills, b.failures = b.kills+m.Pressure.OOMKills, b.failures+s.failures
	}
	s.scope, s.failures, m.Pressure.OOMKills = g.name, b.failures, b.kills
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

// readEvents counts kills and failures, and finds out whether the group is
// exhausted. Running into its limit means nothing by itself: reading files does
// that all the time, a hundred thousand times for a gigabyte, and pages read before
// are reclaimed. It is exhausted if less than a sixteenth of the limit would be left
// without any file pages.
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

// groupStat is the figures of a memory.stat that count here.
type groupStat struct {
	files    tier.Bytes // file pages that are not locked, of the group and those below it
	inactive tier.Bytes // of those, the ones on the inactive list
	limit    tier.Bytes // version 1: the smallest limit from here up
}

func parseGroupStat(path string, text []byte, unified bool) (groupStat, error) {
	s := groupStat{limit: tier.Unlimited}
	for key, value := range pairs(text) {
		if !unified && !bytes.HasPrefix(key, []byte("hierarchical_")) {
			// Without the prefix a line is of this group alone.
			var ok bool
			if key, ok = bytes.CutPrefix(key, []byte("total_")); !ok {
				continue
			}
		}
		name := string(key)
		if name != "inactive_file" && name != "active_file" && name != "hierarchical_memory_limit" {
			continue
		}
		n, err := numberOf(path, key, value)
		if err != nil {
			return groupStat{}, err
		}
		switch amount := bounded(n); name {
		case "hierarchical_memory_limit":
			s.limit = amount
		case "inactive_file":
			s.inactive = amount
			fallthrough
		default:
			s.files = s.files.Plus(amount)
		}
	}
	return s, nil
}

// groupEvents is the figures of memory.events and memory.oom_control that count
// here.
type groupEvents struct {
	counted         bool // kills are there: not before Linux 4.13
	kills, failures uint64
	hits            uint64 // version 2 only
}

func parseGroupEvents(path string, text []byte) (e groupEvents, err error) {
	for key, value := range pairs(text) {
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
		if *to, err = numberOf(path, key, value); err != nil {
			return groupEvents{}, err
		}
	}
	return e, nil
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

// bounded returns n as Bytes; a number beyond 63 bits is no limit.
func bounded(n uint64) tier.Bytes { return tier.Bytes(min(n, uint64(tier.Unlimited))) }
