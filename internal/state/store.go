package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/modeltier/modeltier/internal/regular"
	"github.com/modeltier/modeltier/tier"
)

// Store keeps a State in a folder.
//
// The folder holds two state files. A save writes a temporary file, flushes it,
// renames it over the older of the two, and flushes the folder; the newer one stays
// as it is until the save has succeeded. Open reads the newest valid one.
type Store struct {
	dir string // for messages

	mu         sync.Mutex // held during a save
	disk       disk
	closed     bool
	generation uint64 // of the last attempt to save
	newest     int    // slot that holds the State acknowledged last
}

// slots are the names of the two state files.
var slots = [2]string{"state-a", "state-b"}

const tempName = "state-new"

// LockedError reports a state folder that another process, or another Store of this
// one, has open.
type LockedError struct {
	Dir   string
	Owner string // as it described itself
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("state folder %q is held by %s", e.Dir, e.Owner)
}

// Unwrap returns tier.ErrInUse.
func (e *LockedError) Unwrap() error { return tier.ErrInUse }

// Suggestions implements tier.Suggester.
func (e *LockedError) Suggestions() []string {
	return []string{"Stop that process, or give this one a state folder of its own."}
}

// Open takes the folder for this process, creates it if it is missing, and returns
// the State that was acknowledged last: the zero State if there is none.
//
// A state file that is torn, damaged, foreign or of a newer version is renamed, and
// the one before it is read instead; a warning says so. The error is a *LockedError
// if the folder is in use, or says why it cannot be written, or that a state file
// cannot be read now: to use the other one could undo what was acknowledged, so
// nothing is renamed then.
func Open(dir string) (s *Store, st State, warnings []error, err error) {
	abs, err := filepath.Abs(dir)
	info, missing := os.Stat(abs)
	if dir == "" || err != nil || missing == nil && !info.IsDir() {
		return nil, State{}, nil, &tier.InvalidError{Field: "state folder", Value: dir, Rule: "must be a folder"}
	}
	d, err := openFolder(abs)
	if err != nil {
		return nil, State{}, nil, err
	}
	return open(abs, d)
}

// open takes over d and closes it if it fails.
func open(dir string, d disk) (*Store, State, []error, error) {
	s := &Store{dir: dir, disk: d}
	st, warnings, err := s.load()
	if err == nil {
		err = s.tryToWrite()
	}
	if err != nil {
		d.Close()
		return nil, State{}, nil, err
	}
	return s, st, warnings, nil
}

// tryToWrite returns an error if the folder takes no files. The one that it tries
// is empty, because a disk that is full now may have room for a later Save.
func (s *Store) tryToWrite() error {
	s.disk.Remove(tempName)
	f, err := s.disk.Create(tempName)
	if err == nil {
		err = errors.Join(f.Close(), s.disk.Remove(tempName))
	}
	if err != nil {
		return fmt.Errorf("state folder %q cannot be written: %w", s.dir, err)
	}
	return nil
}

// damagedError says what is wrong with a state file, in words that follow its name.
type damagedError struct{ error }

