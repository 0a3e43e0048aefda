package mapped

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"unsafe"

	"github.com/modeltier/modeltier/tier"
)

// system is what the operating system can do with files and their pages. A nil
// function is missing and has a fallback: kernels lack calls, containers forbid
// them, and tests take them away one by one.
type system struct {
	name string // "linux", "portable"
	page int64  // bytes

	mapFile func(f *os.File, size int) ([]byte, error)
	unmap   func(b []byte) error

	// device returns the ID and the name of the device that holds the file.
	device func(info fs.FileInfo) (id uint64, name string)
	// filesystem describes the filesystem that holds the file.
	filesystem func(f *os.File) filesystem

	// populate reads the pages of b and maps them before it returns
	// (MADV_POPULATE_READ). A page that cannot be read is an error.
	populate func(b []byte) error
	// setReadahead sets the readahead of the file, which faults in its mappings use
	// too.
	setReadahead func(f *os.File, r readahead)

	// mincore sets vec[i] to 1 if page i of b is in the page cache, else to 0. The
	// kernel tells the truth only if mayAskMincore is true.
	mincore func(b []byte, vec []byte) error
	// mayAskMincore reports whether the process owns or may write the file.
	mayAskMincore func(f *os.File, info fs.FileInfo) bool
	// pagemap is mincore for the pages that our own page tables hold.
	pagemap func(b []byte, vec []byte) error
	// cachestat returns how many bytes of the range are in the page cache, in whole
	// pages, including pages that are still being read.
	cachestat func(f *os.File, off, n int64) (int64, error)

	// dropMapped drops the pages of b from our page tables (MADV_DONTNEED).
	dropMapped func(b []byte) error
	// dropCached drops the range of the file from the page cache, except pages that
	// are mapped or dirty (POSIX_FADV_DONTNEED).
	dropCached func(f *os.File, off, n int64) error
	// writeBack writes the dirty pages of the range to the device and waits for it.
	writeBack func(f *os.File, off, n int64) error
	// markCold makes the pages of b the first that the kernel reclaims (MADV_COLD).
	markCold func(b []byte) error

	// mlock keeps the pages of b that are present, and those that become so, in
	// memory.
	mlock, munlock func(b []byte) error
	// mlockLimit returns how many bytes the process may lock.
	mlockLimit func() tier.Bytes

	// idleIO gives the reads of the calling goroutine the lowest priority until
	// restore is called.
	idleIO func() (restore func())
}

// readahead is how far the kernel reads beyond what is asked for.
type readahead uint8

const (
	readaheadNormal readahead = iota
	readaheadFar
	readaheadOff
)

// filesystem describes what a file lies on.
type filesystem struct {
	name string
	// inMemory: its pages are the file itself, and are not dropped.
	inMemory bool
	// layered: pages may belong to a file on a lower layer. A mapping shows those
	// pages, cachestat on this file counts none.
	layered bool
	note    string // what an operator should know, or ""
}

func (s *system) pages(size int64) int { return int((size + s.page - 1) / s.page) }

// missing names the calls that this system lacks.
func (s *system) missing() []string {
	var names []string
	for _, c := range []struct {
		name  string
		there bool
	}{
		{"MADV_POPULATE_READ", s.populate != nil},
		{"mincore", s.mincore != nil},
		{"pagemap", s.pagemap != nil},
		{"cachestat", s.cachestat != nil},
		{"MADV_DONTNEED", s.dropMapped != nil},
		{"POSIX_FADV_DONTNEED", s.dropCached != nil},
		{"mlock", s.mlock != nil},
	} {
		if !c.there {
			names = append(names, c.name)
		}
	}
	return names
}

// errFault: a mapped page could not be read, because its file ends early or its
// device fails.
var errFault = errors.New("the mapped file cannot be read there")

// guard runs fn and turns a fault within mem into an error, which would otherwise
// end the process. Any other panic goes on.
func guard(mem []byte, fn func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface {
			runtime.Error
			Addr() uintptr
		}:
			// Some faults, of memory that went bad, name the page only.
			page := uintptr(os.Getpagesize())
			first := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
			if addr := r.Addr(); addr < first&^(page-1) || addr >= first+uintptr(len(mem)) {
				panic(r)
			}
			err = errFault
		default:
			panic(r)
		}
	}()
	fn()
	return nil
}

// touch reads one byte of every page of mem, so that our page tables hold it.
func touch(mem []byte, page int64) error {
	var sum byte
	err := guard(mem, func() {
		for i := int64(0); i < int64(len(mem)); i += page {
			sum += mem[i]
		}
	})
	runtime.KeepAlive(&sum) // or the compiler may drop the reads
	return err
}
