package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// newSystem returns what this kernel can do. What it forbids shows when it is tried.
func newSystem() *system {
	s := unixSystem()
	p := proc("/proc")
	s.name, s.kernel = "linux", release()
	s.isolate, s.dies = isolate, true
	s.awaitExit = awaitExit
	s.members, s.suspended = p.members, p.suspended
	s.listener = p.listener
	s.usage, s.effort, s.regions = p.usage, p.effort, p.regions
	s.cgroup = newCgroup
	s.register, s.remember, s.recorded, s.endOrphans = register, remember, recorded, p.endOrphans
	s.processes = p
	s.owned, s.cached, s.drop = owned, cachestat, drop
	s.pageOut, s.mayPageOut = pageOut, mayPageOut
	return s
}

func release() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// isolate makes the engine lead a session, out of reach of the terminal's signals, and
// be killed when the thread that starts it ends, even while it is stopped or frozen in
// a cgroup v2.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// awaitExit leaves a zombie, so that no other process gets its number.
func awaitExit(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// owned is the kernel's condition for telling the truth in mincore and for giving up
// pages (can_do_mincore, can_do_file_pageout).
func owned(f *os.File) bool {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) == nil && int(st.Uid) == os.Geteuid() || os.Geteuid() == 0 {
		return true
	}
	return unix.Faccessat(unix.AT_FDCWD, f.Name(), unix.W_OK, unix.AT_EACCESS) == nil
}

// flat is the file systems on which a file owns its pages. Elsewhere, as on an overlay,
// they may belong to a file below, of which cachestat tells nothing.
var flat = []uint32{
	unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.SQUASHFS_MAGIC, unix.TMPFS_MAGIC,
}

// cachestat counts in one call (6.5), or else as mincore does.
func cachestat(f *os.File, off, n int64) (int64, error) {
	if n == 0 {
		return 0, nil // to the kernel, 0 means the whole file
	}
	var on unix.Statfs_t
	var st unix.Cachestat_t
	asked := unix.CachestatRange{Off: uint64(off), Len: uint64(n)}
	if unix.Fstatfs(int(f.Fd()), &on) != nil || !slices.Contains(flat, uint32(on.Type)) || unix.Cachestat(uint(f.Fd()), &asked, &st, 0) != nil {
		return mincore(f, off, n)
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
		_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(size), uintptr(unsafe.Pointer(&vec[0])))
		if err := unix.Munmap(b); err != nil || errno != 0 {
			return 0, cmp.Or(err, error(errno))
		}
		for _, v := range vec[:pages] {
			in += int64(v&1) * page
		}
	}
	return min(in, n), nil
}

// drop takes a range out of the page cache, but for pages that are dirty or mapped.
func drop(f *os.File, off, n int64) error {
	return unix.Fadvise(int(f.Fd()), off, n, unix.FADV_DONTNEED)
}

// pageOutPiece is how much is paged out at a time, in some milliseconds.
const pageOutPiece = 64 << 20

// remoteRange is a struct iovec of another process. Its address is a number: as a
// pointer, it would be taken for one of ours.
type remoteRange struct{ addr, size uintptr }

var errHighAddress = errors.New("an address beyond those of a 32-bit program")

// pageOut uses process_madvise (5.10; CAP_SYS_NICE). Regions that the process has locked
// stay, as do pages that other processes map too: the kernel does not touch them and
// does not say so.
func pageOut(ctx context.Context, pid int, regions []region) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return unless(unix.ESRCH, err)
	}
	defer unix.Close(fd)
	for _, r := range regions {
		for off := uint64(0); off < r.size; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n := min(r.size-off, pageOutPiece)
			if r.addr+off > math.MaxUint-n { // we are a 32-bit program, and it is not
				return errHighAddress
			}
			did, err := madvise(fd, remoteRange{uintptr(r.addr + off), uintptr(n)})
			switch {
			case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOMEM):
				did = int(n) // locked, or no longer mapped
			case err != nil:
				return unless(unix.ESRCH, err)
			}
			off += uint64(max(did, 1<<12))
		}
	}
	return nil
}

// mayPageOut has the kernel check what it checks before it looks at the regions, of which
// there are none.
func mayPageOut(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return unless(unix.ESRCH, err)
	}
	defer unix.Close(fd)
	_, err = madvise(fd, remoteRange{})
	return unless(unix.ESRCH, err)
}

func madvise(pidfd int, r remoteRange) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_PROCESS_MADVISE, uintptr(pidfd), uintptr(unsafe.Pointer(&r)), 1, unix.MADV_PAGEOUT, 0, 0)
	runtime.KeepAlive(&r)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EPERM:
		return 0, fmt.Errorf("CAP_SYS_NICE is needed, before Linux 5.12 CAP_SYS_ADMIN: %w", errno)
	}
	return 0, errno
}
