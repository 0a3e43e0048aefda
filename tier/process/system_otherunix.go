//go:build unix && !linux

package process

import "runtime"

// newSystem returns what a Unix other than Linux can do: engines are started, suspended
// and stopped, and a reaper kills them when this process has ended.
func newSystem() *system {
	s := unixSystem()
	s.kernel = runtime.GOOS
	return s
}
