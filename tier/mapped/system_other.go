//go:build !linux

package mapped

import "os"

// newSystem returns a system that only maps: what pages do is left to the
// operating system.
func newSystem() *system {
	return &system{name: "portable", page: int64(os.Getpagesize()), mapFile: mapFile, unmap: unmap}
}