// load reads both slots, remembers the newest valid one, and sets aside the invalid
// ones. If a slot cannot be read it is unknown which is newer: load then changes
// nothing and fails.
func (s *Store) load() (State, []error, error) {
	var (
		newest record
		damage [len(slots)]error
		used   = "an empty state"
	)
	for i, name := range slots {
		var rec record
		data, err := s.disk.Read(name)
		if err == nil {
			rec, err = decode(data)
		}
		switch _, damaged := errors.AsType[damagedError](err); {
		case errors.Is(err, fs.ErrNotExist):
		case damaged:
			damage[i] = err
		case err != nil:
			return State{}, nil, fmt.Errorf("%q cannot be read, and may hold what was saved last; try again when it can be read, or move it away to start without it: %w", filepath.Join(s.dir, name), err)
		case rec.Generation > newest.Generation:
			newest, s.newest = rec, i
			used = "the state saved at " + rec.Saved.Format(time.RFC3339)
		}
	}
	s.generation = newest.Generation
	var warnings []error
	for i, invalid := range damage {
		if invalid == nil {
			continue
		}
		path, kept := filepath.Join(s.dir, slots[i]), fmt.Sprintf("%s.damaged-%d", slots[i], time.Now().UnixNano())
		err := s.disk.Rename(slots[i], kept)
		if err == nil {
			err = s.disk.Sync() // a crash could keep the next save's rename and lose this one
		}
		if err != nil {
			return State{}, nil, fmt.Errorf("%q %w, and it cannot be renamed: %w", path, invalid, err)
		}
		warnings = append(warnings, fmt.Errorf("%q %w; it is kept as %q; %s is used", path, invalid, filepath.Join(s.dir, kept), used))
	}
	return newest.State, warnings, nil
}

// Save makes st durable, and acknowledges it by returning nil. Saves run one after
// the other.
//
// An error may wrap that of the operating system. It costs nothing that was
// acknowledged before, and Save can be called again. After Close the error is
// tier.ErrClosed.
func (s *Store) Save(st State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return tier.ErrClosed
	}
	s.generation++
	data, err := encode(st, s.generation, time.Now())
	if err != nil {
		return err
	}
	older := 1 - s.newest
	if err := s.write(slots[older], data); err != nil {
		s.disk.Remove(tempName) // it takes the room that the next attempt needs
		return fmt.Errorf("save state in %q: %w", s.dir, err)
	}
	s.newest = older
	return nil
}

// write replaces a file, durably and at once.
func (s *Store) write(name string, data []byte) error {
	s.disk.Remove(tempName) // of a save that was cut off
	f, err := s.disk.Create(tempName)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := s.disk.Rename(tempName, name); err != nil {
		return err
	}
	return s.disk.Sync()
}

// Close waits for a running Save and releases the folder. It is idempotent.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.disk.Close()
}

// State is what a Store keeps.
type State struct {
	// Models are kept with every field.
	Models []tier.Model `json:"-"` // a record has them
	// Versions are of models: older ones (VersionOf), and what those of the configuration
	// are that are not what it says. They are kept as Models are.
	Versions []tier.Model `json:"-"`
	// Limits in force.
	Limits tier.Limits `json:"limits"`
	// Homes are home tiers of models that are not in Models because the
	// configuration declares them.
	Homes map[string]tier.Tier `json:"homes,omitempty"`
	// Pins say which of the same models are pinned and which are not.
	Pins map[string]bool `json:"pins,omitempty"`
	// Aliases in force, and the models that they are of.
	Aliases map[string]string `json:"aliases,omitempty"`
	// Removed are names of configured models that must not come back.
	Removed []string `json:"removed,omitempty"`
	// Blobs are data of other parts, by name.
	Blobs map[string][]byte `json:"blobs,omitempty"`
}

// maxFileBytes bounds what is read and written: a quarter of a million models of
// one KiB each.
const maxFileBytes = 256 << 20

// A state file is one header line and a JSON object, a record. The header holds the
// SHA-256 of the object, which tells a torn, damaged or foreign file from a good one.
const (
	magic        = "modeltier-state"
	version      = 1
	headerLength = len(magic+" 1 ") + 2*sha256.Size + 1
)

type record struct {
	Generation uint64    `json:"generation"` // counts attempts to save, from 1
	Saved      time.Time `json:"saved"`
	State
	Models   []modelRecord `json:"models"`
	Versions []modelRecord `json:"versions,omitempty"`
}

