package digest

import (
	"cmp"
	"encoding/json"
	"slices"
	"sync"
)

// MaxFiles bounds how many files a Memory knows. Beyond it those are forgotten that were
// read longest ago.
const MaxFiles = 16384

// Memory knows the SHA-256 of files that were read, by what they were. The zero Memory
// knows none. It may be used by any number of goroutines at once: all but Encoded and
// Restore take microseconds, and do not wait for those.
type Memory struct {
	mu      sync.RWMutex // guards the rest; under it is only the map
	files   map[string]known
	last    uint64 // Read of the newest
	changes uint64 // how often it came to know and to forget
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
	m.changes++
	m.last++
	m.files[path] = known{[]byte(path), id, sum, m.last}
	if len(m.files) > MaxFiles {
		oldest, read := path, m.last
		for other, k := range m.files {
			if k.Read < read {
				oldest, read = other, k.Read
			}
		}
		delete(m.files, oldest)
	}
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
		m.changes++
	}
	return true
}

// Last returns the SHA-256 of the file at the path as it was last read; "": it was not.
func (m *Memory) Last(path string) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.files[path].SHA256
}

// Changes returns a number that grows when what Encoded returns becomes another.
func (m *Memory) Changes() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.changes
}

// Encoded returns what the Memory knows, for Restore; nil: nothing. It takes 20 ms for
// MaxFiles.
func (m *Memory) Encoded() []byte {
	m.mu.RLock()
	all := make([]known, 0, len(m.files))
	for _, k := range m.files {
		all = append(all, k)
	}
	m.mu.RUnlock()
	if len(all) == 0 {
		return nil
	}
	slices.SortFunc(all, func(a, b known) int { return cmp.Compare(a.Read, b.Read) })
	text, _ := json.Marshal(all) // there is nothing in it that JSON has not
	return text
}

// Restore takes up what Encoded returned, in an earlier life of the program.
// What is more than MaxFiles is left out.
func (m *Memory) Restore(text []byte) error {
	var all []known
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	files, last := make(map[string]known), uint64(0)
	for _, k := range all[max(len(all)-MaxFiles, 0):] {
		files[string(k.Path)] = k
		last = max(last, k.Read)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files, m.last = files, max(m.last, last)
	return nil
}
