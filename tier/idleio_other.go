//go:build !linux

package tier

// idleIO: I/O has no idle priority here.
func idleIO() (restore func() bool) { return nil }