// modelRecord is separate from tier.Model, so that either can change without the
// other.
type modelRecord struct {
	Name         string                 `json:"name"`
	Aliases      []string               `json:"aliases,omitempty"`
	Path         string                 `json:"path,omitempty"`
	Parts        []string               `json:"parts,omitempty"`
	Digests      map[string]tier.Digest `json:"digests,omitempty"`
	Size         tier.Bytes             `json:"size"`
	Runtime      tier.Bytes             `json:"runtime,omitempty"`
	Home         tier.Tier              `json:"home"`
	Capabilities []string               `json:"capabilities,omitempty"`
	Quality      float64                `json:"quality,omitempty"`
	Pinned       bool                   `json:"pinned,omitempty"`
	KeepAlive    time.Duration          `json:"keep_alive_ns,omitempty"`
	Version      string                 `json:"version,omitempty"`
	VersionOf    string                 `json:"version_of,omitempty"`
	Mover        string                 `json:"mover,omitempty"`
	Labels       map[string]string      `json:"labels,omitempty"`
}

// encode returns the content of a state file.
func encode(st State, generation uint64, now time.Time) ([]byte, error) {
	rec := record{Generation: generation, Saved: now.UTC(), State: st, Models: records(st.Models), Versions: records(st.Versions)}
	buf := bytes.NewBuffer(make([]byte, headerLength))
	if err := json.NewEncoder(buf).Encode(&rec); err != nil {
		return nil, err
	}
	if buf.Len() > maxFileBytes {
		return nil, &tier.InvalidError{Field: "state", Value: tier.Bytes(buf.Len()).String(), Rule: "must be " + tier.Bytes(maxFileBytes).String() + " at most"}
	}
	data := buf.Bytes()
	copy(data, header(data[headerLength:]))
	return data, nil
}

func header(body []byte) string {
	return fmt.Sprintf("%s %d %x\n", magic, version, sha256.Sum256(body))
}

// decode is the inverse of encode. Its errors are damagedErrors.
func decode(data []byte) (rec record, err error) {
	line, body, found := bytes.Cut(data, []byte("\n"))
	var v int
	n, _ := fmt.Sscanf(string(line[:min(len(line), headerLength)]), magic+" %d ", &v)
	switch {
	case !found || n == 0:
		return rec, damagedError{errors.New("is not a state file of modeltier")}
	case v > version:
		return rec, damagedError{fmt.Errorf("was written by a newer modeltier (format version %d, this one reads %d)", v, version)}
	case string(line)+"\n" != header(body):
		return rec, damagedError{errors.New("is torn or was changed: its checksum does not match")}
	}
	err = json.Unmarshal(body, &rec)
	rec.State.Models, rec.State.Versions = models(rec.Models), models(rec.Versions)
	if err == nil && rec.Generation == 0 {
		err = errors.New("it has no generation")
	}
	if err != nil {
		return rec, damagedError{fmt.Errorf("has a valid checksum and invalid content: %w", err)}
	}
	return rec, nil
}

// records returns models as they are written.
func records(models []tier.Model) []modelRecord {
	out := make([]modelRecord, len(models))
	for i, m := range models {
		m.Path, m.Parts, m.Labels = pack(m.Path), eachString(m.Parts, pack), mapStrings(m.Labels, pack)
		m.Digests = mapDigests(m.Digests, pack)
		out[i] = modelRecord(m)
	}
	return out
}

// models is the inverse of records.
func models(records []modelRecord) []tier.Model {
	if records == nil {
		return nil
	}
	out := make([]tier.Model, len(records))
	for i, m := range records {
		m.Path, m.Parts, m.Labels = unpack(m.Path), eachString(m.Parts, unpack), mapStrings(m.Labels, unpack)
		m.Digests = mapDigests(m.Digests, unpack)
		out[i] = tier.Model(m)
	}
	return out
}

// packed marks a string that JSON cannot represent: a path or a label may hold any
// bytes.
const packed = "\x00base64:"

func pack(s string) string {
	if utf8.ValidString(s) && !strings.HasPrefix(s, packed) {
		return s
	}
	return packed + base64.StdEncoding.EncodeToString([]byte(s))
}

