package mapped

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/modeltier/modeltier/tier"
	"golang.org/x/sys/unix"
)

// newSystem returns what this kernel can do, by trying: a version number says
// nothing about back-ports, seccomp filters and sandboxes.
func newSystem() *system {
	s := &system{
		name: "linux", page: int64(os.Getpagesize()),
		mapFile: mapFile, unmap: unmap,
		device: deviceOf, filesystem: filesystemOf,
		populate: madvise(unix.MADV_POPULATE_READ), ahead: ahead,
		cached: mincore, owned: owned, entered: pagemap, census: cachestat,
		forget: madvise(unix.MADV_DONTNEED), drop: drop, clean: clean, offer: madvise(unix.MADV_COLD),
		lock: lock, unlock: unix.Munlock, lockLimit: lockLimit,
		idle: idle,
	}
	noFile := ^uint(0)
	if err := unix.Cachestat(noFile, &unix.CachestatRange{}, &unix.Cachestat_t{}, 0); !errors.Is(err, unix.EBADF) {
		s.census = nil
	}
	b, err := unix.Mmap(-1, 0, int(s.page), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return s
	}
	defer unix.Munmap(b)
	b[0] = 1 // present from here on
	vec := make([]byte, 1)
	if s.populate(b) != nil {
		s.populate = nil
	}
	if s.cached(b, vec) != nil {
		s.cached = nil
	}
	if s.entered(b, vec) != nil || vec[0] != 1 {
		s.entered = nil
	}
	return s
}

func madvise(advice int) func(b []byte) error {
	return func(b []byte) error {
		for {
			if err := unix.Madvise(b, advice); !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	}
}

func deviceOf(info fs.FileInfo) (uint64, string) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, "unknown"
	}
	dev := uint64(st.Dev)
	return dev, fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
}

// filesystemOf goes by the magic numbers of include/uapi/linux/magic.h.
func filesystemOf(f *os.File) filesystem {
	const (
		far     = "What is cached is also up to the server and the network."
		fuse    = "Whether pages can be dropped is up to the filesystem's own program."
		arc     = "ZFS keeps a cache of its own (ARC), which nobody else sees or empties."
		memory  = "Its files are memory already: no tier frees any."
		layered = "The pages belong to the layer below, with everyone else who maps it."
	)
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return filesystem{name: "unknown", note: "Its filesystem cannot be told: " + err.Error() + "."}
	}
	switch magic := uint32(st.Type); magic {
	case unix.EXT4_SUPER_MAGIC:
		return filesystem{name: "ext4"}
	case unix.XFS_SUPER_MAGIC:
		return filesystem{name: "xfs"}
	case unix.BTRFS_SUPER_MAGIC:
		return filesystem{name: "btrfs"}
	case unix.F2FS_SUPER_MAGIC:
		return filesystem{name: "f2fs"}
	case unix.EXFAT_SUPER_MAGIC:
		return filesystem{name: "exfat"}
	case unix.MSDOS_SUPER_MAGIC:
		return filesystem{name: "vfat"}
	case unix.SQUASHFS_MAGIC:
		return filesystem{name: "squashfs"}
	case unix.TMPFS_MAGIC:
		return filesystem{name: "tmpfs", memory: true, note: memory}
	case unix.RAMFS_MAGIC:
		return filesystem{name: "ramfs", memory: true, note: memory}
	case unix.HUGETLBFS_MAGIC:
		return filesystem{name: "hugetlbfs", memory: true, note: memory}
	case unix.OVERLAYFS_SUPER_MAGIC:
		return filesystem{name: "overlay", layered: true, note: layered}
	case unix.FUSE_SUPER_MAGIC:
		return filesystem{name: "fuse", layered: true, note: fuse} // passthrough, since 6.9
	case unix.NFS_SUPER_MAGIC:
		return filesystem{name: "nfs", note: far}
	case unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC:
		return filesystem{name: "smb", note: far}
	case unix.CEPH_SUPER_MAGIC:
		return filesystem{name: "ceph", note: far}
	case unix.V9FS_MAGIC:
		return filesystem{name: "9p", note: far}
	case 0x2fc12fc1: // ZFS, not in the kernel's tree
		return filesystem{name: "zfs", note: arc}
	default:
		return filesystem{name: fmt.Sprintf("magic %#x", magic), layered: true, note: "A filesystem that is not known here: only what was seen is told."}
	}
}

