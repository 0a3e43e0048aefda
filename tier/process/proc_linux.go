package process

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"github.com/modeltier/modeltier/tier"
)

// proc is a mounted proc file system.
type proc string

// of returns a process.
func (p proc) of(pid int) (procfs.Proc, error) {
	filesystem, err := procfs.NewFS(string(p))
	if err != nil {
		return procfs.Proc{}, err
	}
	return filesystem.Proc(pid)
}

// living returns the processes or threads that are neither zombies nor gone.
func living(all procfs.Procs) (stats []procfs.ProcStat) {
	for _, one := range all {
		if s, err := one.Stat(); err == nil && !strings.Contains("ZX", s.State) {
			stats = append(stats, s)
		}
	}
	return stats
}

// members implements system.members. Processes that left the session are found by their
// mark, in the environment of processes that are no older than the leader: to read that
// of another waits for locks of its memory, for ever if that hangs.
func (p proc) members(leader int, mark string) (found []int, err error) {
	filesystem, err := procfs.NewFS(string(p))
	if err != nil {
		return nil, err
	}
	all, err := filesystem.AllProcs()
	if err != nil {
		return nil, err
	}
	since := uint64(0)
	if one, err := filesystem.Proc(leader); err == nil {
		if s, err := one.Stat(); err == nil {
			since = s.Starttime
		}
	}
	for _, one := range all {
		s, err := one.Stat()
		if tooManyFiles(err) {
			return nil, err
		}
		if err != nil || strings.Contains("ZX", s.State) || one.PID == os.Getpid() {
			continue
		}
		if s.Session != leader {
			if s.Starttime < since {
				continue
			}
			env, err := one.Environ()
			if tooManyFiles(err) {
				return nil, err
			}
			if !slices.Contains(env, markName+"="+mark) {
				continue
			}
		}
		found = append(found, one.PID)
	}
	return found, nil
}

// tooManyFiles tells a limit on open files from a process that has exited or is not ours.
func tooManyFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// suspended implements system.suspended.
func (p proc) suspended(pids []int) bool {
	filesystem, err := procfs.NewFS(string(p))
	if err != nil {
		return false
	}
	for _, pid := range pids {
		threads, err := filesystem.AllThreads(pid) // none, if it has exited
		if tooManyFiles(err) {
			return false
		}
		for _, s := range living(threads) {
			if !strings.Contains("Tt", s.State) {
				return false
			}
		}
	}
	return true
}

// effort implements system.effort by /proc/pid/stat and, as far as we may read it,
// /proc/pid/io.
func (p proc) effort(pids []int) (*effort, error) {
	const tick = time.Second / 100 // USER_HZ, the same on all of Go's architectures
	e := &effort{}
	for _, pid := range pids {
		one, err := p.of(pid)
		if err != nil {
			continue // it has exited
		}
		s, err := one.Stat()
		if tooManyFiles(err) {
			return nil, err
		}
		if err != nil {
			continue
		}
		e.cpu += tick * time.Duration(s.UTime+s.STime+uint(max(s.CUTime+s.CSTime, 0)))
		e.faults += uint64(s.MajFlt + s.CMajFlt)
		if io, err := one.IO(); err == nil {
			e.read += io.ReadBytes
		}
	}
	return e, nil
}

// maxCountedTwice is how much of an engine's memory may be counted once for each of its
// processes.
const maxCountedTwice = 16 * tier.MiB

// usage implements system.usage by the counters of /proc/pid/status. They cost some tens
// of microseconds and lag by less than a MiB on a small machine. smaps_rollup walks
// page tables for milliseconds; it is read only if an engine has forked workers, which
// share most of their memory: at most what all but the largest have is counted more than
// once.
func (p proc) usage(pids []int) (u Memory, err error) {
	var largest tier.Bytes // memory of its own that one process has
	for _, pid := range pids {
		one, err := p.of(pid)
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
	if u.own()-largest <= maxCountedTwice {
		return u, nil
	}
	if share, all := p.share(pids); all {
		u.Anon, u.Swap = share.Anon, share.Swap
	}
	return u, nil
}

// share returns what processes have, with what several have divided among them. all is
// false if we may not look into one of them, or the kernel is too old to tell memory of
// files from other memory.
func (p proc) share(pids []int) (u Memory, all bool) {
	all = true
	for _, pid := range pids {
		b, err := os.ReadFile(filepath.Join(string(p), strconv.Itoa(pid), "smaps_rollup"))
		if err != nil {
			if one, err := p.of(pid); err == nil && len(living(procfs.Procs{one})) > 0 { // else it has exited
				all = false
			}
			continue
		}
		one, told := parseRollup(b)
		all = all && told
		u.Anon, u.Swap = u.Anon.Plus(one.Anon), u.Swap.Plus(one.Swap)
	}
	return u, all
}

// parseRollup reads /proc/pid/smaps_rollup (proc_pid_smaps(5)). told is false if it has
// one figure for memory of files and other memory.
func parseRollup(b []byte) (u Memory, told bool) {
	figures := make(map[string]tier.Bytes)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == "kB" {
			if kib, err := strconv.ParseUint(f[1], 10, 52); err == nil {
				figures[f[0]] = bytesOf(kib << 10)
			}
		}
	}
	_, told = figures["Pss_Shmem:"]
	return Memory{Anon: figures["Pss_Anon:"].Plus(figures["Pss_Shmem:"]), Swap: figures["SwapPss:"]}, told
}

// regions implements system.regions. A mapping is identified by the inode of its file
// with its device or, as a layered file system shows another device, with its name.
func (p proc) regions(pid int, files []weightFile) ([]region, error) {
	type key struct{ ino, dev uint64 }
	type named struct {
		ino  uint64
		file int
	}
	known := make(map[key]int)
	paths := make(map[string]named)
	for i, file := range files {
		info, err := os.Stat(file.path)
		if err != nil {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			known[key{uint64(st.Ino), uint64(st.Dev)}] = i
			paths[file.path] = named{uint64(st.Ino), i}
		}
	}
	one, err := p.of(pid)
	if err != nil {
		return nil, err
	}
	maps, err := one.ProcMaps()
	if err != nil {
		return nil, err
	}
	var found []region
	for _, m := range maps {
		i, ok := known[key{m.Inode, m.Dev}]
		if by := paths[m.Pathname]; !ok && by.ino != 0 && by.ino == m.Inode {
			i, ok = by.file, true
		}
		if ok && m.EndAddr > m.StartAddr {
			found = append(found, region{uint64(m.StartAddr), uint64(m.EndAddr - m.StartAddr), i, uint64(max(m.Offset, 0))})
		}
	}
	return found, nil
}