func unpack(s string) string {
	if code, ok := strings.CutPrefix(s, packed); ok {
		if raw, err := base64.StdEncoding.DecodeString(code); err == nil {
			return string(raw)
		}
	}
	return s
}

// eachString applies f to every string.
func eachString(list []string, f func(string) string) []string {
	list = slices.Clone(list)
	for i := range list {
		list[i] = f(list[i])
	}
	return list
}

// mapStrings applies f to every key and value.
func mapStrings(m map[string]string, f func(string) string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[f(k)] = f(v)
	}
	return out
}

// mapDigests applies f to every path.
func mapDigests(m map[string]tier.Digest, f func(string) string) map[string]tier.Digest {
	if m == nil {
		return nil
	}
	out := make(map[string]tier.Digest, len(m))
	for path, d := range m {
		d.Source = f(d.Source)
		out[f(path)] = d
	}
	return out
}

// disk is the folder as a Store uses it: an interface, so that tests can cut the
// power at every step. Names are relative to the folder.
type disk interface {
	Read(name string) ([]byte, error) // a damagedError if it can be no state file
	Create(name string) (file, error) // fails if it exists
	Rename(from, to string) error
	Remove(name string) error
	Sync() error  // makes creations, renames and removals durable
	Close() error // releases the folder
}

type file interface {
	io.WriteCloser
	Sync() error
}

// State files are private: a blob may hold what users asked for.
const (
	dirMode  = 0o700
	fileMode = 0o600
)

// folder is a disk of the operating system, locked for this process. It refers to
// the folder itself and not to its path: if a link on the path is switched or the
// folder is renamed, saves still go where the lock is.
type folder struct {
	*os.Root
	self     *os.File // the folder, opened
	lockFile *os.File
}

// lockName is a file that is locked and describes the owner. It is never removed:
// two processes could then lock two different files of that name.
const lockName = "lock"

// errLocked is what lock returns if another has the lock.
var errLocked = errors.New("locked")

func openFolder(dir string) (*folder, error) {
	if err := makeFolder(dir); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	f := &folder{Root: root}
	if f.self, err = root.Open("."); err == nil {
		err = f.lock()
	}
	if errors.Is(err, errLocked) {
		err = &LockedError{Dir: dir, Owner: f.owner()}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	if f.lockFile.Truncate(0) == nil { // what it says is for people
		owner := fmt.Sprintf("process %d (%s) since %s\n", os.Getpid(), filepath.Base(os.Args[0]), time.Now().UTC().Format(time.RFC3339))
		f.lockFile.WriteAt([]byte(owner), 0)
	}
	return f, nil
}

// owner is the process that has the lock, as it described itself.
func (f *folder) owner() string {
	line, _ := f.Read(lockName)
	if owner := strings.TrimSpace(string(line[:min(len(line), 256)])); tier.CheckName("owner", owner) == nil {
		return owner
	}
	return "another process"
}

// makeFolder creates the folder and its missing parents, durably: a folder that is
// lost in a crash loses what is in it.
func makeFolder(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeFolder(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.Open(parent)
	if err != nil {
		return err
	}
	defer f.Close()
	return syncFolder(f)
}

func (f *folder) Read(name string) ([]byte, error) {
	file, info, err := regular.OpenIn(f.Root, name)
	if special, ok := errors.AsType[*regular.Error](err); ok {
		return nil, damagedError{fmt.Errorf("is %s, not a file", special.Kind)}
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info.Size() > maxFileBytes {
		return nil, damagedError{fmt.Errorf("has %v, more than any state file", tier.Bytes(info.Size()))}
	}
	return io.ReadAll(io.LimitReader(file, maxFileBytes))
}

func (f *folder) Create(name string) (file, error) {
	return f.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
}

func (f *folder) Sync() error { return syncFolder(f.self) }

func (f *folder) Close() error {
	return errors.Join(f.lockFile.Close(), f.self.Close(), f.Root.Close())
}
