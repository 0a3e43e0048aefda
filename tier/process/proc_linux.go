package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/prometheus/procfs"

	"github.com/modeltier/modeltier/tier"
)

// proc is a mounted proc file system.
type proc string

// stat is a part of /proc/pid/stat.
type stat struct {
	session       int
	start         uint64 // in ticks since boot
	zombie, still bool   // still: a zombie, or stopped
}

// parseStat reads a line of /proc/pid/stat (proc_pid_stat(5)). The name of the program
// is in brackets and may contain anything, brackets included.
func parseStat(line []byte) (stat, error) {
	_, rest, ok := bytes.Cut(line, []byte(" ("))
	end := bytes.LastIndexByte(rest, ')')
	if !ok || end < 0 {
		return stat{}, fmt.Errorf("not a stat line: %s", quote(string(line)))
	}
	const session, started = 3, 19 // counted from the state
	f := bytes.Fields(rest[end+1:])
	if len(f) <= started || len(f[0]) != 1 {
		return stat{}, fmt.Errorf("a truncated stat line: %s", quote(string(line)))
	}
	var s stat
	var errs [2]error
	s.session, errs[0] = strconv.Atoi(string(f[session]))
	s.start, errs[1] = strconv.ParseUint(string(f[started]), 10, 64)
	s.zombie = strings.Contains("ZX", string(f[0]))
	s.still = s.zombie || strings.Contains("Tt", string(f[0]))
	return s, errors.Join(errs[:]...)
}

func (p proc) stat(path ...string) (stat, error) {
	b, err := os.ReadFile(filepath.Join(append([]string{string(p)}, append(path, "stat")...)...))
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// pids returns all processes.
func (p proc) pids() []int {
	d, err := os.Open(string(p))
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1) // bounded by pid_max
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// members implements system.members. Processes that left the session are found by their
// mark, which is looked for in processes that are younger than the leader.
func (p proc) members(leader int, mark string) []int {
	since := uint64(0)
	if s, err := p.stat(strconv.Itoa(leader)); err == nil {
		since = s.start
	}
	var found []int
	for _, pid := range p.pids() {
		s, err := p.stat(strconv.Itoa(pid))
		if err != nil || s.zombie || pid == os.Getpid() {
			continue
		}
		if s.session == leader || pid == leader || s.start >= since && p.marked(pid, mark) {
			found = append(found, pid)
		}
	}
	return found
}

// marked reports whether the process was started with the mark.
func (p proc) marked(pid int, mark string) bool {
	if mark == "" {
		return false
	}
	env, err := os.ReadFile(filepath.Join(string(p), strconv.Itoa(pid), "environ"))
	return err == nil && slices.Contains(strings.Split(string(env), "\x00"), markName+"="+mark)
}

// started implements system.started: ticks since boot, the boot, and the pid namespace,
// without which a number identifies no process.
func (p proc) started(pid int) (ticks uint64, boot string) {
	s, err := p.stat(strconv.Itoa(pid))
	if err != nil {
		return 0, ""
	}
	return s.start, p.boot()
}

func (p proc) boot() string {
	id, err := os.ReadFile(filepath.Join(string(p), "sys/kernel/random/boot_id"))
	if err != nil {
		return ""
	}
	ns, err := os.Readlink(filepath.Join(string(p), "self/ns/pid"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id)) + " " + ns
}

// suspended implements system.suspended.
func (p proc) suspended(pids []int) bool {
	for _, pid := range pids {
		tasks, err := os.ReadDir(filepath.Join(string(p), strconv.Itoa(pid), "task"))
		if err != nil {
			continue // it has exited
		}
		for _, t := range tasks {
			if s, err := p.stat(strconv.Itoa(pid), "task", t.Name()); err == nil && !s.still {
				return false
			}
		}
	}
	return true
}

// maxCountedTwice is how much of an engine's memory may be counted once for each of its
// processes.
const maxCountedTwice = 16 * tier.MiB

// usage implements system.usage by the counters of /proc/pid/status. They cost some tens
// of microseconds and lag by less than a MiB on a small machine. smaps_rollup walks
// page tables for milliseconds; it is read only if exact is set, for shared memory, and
// if an engine has forked workers, which share most of their memory: at most what all
// but the largest have is counted more than once.
func (p proc) usage(pids []int, exact bool) (u usage, err error) {
	if len(pids) == 0 {
		return u, nil
	}
	filesystem, err := procfs.NewFS(string(p))
	if err != nil {
		return u, err
	}
	var largest tier.Bytes // memory of its own that one process has
	for _, pid := range pids {
		one, err := filesystem.Proc(pid)
		if err != nil {
			continue // it has exited
		}
		s, err := one.NewStatus()
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return u, err
		}
		anon, swap := bytesOf(s.RssAnon).Plus(bytesOf(s.RssShmem)), bytesOf(s.VmSwap)
		largest = max(largest, anon.Plus(swap))
		u.Anon = u.Anon.Plus(anon)
		u.File = u.File.Plus(bytesOf(s.RssFile))
		u.Swap = u.Swap.Plus(swap)
		u.Locked = u.Locked.Plus(bytesOf(s.VmLck))
	}
	if !exact && u.own()-largest <= maxCountedTwice {
		return u, nil
	}
	share, all := p.share(pids)
	u.Share = share.Share
	if all {
		u.Anon, u.Swap = share.Anon, share.Swap
	}
	return u, nil
}

