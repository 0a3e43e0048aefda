package hotload

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"math/bits"
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
// skips without reading. After the first fault everything reads as zero. It is to
// be closed.
type bufReader struct {
	r     io.ReaderAt
	size  int64 // of the file
	limit int64 // how far a header may reach
	pos   int64 // of the next byte
	err   error // the first fault, a *FileError

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

// fail notes the fault, unless there was one before or err is nil.
func (b *bufReader) fail(err error) { b.err = cmp.Or(b.err, err) }

// fault fails with a reason in words that follow the file's path.
func (b *bufReader) fault(format string, args ...any) {
	b.fail(&FileError{Reason: fmt.Sprintf(format, args...)})
}

func (b *bufReader) truncated(missing int64) {
	b.fail(&FileError{Missing: tier.Bytes(missing), Reason: fmt.Sprintf("is truncated: it ends in its header, of which %v or more are missing", tier.Bytes(missing))})
}

// take returns the next n bytes, n ≤ bufferBytes. They are valid until the next
// call.
func (b *bufReader) take(n int) []byte {
	if !b.expect("bytes", uint64(n), 1) {
		return make([]byte, n)
	}
	if b.pos < b.start || b.pos+int64(n) > b.start+int64(len(b.filled)) {
		if b.buffer == nil {
			b.buffer = buffers.Get().(*[bufferBytes]byte)
		}
		b.start = b.pos
		got, err := b.r.ReadAt(b.buffer[:min(bufferBytes, b.size-b.pos)], b.start)
		if b.filled = b.buffer[:got]; got < n {
			if err == nil || errors.Is(err, io.EOF) {
				b.truncated(int64(n - got)) // it shrank meanwhile
			} else {
				b.fail(&FileError{Reason: "cannot be read", Err: err})
			}
			return make([]byte, n)
		}
	}
	at := int(b.pos - b.start)
	b.pos += int64(n)
	return b.filled[at : at+n : at+n]
}

// skip passes over n bytes; what names them for an error.
func (b *bufReader) skip(what string, n uint64) {
	if b.expect(what, n, 1) {
		b.pos += int64(n)
	}
}

// expect checks that count items of at least the given bytes can follow. It keeps
// work and memory in proportion to the file and not to its claims.
func (b *bufReader) expect(what string, count, least uint64) bool {
	if count > uint64(max(b.limit-b.pos, 0))/least {
		b.fault("claims %d %s, and no header is that long", count, what)
	} else if beyond := b.pos + int64(count*least) - b.size; beyond > 0 {
		b.truncated(beyond)
	}
	return b.err == nil
}

func (b *bufReader) uint32() uint32 { return binary.LittleEndian.Uint32(b.take(4)) }

func (b *bufReader) uint64() uint64 { return binary.LittleEndian.Uint64(b.take(8)) }

// uniqueNames finds names that repeat. It keeps hashes: a header may hold a hundred
// MiB of names. Two different names have the same hash in one of 10^7 headers of a
// million names.
type uniqueNames struct {
	seed maphash.Seed
	seen map[uint64]struct{}
}

func newUniqueNames() *uniqueNames {
	return &uniqueNames{maphash.MakeSeed(), make(map[uint64]struct{})}
}

// add returns an error if the name, of what, was added before.
func (u *uniqueNames) add(what, name string) error {
	before := len(u.seen)
	if u.seen[maphash.String(u.seed, name)] = struct{}{}; len(u.seen) == before {
		return &FileError{Reason: fmt.Sprintf("has the %s %.100q twice", what, name)}
	}
	return nil
}

// tensorFault returns an error about a tensor.
func tensorFault(name, format string, args ...any) error {
	return &FileError{Reason: fmt.Sprintf("has a tensor %.100q ", name) + fmt.Sprintf(format, args...)}
}

// tensorSum adds up the tensors of a file.
type tensorSum struct {
	count           int64
	elements, bytes uint64
	byType          map[string]uint64 // bytes
}

// add adds a tensor, whose figures are valid as int64; kind is "" if it is not known.
func (s *tensorSum) add(kind string, elements, bytes uint64) error {
	s.count++
	s.elements += elements // this sum is before the next one
	s.bytes += bytes
	if max(s.elements, s.bytes) > math.MaxInt64 {
		return &FileError{Reason: "has tensors of more elements or bytes than can be counted"}
	}
	if kind != "" {
		if s.byType == nil {
			s.byType = make(map[string]uint64)
		}
		s.byType[kind] += bytes
	}
	return nil
}

// describe fills in the Info. If the header does not name a quantisation, it is the
// type with the most bytes, the first by name if there are several.
func (s *tensorSum) describe(info *Info) {
	info.Tensors, info.Parameters, info.TensorBytes = s.count, int64(s.elements), tier.Bytes(s.bytes)
	if info.Quantisation != "" {
		return
	}
	var most uint64
	for kind, bytes := range s.byType {
		if bytes > most || bytes == most && kind < info.Quantisation {
			most, info.Quantisation = bytes, kind
		}
	}
}

// product multiplies, and reports whether the result is an int64.
func product(factors ...uint64) (n uint64, ok bool) {
	n = 1
	for _, f := range factors {
		over, low := bits.Mul64(n, f)
		if over > 0 || low > math.MaxInt64 {
			return 0, false
		}
		n = low
	}
	return n, true
}
