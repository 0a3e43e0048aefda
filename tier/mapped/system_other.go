//go:build !linux

package mapped

import "os"

// newSystem returns a system that only maps: the operating system decides what
// happens to pages.
func newSystem() *system {
	return &system{name: "portable", page: int64(os.Getpagesize()), mapFile: mapFile, unmap: unmap}
}
