//go:build unix

package access

import (
	"math"
	"syscall"
)

// openFiles returns how many files this process may have open. The Go runtime has raised
// that to the hard limit.
func openFiles() int {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
		return 1024
	}
	return int(min(uint64(r.Cur), math.MaxInt32/8))
}
