package digest

import (
	"io/fs"
	"syscall"
)

func (id *Identity) addSystem(info fs.FileInfo) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.Device, id.Inode, id.Changed = uint64(st.Dev), st.Ino, st.Ctim.Nano()
	}
}
