//go:build !linux && !windows

package mapped

import (
	"os"
	"syscall"
)

// newSystem returns a system that only maps: the operating system decides what
// happens to pages.
func newSystem() *system {
	return &system{name: "portable", page: int64(os.Getpagesize()), mapFile: mapFile, unmap: unmap}
}

func mapFile(f *os.File, size int) ([]byte, error) {
	return syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ, syscall.MAP_SHARED)
}

func unmap(b []byte) error { return syscall.Munmap(b) }
