package state

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

// numbered is a state that its number identifies.
func numbered(n uint64) State {
	return State{
		Models: []tier.Model{{Name: fmt.Sprint("m", n), Size: tier.Bytes(n + 1)}},
		Blobs:  map[string][]byte{"n": binary.BigEndian.AppendUint64(nil, n)},
	}
}

// number returns which numbered state it is; 0: the empty one.
func number(t interface{ Fatalf(string, ...any) }, st State) uint64 {
	if len(st.Models) == 0 && len(st.Blobs) == 0 {
		return 0
	}
	n := binary.BigEndian.Uint64(st.Blobs["n"])
	if diff := cmp.Diff(numbered(n), st); diff != "" {
		t.Fatalf("state %d came back otherwise (-want +got):\n%s", n, diff)
	}
	return n
}

var fixedTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func save(s *Store, n uint64) error { return s.Save(numbered(n)) }

func mustOpen(t *testing.T, dir string) (*Store, State) {
	t.Helper()
	s, st, warnings, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) > 0 {
		t.Fatalf("warnings %v", warnings)
	}
	t.Cleanup(func() { s.Close() })
	return s, st
}

func drawState(t *rapid.T) State {
	name := rapid.StringOfN(rapid.RuneFrom([]rune("abzé-_/ 1模")), 1, 20, 60)
	anyText := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
		rapid.Map(rapid.String(), func(s string) string { return packed + s }))
	model := rapid.Custom(func(t *rapid.T) tier.Model {
		return tier.Model{
			Name:         name.Draw(t, "name"),
			Path:         anyText.Draw(t, "path"),
			Parts:        rapid.SliceOfN(anyText, 0, 3).Draw(t, "parts"),
			Digests:      rapid.MapOfN(anyText, rapid.Map(anyText, func(s string) tier.Digest { return tier.Digest{SHA256: "00ff", Source: s} }), 0, 3).Draw(t, "digests"),
			Size:         tier.Bytes(rapid.Int64Range(1, 1<<62).Draw(t, "size")),
			Runtime:      tier.Bytes(rapid.Int64Range(0, 1<<60).Draw(t, "runtime")),
			Home:         tier.Tier(rapid.IntRange(0, 2).Draw(t, "home")),
			Capabilities: rapid.SliceOfN(name, 0, 3).Draw(t, "capabilities"),
			Quality:      rapid.Float64Range(0, 1e300).Draw(t, "quality"),
			Pinned:       rapid.Bool().Draw(t, "pinned"),
			KeepAlive:    time.Duration(rapid.Int64().Draw(t, "keep alive")),
			Version:      name.Draw(t, "version"),
			VersionOf:    name.Draw(t, "version of"),
			Labels:       rapid.MapOfN(anyText, anyText, 0, 3).Draw(t, "labels"),
		}
	})
	limit := rapid.Custom(func(t *rapid.T) tier.Bytes { return tier.Bytes(rapid.Int64().Draw(t, "limit")) })
	return State{
		Models:   rapid.SliceOfNDistinct(model, 0, 5, func(m tier.Model) string { return m.Name }).Draw(t, "models"),
		Versions: rapid.SliceOfN(model, 0, 2).Draw(t, "versions"),
		Limits:   tier.Limits{RAM: limit.Draw(t, "ram"), Swap: limit.Draw(t, "swap"), Reserved: limit.Draw(t, "reserved"), MaxModel: limit.Draw(t, "max")},
		Homes:    rapid.MapOfN(name, rapid.Map(rapid.IntRange(0, 2), func(i int) tier.Tier { return tier.Tier(i) }), 0, 3).Draw(t, "homes"),
		Removed:  rapid.SliceOfN(name, 0, 3).Draw(t, "removed"),
		Blobs:    rapid.MapOfN(name, rapid.SliceOf(rapid.Byte()), 0, 3).Draw(t, "blobs"),
	}
}

