package process

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// newSystem returns what this kernel can do. What it forbids shows when it is
// tried, and is then done without.
func newSystem() *system {
	s := unixSystem()
	p := proc("/proc")
	s.name, s.kernel = "linux", release()
	s.isolate, s.dies = isolate, true
	s.awaitExit = awaitExit
	s.members, s.started, s.suspended = p.members, p.started, p.suspended
	s.usage, s.regions = p.usage, p.regions
	s.cages = newCages
	s.record, s.sweep = record, p.sweep
	s.owned, s.cached, s.drop = owned, mincore, drop
	if hasCachestat() {
		s.cached = cachestat
	}
	s.pageOut = pageOut
	return s
}

func release() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// isolate has the engine lead a session, out of reach of the terminal's signals,
// and be killed when the thread that starts it ends: also while it is stopped, or
// frozen in a cgroup v2.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// awaitExit leaves a zombie, whose number nobody else can get.
func awaitExit(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// owned is the kernel's own condition for telling the truth in mincore and for
// letting go of pages (can_do_mincore, can_do_file_pageout).
func owned(f *os.File, info fs.FileInfo) bool {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == os.Geteuid() || os.Geteuid() == 0 {
		return true
	}
	return unix.Faccessat(unix.AT_FDCWD, f.Name(), unix.W_OK, unix.AT_EACCESS) == nil
}

func hasCachestat() bool {
	err := unix.Cachestat(^uint(0), &unix.CachestatRange{}, &unix.Cachestat_t{}, 0)
	return errors.Is(err, unix.EBADF)
}

// flat is where a file's pages are its own. Elsewhere, on an overlay above all,
// they may belong to a file below, of which cachestat tells nothing.
var flat = []uint32{
	unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.SQUASHFS_MAGIC, unix.TMPFS_MAGIC,
}

// cachestat counts in one call; it is there since 6.5.
func cachestat(f *os.File, off, n int64) (int64, error) {
	if n == 0 {
		return 0, nil // to the kernel, 0 is all of the file
	}
	var on unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &on) != nil || !slices.Contains(flat, uint32(on.Type)) {
		return mincore(f, off, n)
	}
	var st unix.Cachestat_t
	if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &st, 0); err != nil {
		return 0, err
	}
	return min(int64(st.Cache)*int64(os.Getpagesize()), n), nil
}

// mincore counts through mappings of 64 MiB, which fit any address space.
func mincore(f *os.File, off, n int64) (int64, error) {
	const window = 64 << 20
	page := int64(os.Getpagesize())
	vec := make([]byte, window/page)
	end, in := off+n, int64(0)
	for off -= off % page; off < end; off += window { // a mapping begins on a page
		size := min(window, end-off)
		b, err := unix.Mmap(int(f.Fd()), off, int(size), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return 0, err
		}
		pages := (size + page - 1) / page
		err = mincoreOf(b, vec[:pages])
		if e := unix.Munmap(b); err == nil {
			err = e
		}
		if err != nil {
			return 0, err
		}
		for _, v := range vec[:pages] {
			in += int64(v&1) * page
		}
	}
	return min(in, n), nil
}

// drop empties the page cache of the file, as far as its pages are clean and
// mapped by nobody.
func drop(f *os.File) error {
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
