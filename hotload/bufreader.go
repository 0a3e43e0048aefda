package hotload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/modeltier/modeltier/tier"
)

// bufferBytes is how much of a file is in memory at once. No item that is taken
// whole may be longer.
const bufferBytes = 64 << 10

// buffers are reused: to read the headers of a large folder would otherwise
// allocate and clear one for each file.
var buffers = sync.Pool{New: func() any { return new([bufferBytes]byte) }}

// bufReader reads a file from start to end through a buffer of fixed size, and
// skips without reading. It is to be closed.
type bufReader struct {
	r     io.ReaderAt
	size  int64 // of the file
	limit int64 // how far a header may reach
	pos   int64 // of the next byte

	buffer *[bufferBytes]byte
	filled []byte // the part of the buffer that was read
	start  int64  // position of filled[0]
}

func (b *bufReader) close() {
	if b.buffer != nil {
		buffers.Put(b.buffer)
		b.buffer, b.filled = nil, nil
	}
}

// take returns the next n bytes, n ≤ bufferBytes. They are valid until the next
// call.
func (b *bufReader) take(n int) ([]byte, error) {
	if err := b.expect("bytes", uint64(n), 1); err != nil {
		return nil, err
	}
	if b.pos < b.start || b.pos+int64(n) > b.start+int64(len(b.filled)) {
		if b.buffer == nil {
			b.buffer = buffers.Get().(*[bufferBytes]byte)
		}
		b.start = b.pos
		got, err := b.r.ReadAt(b.buffer[:min(bufferBytes, b.size-b.pos)], b.start)
		if b.filled = b.buffer[:got]; got < n {
			if err == nil || errors.Is(err, io.EOF) {
				return nil, b.truncated(int64(n - got)) // it shrank meanwhile
			}
			return nil, &FileError{Reason: "cannot be read", Err: err}
		}
	}
	at := int(b.pos - b.start)
	b.pos += int64(n)
	return b.filled[at : at+n : at+n], nil
}

// skip passes over n bytes; what names them for an error.
func (b *bufReader) skip(what string, n uint64) error {
	if err := b.expect(what, n, 1); err != nil {
		return err
	}
	b.pos += int64(n)
	return nil
}

// expect checks that count items of at least the given bytes can follow. It keeps
// work and memory in proportion to the file and not to its claims.
func (b *bufReader) expect(what string, count, least uint64) error {
	if count > uint64(max(b.limit-b.pos, 0))/least {
		return &FileError{Reason: fmt.Sprintf("claims %d %s, and no header is that long", count, what)}
	}
	if need := int64(count * least); need > b.size-b.pos {
		return b.truncated(need - (b.size - b.pos))
	}
	return nil
}

func (b *bufReader) truncated(missing int64) error {
	return &FileError{Missing: tier.Bytes(missing), Reason: fmt.Sprintf("is truncated: it ends in its header, of which %v or more are missing", tier.Bytes(missing))}
}

func (b *bufReader) uint32() (uint32, error) {
	raw, err := b.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(raw), nil
}

func (b *bufReader) uint64() (uint64, error) {
	raw, err := b.take(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(raw), nil
}
