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

// newSystem returns what this kernel can do. It tries each call, since a version
// number says nothing about back-ports, seccomp filters and sandboxes.
func newSystem() *system {
	s := &system{
		name: "linux", page: int64(os.Getpagesize()),
		mapFile: mapFile, unmap: unmap,
		device: deviceOf, filesystem: filesystemOf,
		populate: madvise(unix.MADV_POPULATE_READ), setReadahead: setReadahead,
		mincore: mincore, mayAskMincore: mayAskMincore, pagemap: pagemap, cachestat: cachestat,
		dropMapped: madvise(unix.MADV_DONTNEED), dropCached: dropCached, writeBack: writeBack, markCold: madvise(unix.MADV_COLD),
		mlock: mlock, munlock: unix.Munlock, mlockLimit: mlockLimit,
		idleIO: idleIO,
	}
	noFile := ^uint(0)
	if err := unix.Cachestat(noFile, &unix.CachestatRange{}, &unix.Cachestat_t{}, 0); !errors.Is(err, unix.EBADF) {
		s.cachestat = nil
	}
	b, err := unix.Mmap(-1, 0, int(s.page), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return s
	}
	defer unix.Munmap(b)
	b[0] = 1 // makes the page present
	vec := make([]byte, 1)
	if s.populate(b) != nil {
		s.populate = nil
	}
	if s.mincore(b, vec) != nil {
		s.mincore = nil
	}
	if s.pagemap(b, vec) != nil || vec[0] != 1 {
		s.pagemap = nil
	}
	return s
}

func mapFile(f *os.File, size int) ([]byte, error) {
	return unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
}

func unmap(b []byte) error { return unix.Munmap(b) }

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

const (
	remoteNote  = "What is cached is also up to the server and the network."
	fuseNote    = "Whether pages can be dropped is up to the filesystem's own program."
	zfsNote     = "ZFS keeps a cache of its own (ARC), which nothing else sees or empties."
	memoryNote  = "Its files are memory already: no tier frees any."
	layeredNote = "The pages belong to the layer below, shared with everything that maps it."
)

// filesystems are known by the magic numbers of include/uapi/linux/magic.h.
var filesystems = map[uint32]filesystem{
	unix.EXT4_SUPER_MAGIC:      {name: "ext4"},
	unix.XFS_SUPER_MAGIC:       {name: "xfs"},
	unix.BTRFS_SUPER_MAGIC:     {name: "btrfs"},
	unix.F2FS_SUPER_MAGIC:      {name: "f2fs"},
	unix.EXFAT_SUPER_MAGIC:     {name: "exfat"},
	unix.MSDOS_SUPER_MAGIC:     {name: "vfat"},
	unix.SQUASHFS_MAGIC:        {name: "squashfs"},
	unix.TMPFS_MAGIC:           {name: "tmpfs", inMemory: true, note: memoryNote},
	unix.RAMFS_MAGIC:           {name: "ramfs", inMemory: true, note: memoryNote},
	unix.HUGETLBFS_MAGIC:       {name: "hugetlbfs", inMemory: true, note: memoryNote},
	unix.OVERLAYFS_SUPER_MAGIC: {name: "overlay", layered: true, note: layeredNote},
	unix.FUSE_SUPER_MAGIC:      {name: "fuse", layered: true, note: fuseNote}, // passthrough, since 6.9
	unix.NFS_SUPER_MAGIC:       {name: "nfs", note: remoteNote},
	unix.CIFS_SUPER_MAGIC:      {name: "smb", note: remoteNote},
	unix.SMB2_SUPER_MAGIC:      {name: "smb", note: remoteNote},
	unix.CEPH_SUPER_MAGIC:      {name: "ceph", note: remoteNote},
	unix.V9FS_MAGIC:            {name: "9p", note: remoteNote},
	0x2fc12fc1:                 {name: "zfs", note: zfsNote}, // not in the kernel's tree
}

func filesystemOf(f *os.File) filesystem {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return filesystem{name: "unknown", note: "Its filesystem is unknown: " + err.Error() + "."}
	}
	magic := uint32(st.Type)
	if fs, ok := filesystems[magic]; ok {
		return fs
	}
	return filesystem{name: fmt.Sprintf("magic %#x", magic), layered: true, note: "The filesystem is not known to modeltier: only what was seen is reported."}
}

func setReadahead(f *os.File, r readahead) {
	advice := unix.FADV_NORMAL
	switch r {
	case readaheadFar: // twice the window
		advice = unix.FADV_SEQUENTIAL
	case readaheadOff:
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

// mayAskMincore follows can_do_mincore in the kernel's mm/mincore.c (since 5.2):
// to other processes mincore reports every page as present.
func mayAskMincore(f *os.File, info fs.FileInfo) bool {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == os.Geteuid() {
		return true
	}
	return unix.Faccessat(unix.AT_FDCWD, f.Name(), unix.W_OK, unix.AT_EACCESS) == nil
}

// pagemap reads /proc/self/pagemap, 8 bytes a page
// (Documentation/admin-guide/mm/pagemap.rst). The top bit is set if the page is in
// our page tables, the next one, for a file page, while the kernel migrates it.
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

func dropCached(f *os.File, off, n int64) error {
	return os.NewSyscallError("fadvise", unix.Fadvise(int(f.Fd()), off, n, unix.FADV_DONTNEED))
}

func writeBack(f *os.File, off, n int64) error {
	const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return os.NewSyscallError("sync_file_range", unix.SyncFileRange(int(f.Fd()), off, n, wait))
}

// mlock locks with MLOCK_ONFAULT, since Linux 4.4: plain mlock waits for the device
// if a page is missing.
func mlock(b []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MLOCK2, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MLOCK_ONFAULT)
	if errno != 0 {
		return os.NewSyscallError("mlock2", errno)
	}
	return nil
}

func mlockLimit() tier.Bytes {
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

// idleIO puts this thread into the idle class of ioprio_set(2), if the kernel
// allows it.
func idleIO() (restore func()) {
	const (
		whoProcess = 1       // IOPRIO_WHO_PROCESS: one thread; 0 is the caller
		idleClass  = 3 << 13 // IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT
	)
	runtime.LockOSThread()
	old, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, whoProcess, 0, 0)
	if errno == 0 {
		_, _, errno = unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, idleClass)
	}
	if errno != 0 {
		runtime.UnlockOSThread()
		return func() {}
	}
	return func() {
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, old); errno == 0 {
			runtime.UnlockOSThread() // else the thread ends with its goroutine
		}
	}
}
