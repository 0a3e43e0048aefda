//go:build linux || darwin

package process

import (
	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// room implements system.room.
func room(dir string) (tier.Bytes, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	block := uint64(max(st.Bsize, 1))
	return bytesOf(min(st.Bavail, 1<<62/block) * block), nil
}
