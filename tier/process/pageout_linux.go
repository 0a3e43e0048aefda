package process

import (
	"context"
	"errors"
	"math"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// pageOutPiece is how much is paged out at a time: some milliseconds'
// worth.
const pageOutPiece = 64 << 20

// remoteRange is a struct iovec about another process. Its address is a number:
// as a pointer, it would be taken for one of ours.
type remoteRange struct{ addr, size uintptr }

// pageOut uses process_madvise (5.10; CAP_SYS_NICE). Regions that the process has
// locked in memory are left, as is what others map too: the kernel does not touch
// it and does not say so.
func pageOut(ctx context.Context, pid int, regions []region, done func(tier.Bytes)) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return unlessGone(err)
	}
	defer unix.Close(fd)
	for _, r := range regions {
		for off := uint64(0); off < r.size; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n := min(r.size-off, pageOutPiece)
			if r.addr+off > math.MaxUint-n { // we are a 32-bit program, and it is not
				return unix.ENOSYS
			}
			did, err := madvise(fd, remoteRange{uintptr(r.addr + off), uintptr(n)})
			switch {
			case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOMEM):
				did = int(n) // locked, or no longer mapped
			case err != nil:
				return unlessGone(err)
			}
			off += uint64(max(did, 1<<12))
			done(tier.Bytes(min(did, int(n))))
		}
	}
	return nil
}

func unlessGone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func madvise(pidfd int, r remoteRange) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_PROCESS_MADVISE, uintptr(pidfd), uintptr(unsafe.Pointer(&r)), 1, unix.MADV_PAGEOUT, 0, 0)
	runtime.KeepAlive(&r)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// mincoreOf sets vec[i] to 1 where page i of b is in memory.
func mincoreOf(b, vec []byte) error {
	if len(b) == 0 {
		return nil
	}
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&vec[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
