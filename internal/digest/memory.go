package digest

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// MaxFiles bounds how many files a Memory knows. Beyond it those are forgotten that were
// read longest ago.
const MaxFiles = 16384

// Memory knows the SHA-256 of files that were read, by what they were. The zero Memory
// knows none. It may be used by any number of goroutines at once.
type Memory struct {
	mu    sync.Mutex // guards the rest
	files map[string]known
	last  uint64 // Read of the newest

	text atomic.Pointer[[]byte] // of all, encoded
}

// known is one file. A path may hold any bytes, which a JSON string can not.
type known struct {
	Path []byte `json:"path"`
	Identity
	SHA256 string `json:"sha256"`
	Read   uint64 `json:"read"` // a number that grows
}

// Know takes note of what a file was, and its SHA-256.
func (m *Memory) Know(path string, id Identity, sum string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files == nil {
		m.files = make(map[string]known)
	}
	m.last++
	m.files[path] = known{[]byte(path), id, sum, m.last}
	if len(m.files) > MaxFiles {
		oldest := path
		for other, k := range m.files {
			if k.Read < m.files[oldest].Read {
				oldest = other
			}
		}
		delete(m.files, oldest)
	}
	m.encode()
}

// Forget forgets a file that is another by now, and reports whether nothing is known of
// what is there.
func (m *Memory) Forget(path string, now Identity) (unknown bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.files[path]
	if ok && k.Identity == now {
		return false
	}
	if ok {
		delete(m.files, path)
		m.encode()
	}
	return true
}

// Last returns the SHA-256 of the file at the path as it was last read; "": it was not.
func (m *Memory) Last(path string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.files[path].SHA256
}

// encode is called with the lock held. It takes 20 ms for MaxFiles.
func (m *Memory) encode() {
	all := slices.SortedFunc(maps.Values(m.files), func(a, b known) int { return int(a.Read) - int(b.Read) })
	text, _ := json.Marshal(all) // there is nothing in it that JSON has not
	m.text.Store(&text)
}

// Encoded returns what the Memory knows, for Restore; nil: nothing. It is not to be
// changed, and does not wait.
func (m *Memory) Encoded() []byte {
	if text := m.text.Load(); text != nil {
		return *text
	}
	return nil
}

// Restore takes up what Encoded returned, in an earlier life of the program.
// What is more than MaxFiles is left out.
func (m *Memory) Restore(text []byte) error {
	var all []known
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files = make(map[string]known)
	for _, k := range all[max(len(all)-MaxFiles, 0):] {
		m.files[string(k.Path)] = k
		m.last = max(m.last, k.Read)
	}
	m.encode()
	return nil
}
