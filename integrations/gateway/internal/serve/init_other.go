//go:build !linux

package serve

// runAsInit is not called: only Linux has containers whose first process this can be.
func runAsInit() int { return 1 }
