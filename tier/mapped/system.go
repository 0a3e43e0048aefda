package mapped

import (
	"io/fs"
	"os"

	"github.com/modeltier/modeltier/tier"
)

// system is what the operating system can do with files and their pages. A
// function that is nil is missing, and there is a way to do without: kernels
// lack calls, containers forbid them, and tests take them away one by one.
type system struct {
	name string // "linux", "portable"
	page int64  // bytes

	mapFile func(f *os.File, size int) ([]byte, error)
	unmap   func(b []byte) error

	// device returns what serves the file, and what to call it.
	device func(info fs.FileInfo) (id uint64, name string)
	// filesystem tells what the file lies on.
	filesystem func(f *os.File) filesystem

	// populate makes the pages of b present and maps them; it returns when they
	// are. A page that cannot be read is an error.
	populate func(b []byte) error
	// ahead asks that reads of the file, and faults in its mappings, are to read
	// far ahead (1), as usual (0), or not at all (-1).
	ahead func(f *os.File, how int)

	// cached sets vec[i] to 1 where page i of b is in the page cache, and else to
	// 0. The kernel says so truly only where owned is true.
	cached func(b []byte, vec []byte) error
	// owned reports whether the process owns or may write the file.
	owned func(f *os.File, info fs.FileInfo) bool
	// entered is cached for the pages that our own page tables hold.
	entered func(b []byte, vec []byte) error
	// census returns how many bytes of the range are in the page cache, in whole
	// pages and also those that are still being read, or an error where the kernel
	// does not say.
	census func(f *os.File, off, n int64) (int64, error)

	// forget drops the pages of b from our page tables, drop drops the range of the
	// file from the page cache, as far as nobody maps it and it is clean.
	forget func(b []byte) error
	drop   func(f *os.File, off, n int64) error
	// clean writes what is dirty in the range to the device and waits for it.
	clean func(f *os.File, off, n int64) error
	// offer makes the pages of b the first that the kernel takes.
	offer func(b []byte) error

	// lock keeps the pages of b that are present, and those that become so, in
	// memory.
	lock, unlock func(b []byte) error
	// lockLimit is how many bytes the process may lock.
	lockLimit func() tier.Bytes

	// idle gives the calling goroutine's reads the lowest priority until restore
	// is called.
	idle func() (restore func())
}

// filesystem is what a file lies on.
type filesystem struct {
	name string
	// memory: its pages are the file itself, and are not dropped.
	memory bool
	// layered: pages may belong to a file below, of which a mapping shows the pages
	// and cachestat, asked about this one, none.
	layered bool
	note    string // what to know about it, "" where there is nothing
}

func (s *system) pages(size int64) int { return int((size + s.page - 1) / s.page) }
