package hotload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/modeltier/modeltier/tier"
)

// windowBytes is how much of a file is in memory at once. No single item that is
// taken whole may be longer.
const windowBytes = 64 << 10

// window reads a file from front to end through a buffer of fixed size, and skips
// without reading.
type window struct {
	r     io.ReaderAt
	size  int64 // of the file
	limit int64 // how far a header may reach
	pos   int64 // of the next byte
	buf   []byte
	start int64 // position of buf[0]
}

// take returns the next n bytes, n ≤ windowBytes. They are good until the next
// call.
func (w *window) take(n int) ([]byte, error) {
	if err := w.expect("bytes", uint64(n), 1); err != nil {
		return nil, err
	}
	if w.pos < w.start || w.pos+int64(n) > w.start+int64(len(w.buf)) {
		if w.buf == nil {
			w.buf = make([]byte, windowBytes)
		}
		w.start, w.buf = w.pos, w.buf[:min(windowBytes, w.size-w.pos)]
		got, err := w.r.ReadAt(w.buf, w.start)
		if w.buf = w.buf[:got]; got < n {
			if err == nil || errors.Is(err, io.EOF) {
				return nil, w.truncated(int64(n - got)) // it shrank while it was read
			}
			return nil, &FileError{Reason: "cannot be read", Err: err}
		}
	}
	at := int(w.pos - w.start)
	w.pos += int64(n)
	return w.buf[at : at+n : at+n], nil
}

// skip passes over n bytes, which are of what.
func (w *window) skip(what string, n uint64) error {
	if err := w.expect(what, n, 1); err != nil {
		return err
	}
	w.pos += int64(n)
	return nil
}

// expect checks that count items of at least the given bytes can follow. It is
// what keeps work and memory in proportion to the file and not to its claims.
func (w *window) expect(what string, count, least uint64) error {
	if count > uint64(max(w.limit-w.pos, 0))/least {
		return &FileError{Reason: fmt.Sprintf("claims %d %s, and no header is that long", count, what)}
	}
	if need := int64(count * least); need > w.size-w.pos {
		return w.truncated(need - (w.size - w.pos))
	}
	return nil
}

func (w *window) truncated(missing int64) error {
	return &FileError{Missing: tier.Bytes(missing), Reason: fmt.Sprintf("is truncated: it ends in its header, of which %v or more are missing", tier.Bytes(missing))}
}

func (w *window) uint32() (uint32, error) {
	b, err := w.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (w *window) uint64() (uint64, error) {
	b, err := w.take(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}
