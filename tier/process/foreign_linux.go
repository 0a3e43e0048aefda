package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// now implements processTable. Starts in /proc count in hundredths of a second.
func (p proc) now() (boot string, ticks uint64, err error) {
	b, err := os.ReadFile(filepath.Join(string(p), "sys/kernel/random/boot_id"))
	if err != nil {
		return "", 0, err
	}
	var since unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &since); err != nil {
		return "", 0, err
	}
	return strings.TrimSpace(string(b)), uint64(since.Nano() / int64(10*time.Millisecond)), nil
}

// started implements processTable.
func (p proc) started(pid int) (ticks uint64, alive bool) {
	one, err := p.of(pid)
	if err != nil {
		return 0, false
	}
	s, err := one.Stat()
	if err != nil || strings.Contains("ZX", s.State) {
		return 0, false
	}
	return s.Starttime, true
}

// offspring implements processTable.
func (p proc) offspring(of []int) ([]int, error) {
	if len(of) == 0 {
		return nil, nil
	}
	filesystem, err := procfs.NewFS(string(p))
	if err != nil {
		return nil, err
	}
	all, err := filesystem.AllProcs()
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, s := range living(all) {
		children[s.PPID] = append(children[s.PPID], s.PID)
	}
	found := slices.Clone(of)
	for i := 0; i < len(found) && len(found) <= maxPids; i++ {
		for _, child := range children[found[i]] {
			if !slices.Contains(found, child) {
				found = append(found, child)
			}
		}
	}
	return found[len(of):], nil
}

// maxCgroups bounds how many cgroups there are below that of an engine.
const maxCgroups = 256

// inCgroup implements processTable.
func (p proc) inCgroup(dir string) (pids []int, err error) {
	var st unix.Statfs_t
	switch err := unix.Statfs(dir, &st); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %w", dir, err)
	case uint32(st.Type) != unix.CGROUP2_SUPER_MAGIC && uint32(st.Type) != unix.CGROUP_SUPER_MAGIC:
		return nil, fmt.Errorf("%s is not a cgroup", dir)
	}
	count := 0
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !entry.IsDir() {
			return nil // it was removed meanwhile
		}
		if err != nil {
			return err
		}
		if count++; count > maxCgroups {
			return fmt.Errorf("%s has more than %d cgroups below it", dir, maxCgroups)
		}
		more, err := procsOf(path)
		pids = append(pids, more...)
		return err
	})
	return pids, err
}

// frozen implements processTable: processes are frozen if all of their threads are
// stopped, or by a cgroup of either version.
func (p proc) frozen(pids []int) freezing {
	self, err := procfs.Self()
	if err != nil {
		return unknowable
	}
	mounts, _ := self.MountInfo()
	for _, pid := range pids {
		if p.suspended([]int{pid}) {
			continue
		}
		one, err := p.of(pid)
		if err != nil {
			continue // it has exited
		}
		in, err := one.Cgroups()
		if err != nil {
			continue
		}
		seen := unknowable
		for _, g := range in {
			if now := frozenBy(mounts, g); now != unknowable && seen != halted {
				seen = now
			}
		}
		if seen != halted {
			return seen
		}
	}
	return halted
}

// frozenBy returns what the freezer of a cgroup says.
func frozenBy(mounts []*procfs.MountInfo, g procfs.Cgroup) freezing {
	version2 := g.HierarchyID == 0 && len(g.Controllers) == 0
	if !version2 && !slices.Contains(g.Controllers, "freezer") {
		return unknowable
	}
	for _, m := range mounts {
		_, freezer := m.SuperOptions["freezer"]
		if !(version2 && m.FSType == "cgroup2" || !version2 && m.FSType == "cgroup" && freezer) {
			continue
		}
		below, err := filepath.Rel(m.Root, g.Path)
		if err != nil || !filepath.IsLocal(below) {
			continue
		}
		file, yes := "cgroup.events", "frozen 1"
		if !version2 {
			file, yes = "freezer.state", "FROZEN"
		}
		b, err := os.ReadFile(filepath.Join(m.MountPoint, below, file))
		switch {
		case err == nil && slices.Contains(strings.Split(string(b), "\n"), yes):
			return halted
		case err == nil, errors.Is(err, fs.ErrNotExist) && below == ".": // the root cannot be frozen
			return runs
		}
	}
	return unknowable
}

// endPoll is how often it is looked whether a process has ended where the kernel does
// not tell.
const endPoll = 500 * time.Millisecond

// awaitEnd implements processTable, by a pidfd (5.3; one that blocks no thread, 5.10).
func (p proc) awaitEnd(ctx context.Context, one pinned) {
	gone := func() bool {
		start, alive := p.started(one.Pid)
		return !alive || start != one.Start
	}
	if fd, err := unix.PidfdOpen(one.Pid, unix.PIDFD_NONBLOCK); err == nil {
		f := os.NewFile(uintptr(fd), "pidfd")
		defer f.Close()
		if gone() { // and the handle is of another, or of none
			return
		}
		defer context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Now()) })()
		if raw, err := f.SyscallConn(); err == nil {
			raw.Read(func(fd uintptr) bool {
				n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
				return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
			})
		}
	}
	for !gone() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(endPoll):
		}
	}
}

// endedWell implements processTable.
func (p proc) endedWell(pid int) bool {
	// The fields of a siginfo_t after signo, errno and code begin at the next multiple of a
	// pointer: pid, uid, status.
	const status = 12 + (unsafe.Sizeof(uintptr(0)) - 4) + 8
	const exited = 1 // CLD_EXITED
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
	return err == nil && info.Code == exited && *(*int32)(unsafe.Add(unsafe.Pointer(&info), status)) == 0
}