// share returns what processes have, with what several have divided among them. all is
// false if we may not look into one of them, or the kernel is too old to tell memory of
// files from other memory.
func (p proc) share(pids []int) (u usage, all bool) {
	all = true
	for _, pid := range pids {
		b, err := os.ReadFile(filepath.Join(string(p), strconv.Itoa(pid), "smaps_rollup"))
		if err != nil {
			if s, e := p.stat(strconv.Itoa(pid)); e == nil && !s.zombie { // else it has exited
				all = false
			}
			continue
		}
		one, told := parseRollup(b)
		all = all && told
		u.Anon, u.Swap, u.Share = u.Anon.Plus(one.Anon), u.Swap.Plus(one.Swap), u.Share.Plus(one.Share)
	}
	return u, all
}

// parseRollup reads /proc/pid/smaps_rollup (proc_pid_smaps(5)). told is false if it has
// one figure for memory of files and other memory.
func parseRollup(b []byte) (u usage, told bool) {
	var anon, shmem bool
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) != 3 || string(f[2]) != "kB" {
			continue
		}
		kib, err := strconv.ParseUint(string(f[1]), 10, 52)
		if err != nil {
			continue
		}
		n := bytesOf(kib << 10)
		switch string(f[0]) {
		case "Pss:":
			u.Share = n
		case "Pss_Anon:":
			u.Anon, anon = u.Anon.Plus(n), true
		case "Pss_Shmem:":
			u.Anon, shmem = u.Anon.Plus(n), true
		case "SwapPss:":
			u.Swap = n
		}
	}
	return u, anon && shmem
}

// regions implements system.regions. A mapping is identified by the inode of its file
// with its device or, as a layered file system shows another device, with its name.
func (p proc) regions(pid int, files []weightFile) ([]region, error) {
	type key struct{ ino, dev uint64 }
	known := make(map[key]bool)
	paths := make(map[string]uint64)
	for _, file := range files {
		info, err := os.Stat(file.path)
		if err != nil {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			known[key{uint64(st.Ino), uint64(st.Dev)}] = true
			paths[file.path] = uint64(st.Ino)
		}
	}
	filesystem, err := procfs.NewFS(string(p))
	if err != nil {
		return nil, err
	}
	one, err := filesystem.Proc(pid)
	if err != nil {
		return nil, err
	}
	maps, err := one.ProcMaps()
	if err != nil {
		return nil, err
	}
	var found []region
	for _, m := range maps {
		ino, named := paths[m.Pathname]
		if m.EndAddr > m.StartAddr && (known[key{m.Inode, m.Dev}] || named && ino == m.Inode) {
			found = append(found, region{uint64(m.StartAddr), uint64(m.EndAddr - m.StartAddr)})
		}
	}
	return found, nil
}
