//go:build unix && !linux

package process

import "runtime"

// newSystem returns what a Unix can do that is not Linux: engines are started,
// suspended and stopped, and a guard ends them when we are gone.
func newSystem() *system {
	s := unixSystem()
	s.kernel = runtime.GOOS
	return s
}
