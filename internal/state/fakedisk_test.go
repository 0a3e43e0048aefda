package state

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
)

// fakeDisk is a disk in memory that behaves as badly as a real one may: what was
// not flushed is lost, torn or kept at a crash, name by name, as its dice fall.
type fakeDisk struct {
	mu      sync.Mutex
	dice    *rand.Rand
	live    map[string]*inode // names as the process sees them
	durable map[string]*inode // names as a crash would leave them at least
	pending []nameChange      // between the two, in order

	steps   int
	crashAt int                           // step at which the power fails; 0: never
	fail    func(step, path string) error // faults that the process sees
	trace   []string
}

type inode struct {
	data   []byte
	synced []byte
}

// nameChange is a name that was given to a file or taken from it.
type nameChange struct {
	drop, set string
	node      *inode
}

// powerCut is what the process ends with.
type powerCut struct{}

func newFakeDisk(seed uint64) *fakeDisk {
	return &fakeDisk{
		dice: rand.New(rand.NewPCG(seed, 1)),
		live: make(map[string]*inode), durable: make(map[string]*inode),
	}
}

// step counts, cuts the power or fails.
func (d *fakeDisk) step(what, path string) error {
	d.steps++
	d.trace = append(d.trace, what+" "+path)
	if d.steps == d.crashAt {
		panic(powerCut{})
	}
	if d.fail != nil {
		return d.fail(what, path)
	}
	return nil
}

// reboot is what the disk holds when the power is back.
func (d *fakeDisk) reboot() {
	names := make(map[string]*inode)
	for name, node := range d.durable {
		names[name] = node
	}
	for _, c := range d.pending {
		if d.dice.IntN(2) == 0 {
			continue
		}
		c.apply(names)
	}
	after := make(map[string]*inode)
	fates := make(map[*inode]*inode)
	for name, node := range names {
		if fates[node] == nil {
			content := d.remains(node)
			fates[node] = &inode{data: content, synced: content}
		}
		after[name] = fates[node]
	}
	d.live, d.durable = after, make(map[string]*inode)
	for name, node := range after {
		d.durable[name] = node
	}
	d.pending, d.crashAt, d.fail = nil, 0, nil
}

// remains is what is left of a file that may not have been flushed.
func (d *fakeDisk) remains(n *inode) []byte {
	if bytes.Equal(n.data, n.synced) {
		return n.data
	}
	switch d.dice.IntN(4) {
	case 0:
		return n.synced
	case 1:
		return n.data
	case 2: // the length came through, and not all of the content
		torn := bytes.Clone(n.data)
		clear(torn[d.dice.IntN(len(torn)+1):])
		return torn
	}
	return n.data[:d.dice.IntN(len(n.data)+1)]
}

func (c nameChange) apply(names map[string]*inode) {
	if c.drop != "" {
		delete(names, c.drop)
	}
	if c.set != "" {
		names[c.set] = c.node
	}
}

func (d *fakeDisk) change(c nameChange) {
	c.apply(d.live)
	d.pending = append(d.pending, c)
}

func (d *fakeDisk) Read(path string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("read", path); err != nil {
		return nil, err
	}
	n, ok := d.live[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return bytes.Clone(n.data), nil
}

func (d *fakeDisk) Create(path string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("create", path); err != nil {
		return nil, err
	}
	if _, ok := d.live[path]; ok {
		return nil, &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	n := &inode{}
	d.change(nameChange{set: path, node: n})
	return &fakeFile{d, n, path}, nil
}

func (d *fakeDisk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("rename", to); err != nil {
		return err
	}
	n, ok := d.live[from]
	if !ok {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	d.change(nameChange{drop: from, set: to, node: n})
	return nil
}

func (d *fakeDisk) Remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("remove", path); err != nil {
		return err
	}
	if _, ok := d.live[path]; !ok {
		return &fs.PathError{Op: "remove", Path: path, Err: fs.ErrNotExist}
	}
	d.change(nameChange{drop: path})
	return nil
}

func (d *fakeDisk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("syncdir", ""); err != nil {
		return err
	}
	for _, c := range d.pending {
		c.apply(d.durable)
	}
	d.pending = nil
	return nil
}

func (d *fakeDisk) Close() error { return nil }

// named returns the files whose name holds part.
func (d *fakeDisk) named(part string) []string {
	var out []string
	for name := range d.live {
		if strings.Contains(name, part) {
			out = append(out, name)
		}
	}
	return out
}

type fakeFile struct {
	d    *fakeDisk
	node *inode
	path string
}

func (f *fakeFile) Write(p []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	half := len(p) / 2
	f.node.data = append(f.node.data, p[:half]...)
	if err := f.d.step("write", f.path); err != nil {
		return half, err
	}
	f.node.data = append(f.node.data, p[half:]...)
	return len(p), nil
}

func (f *fakeFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.step("sync", f.path); err != nil {
		return err
	}
	f.node.synced = bytes.Clone(f.node.data)
	return nil
}

func (f *fakeFile) Close() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return f.d.step("close", f.path)
}