func TestOpen_AnyState_ComesBackInFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newFakeDisk(0)
		want := drawState(t)
		s, _, _, err := open("/state", d)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Save(want); err != nil {
			t.Fatal(err)
		}
		s.Close()
		_, got, warnings, err := open("/state", d)
		if err != nil || len(warnings) > 0 {
			t.Fatal(err, warnings)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

func TestOpen_FirstStart_EmptyStateAndPrivateFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s, st := mustOpen(t, dir)
	if diff := cmp.Diff(State{}, st); diff != "" {
		t.Errorf("first state (-want +got):\n%s", diff)
	}
	for n := range uint64(3) {
		if err := save(s, n+1); err != nil {
			t.Fatal(err)
		}
	}
	if runtime.GOOS == "windows" {
		t.Skip("no permission bits on windows")
	}
	filepath.WalkDir(filepath.Dir(dir), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		info, _ := e.Info()
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
}

func TestOpen_SaveAfterSave_LastIsReadBack(t *testing.T) {
	dir := t.TempDir()
	for n := uint64(1); n <= 6; n += 2 {
		s, st := mustOpen(t, dir)
		if got := number(t, st); got != n-1 {
			t.Fatalf("read %d, want %d", got, n-1)
		}
		for i := range uint64(2) {
			if err := save(s, n+i); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
	}
}

func TestSave_AfterClose_SaysClosed(t *testing.T) {
	s, _ := mustOpen(t, t.TempDir())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if err := save(s, 1); !errors.Is(err, tier.ErrClosed) {
		t.Errorf("Save after Close: %v", err)
	}
}

func TestClose_BetweenSaves_EverySaveIsKeptOrRefused(t *testing.T) {
	for range 50 {
		dir := t.TempDir()
		s, _, _, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			wg.Go(func() { errs[i] = save(s, 7) })
		}
		wg.Go(func() { s.Close() })
		wg.Wait()
		kept := false
		for _, err := range errs {
			if err != nil && !errors.Is(err, tier.ErrClosed) {
				t.Fatal(err)
			}
			kept = kept || err == nil
		}
		again, st, _, err := Open(dir)
		if err != nil {
			t.Fatalf("the lock was not given back: %v", err)
		}
		again.Close()
		if kept && number(t, st) != 7 {
			t.Fatal("an acknowledged save is not there")
		}
	}
}

func TestSave_ManyAtOnce_LastAcknowledgedIsRead(t *testing.T) {
	s, _ := mustOpen(t, t.TempDir())
	var wg sync.WaitGroup
	const savers = 50
	for n := range uint64(savers) {
		wg.Go(func() {
			if err := save(s, n+1); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := save(s, savers); err != nil {
		t.Error(err)
	}
	s.Close()
	if _, st := mustOpen(t, s.dir); number(t, st) != savers {
		t.Errorf("read %d, want %d", number(t, st), savers)
	}
}

// A caller retries a save that failed; what has failed before must not stand in its
// way, at whatever step that was.
func TestSave_FailedAtAnyStep_NextOneSucceeds(t *testing.T) {
	for _, step := range []string{"create", "write", "sync", "close", "rename", "syncdir"} {
		d := newFakeDisk(0)
		s, _, _, _ := open("/state", d)
		if err := save(s, 1); err != nil {
			t.Fatal(err)
		}
		d.fail = func(what, _ string) error {
			if what == step {
				return syscall.ENOSPC
			}
			return nil
		}
		for range 3 {
			if err := save(s, 2); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s fails: Save returned %v", step, err)
			}
		}
		d.fail = nil
		if err := save(s, 3); err != nil {
			t.Errorf("%s works again: %v", step, err)
		}
		if _, st, _, _ := open("/state", d); number(t, st) != 3 {
			t.Errorf("%s: read %d, want 3", step, number(t, st))
		}
	}
}

func TestOpen_FolderCannotBeWritten_IsAnError(t *testing.T) {
	for _, step := range []string{"create", "close", "remove"} {
		d := newFakeDisk(0)
		s, _, _, _ := open("/state", d)
		save(s, 1)
		d.fail = func(what, _ string) error {
			if what == step {
				return syscall.EROFS
			}
			return nil
		}
		if _, _, _, err := open("/state", d); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "/state") {
			t.Errorf("%s fails: %v, want EROFS and the folder", step, err)
		}
	}
}

func TestOpen_NoFolderCanBeThere_IsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", file} {
		if _, _, _, err := Open(dir); !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("Open(%q): %v, want ErrInvalid", dir, err)
		}
	}
	if s, _, _, err := Open(filepath.Join(file, "state")); err == nil {
		s.Close()
		t.Error("a folder below a file was opened")
	}
}

func TestOpen_FolderInUse_ErrorNamesTheOwner(t *testing.T) {
	dir := t.TempDir()
	s, _ := mustOpen(t, dir)
	_, _, _, err := Open(dir)
	locked, ok := errors.AsType[*LockedError](err)
	if !ok || !errors.Is(err, tier.ErrInUse) {
		t.Fatalf("error %v, want a LockedError", err)
	}
	if want := fmt.Sprintf("process %d ", os.Getpid()); !strings.Contains(locked.Owner, want) {
		t.Errorf("owner %q does not name %q", locked.Owner, want)
	}
	if len(tier.Suggestions(err)) == 0 || !strings.Contains(err.Error(), locked.Owner) || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %q, suggestions %q", err, tier.Suggestions(err))
	}
	s.Close()
	mustOpen(t, dir)
}

