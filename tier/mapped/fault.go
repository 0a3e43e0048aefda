package mapped

import (
	"errors"
	"runtime"
	"runtime/debug"
	"unsafe"
)

// errFault: memory of a mapping was not there. Its file ends early, or its
// device cannot be read.
var errFault = errors.New("the mapped file cannot be read there")

// guard runs fn, in which a fault within mem is an error instead of the end of
// the process. Any other panic goes on.
func guard(mem []byte, fn func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface {
			runtime.Error
			Addr() uintptr
		}:
			first := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
			if addr := r.Addr(); addr < first || addr >= first+uintptr(len(mem)) {
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
	runtime.KeepAlive(&sum) // so that the reads are not taken for idle
	return err
}
