package demo

import (
	"os"

	"golang.org/x/sys/unix"
)

// forget drops what was written from the page cache, so that the first load of a
// demo model is as cold as that of any file that nobody has read. It is a wish:
// where it is not granted the load is faster, and that is all.
func forget(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