// TestDecode_FileOfVersion1_IsStillRead guards the format itself: a file that
// an earlier build wrote must be read by every later one.
func TestDecode_FileOfVersion1_IsStillRead(t *testing.T) {
	data, err := os.ReadFile("testdata/state-v1")
	if err != nil {
		t.Fatal(err)
	}
	rec, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	want := State{
		Models: []tier.Model{{
			Name: "llama-7b", Path: "/models/\xff.gguf", Size: 7 * tier.GiB, Runtime: tier.GiB, Home: tier.Swap,
			Capabilities: []string{"text-generation"}, Quality: 1.5, Pinned: true, Labels: map[string]string{"quantisation": "Q4_K_M"},
		}},
		Limits:  tier.DefaultLimits(),
		Homes:   map[string]tier.Tier{"bert-large": tier.RAM},
		Removed: []string{"gpt2-small"},
		Blobs:   map[string][]byte{"usage": {0, 1, 2}},
	}
	if diff := cmp.Diff(want, rec.State); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if rec.Generation != 42 {
		t.Errorf("generation %d, want 42", rec.Generation)
	}
	again, err := encode(want, rec.Generation, rec.Saved)
	if err != nil {
		t.Fatal(err)
	}
	var written, said any // the order of keys is free
	if err := errors.Join(json.Unmarshal(again[headerLength:], &written), json.Unmarshal(data[headerLength:], &said)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(said, written); diff != "" {
		t.Errorf("the same state is written otherwise now; is that on purpose, and version raised? (-before +now)\n%s", diff)
	}
}

// A folder of an earlier build has these names in it.
func TestOpen_FolderOfVersion1_IsStillRead(t *testing.T) {
	for _, slot := range []string{"state-a", "state-b"} {
		dir := t.TempDir()
		data, err := os.ReadFile("testdata/state-v1")
		if err == nil {
			err = errors.Join(os.WriteFile(filepath.Join(dir, slot), data, 0o600), os.WriteFile(filepath.Join(dir, "lock"), []byte("process 7"), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		s, st := mustOpen(t, dir)
		if len(st.Models) != 1 || st.Models[0].Name != "llama-7b" || st.Removed[0] != "gpt2-small" {
			t.Errorf("%s: read %+v", slot, st)
		}
		if err := save(s, 1); err != nil {
			t.Error(err)
		}
		s.Close()
		if kept, err := os.ReadFile(filepath.Join(dir, slot)); err != nil || !bytes.Equal(kept, data) {
			t.Errorf("%s: the generation before was not kept: %v", slot, err)
		}
	}
}

func withBody(t testing.TB, body string) []byte {
	t.Helper()
	return append([]byte(header([]byte(body))), body...)
}

func FuzzDecode(f *testing.F) {
	good, err := encode(numbered(2), 2, fixedTime)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, true)
	f.Add(good[headerLength:], false)
	f.Add([]byte(`{"generation":1,"models":[{"name":"a","size":1,"home":"ram","path":"\u0000base64:/w=="}],"homes":{"b":"swap"},"blobs":{"x":"AA=="}}`), false)
	f.Fuzz(func(t *testing.T, data []byte, whole bool) {
		if !whole { // past the checksum, which fuzzing does not guess
			data = withBody(t, string(data))
		}
		rec, err := decode(data)
		if err != nil {
			return
		}
		again, err := encode(rec.State, rec.Generation, rec.Saved)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		rec2, err := decode(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(rec.State, rec2.State, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}

func bigState(models int) State {
	var st State
	for i := range models {
		st.Models = append(st.Models, tier.Model{
			Name: fmt.Sprintf("model-%05d", i), Path: fmt.Sprintf("/srv/models/some/folder/model-%05d-Q4_K_M.gguf", i),
			Size: tier.Bytes(i+1) << 20, Runtime: 512 << 20, Home: tier.Tier(i % 3), Quality: float64(i) / 7,
			Capabilities: []string{"text-generation", "chat"}, Labels: map[string]string{"quantisation": "Q4_K_M", "architecture": "llama"},
		})
	}
	return st
}

// BenchmarkStore_Save measures a save without and with the flushes of a real disk.
func BenchmarkStore_Save(b *testing.B) {
	for _, models := range []int{6, 200, 10_000} {
		st := bigState(models)
		for _, name := range []string{"NoFlush", "Flushed"} {
			b.Run(fmt.Sprintf("%s/models=%d", name, models), func(b *testing.B) {
				s, _, _, err := Open(b.TempDir())
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				if name == "NoFlush" {
					s.disk = noFlush{s.disk}
				}
				b.ReportAllocs()
				for b.Loop() {
					if err := s.Save(st); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// noFlush is the real disk without its flushes.
type noFlush struct{ disk }

func (noFlush) Sync() error { return nil }

func (d noFlush) Create(name string) (file, error) {
	f, err := d.disk.Create(name)
	return noSync{f}, err
}

type noSync struct{ file }

func (noSync) Sync() error { return nil }