// ahead doubles the window of readahead, which faults in the mapping go by too,
// or closes it.
func ahead(f *os.File, how int) {
	advice := unix.FADV_NORMAL
	switch how {
	case 1:
		advice = unix.FADV_SEQUENTIAL
	case -1:
		advice = unix.FADV_RANDOM
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, advice) // a hint
}

func mincore(b []byte, vec []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(unsafe.Pointer(unsafe.SliceData(vec))))
	if errno != 0 {
		return os.NewSyscallError("mincore", errno)
	}
	for i := range vec {
		vec[i] &= 1 // the other bits mean nothing
	}
	return nil
}

// owned is the rule of can_do_mincore in the kernel's mm/mincore.c (since 5.2):
// to all others mincore says that everything is present.
func owned(f *os.File, info fs.FileInfo) bool {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == os.Geteuid() {
		return true
	}
	return unix.Faccessat(unix.AT_FDCWD, f.Name(), unix.W_OK, unix.AT_EACCESS) == nil
}

// pagemap reads /proc/self/pagemap: 8 bytes a page, the top bit is set where the
// page is in our page tables (Documentation/admin-guide/mm/pagemap.rst), the next
// one, for pages of a file, while the kernel moves it to another place in memory.
func pagemap(b []byte, vec []byte) error {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return err
	}
	defer f.Close()
	entries := make([]byte, 8*len(vec))
	first := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) / uint64(os.Getpagesize())
	if _, err := f.ReadAt(entries, int64(8*first)); err != nil {
		return err
	}
	for i := range vec {
		vec[i] = 0
		if binary.NativeEndian.Uint64(entries[8*i:])>>62 != 0 {
			vec[i] = 1
		}
	}
	return nil
}

func cachestat(f *os.File, off, n int64) (int64, error) {
	var st unix.Cachestat_t
	if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &st, 0); err != nil {
		return 0, os.NewSyscallError("cachestat", err)
	}
	return int64(st.Cache) * int64(os.Getpagesize()), nil
}

func drop(f *os.File, off, n int64) error {
	return os.NewSyscallError("fadvise", unix.Fadvise(int(f.Fd()), off, n, unix.FADV_DONTNEED))
}

func clean(f *os.File, off, n int64) error {
	const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return os.NewSyscallError("sync_file_range", unix.SyncFileRange(int(f.Fd()), off, n, wait))
}

// lock prefers mlock2 with MLOCK_ONFAULT, which never waits for the device, as
// mlock does where a page is missing.
func lock(b []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MLOCK2, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MLOCK_ONFAULT)
	switch errno {
	case 0:
		return nil
	case unix.ENOSYS:
		return os.NewSyscallError("mlock", unix.Mlock(b))
	}
	return os.NewSyscallError("mlock2", errno)
}

func lockLimit() tier.Bytes {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData // version 3 takes two
	if unix.Capget(&hdr, &caps[0]) == nil && caps[0].Effective>>unix.CAP_IPC_LOCK&1 != 0 {
		return tier.Unlimited
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim); err != nil {
		return 0
	}
	return tier.Bytes(min(lim.Cur, math.MaxInt64))
}

// idle gives this thread the idle class of ioprio_set(2), where the kernel
// allows it.
func idle() (restore func()) {
	const (
		process  = 1 // IOPRIO_WHO_PROCESS: one thread; 0 is the caller's
		classOf  = 13
		idleness = 3 << classOf
	)
	runtime.LockOSThread()
	old, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, process, 0, 0)
	if errno == 0 {
		_, _, errno = unix.Syscall(unix.SYS_IOPRIO_SET, process, 0, idleness)
	}
	if errno != 0 {
		runtime.UnlockOSThread()
		return func() {}
	}
	return func() {
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, process, 0, old); errno == 0 {
			runtime.UnlockOSThread() // else the thread ends with its goroutine
		}
	}
}
