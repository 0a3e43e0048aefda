package hotload

import (
	"encoding/binary"
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
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

// numbered is a state that can be told from others by its number.
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

func save(s *Store, n uint64) error { return s.Save(func() State { return numbered(n) }) }

func mustOpen(t *testing.T, dir string) (*Store, State) {
	t.Helper()
	s, st, warnings, err := OpenStore(dir)
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
			Size:         tier.Bytes(rapid.Int64Range(1, 1<<62).Draw(t, "size")),
			Runtime:      tier.Bytes(rapid.Int64Range(0, 1<<60).Draw(t, "runtime")),
			Home:         tier.Tier(rapid.IntRange(0, 2).Draw(t, "home")),
			Capabilities: rapid.SliceOfN(name, 0, 3).Draw(t, "capabilities"),
			Quality:      rapid.Float64Range(0, 1e300).Draw(t, "quality"),
			Pinned:       rapid.Bool().Draw(t, "pinned"),
			Labels:       rapid.MapOfN(anyText, anyText, 0, 3).Draw(t, "labels"),
		}
	})
	limit := rapid.Custom(func(t *rapid.T) tier.Bytes { return tier.Bytes(rapid.Int64().Draw(t, "limit")) })
	return State{
		Models:  rapid.SliceOfNDistinct(model, 0, 5, func(m tier.Model) string { return m.Name }).Draw(t, "models"),
		Limits:  tier.Limits{RAM: limit.Draw(t, "ram"), Swap: limit.Draw(t, "swap"), Reserved: limit.Draw(t, "reserved"), MaxModel: limit.Draw(t, "max")},
		Homes:   rapid.MapOfN(name, rapid.Map(rapid.IntRange(0, 2), func(i int) tier.Tier { return tier.Tier(i) }), 0, 3).Draw(t, "homes"),
		Removed: rapid.SliceOfN(name, 0, 3).Draw(t, "removed"),
		Blobs:   rapid.MapOfN(name, rapid.SliceOf(rapid.Byte()), 0, 3).Draw(t, "blobs"),
	}
}

func TestStore_AnyState_ComesBackInFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newFakeDisk(0)
		want := drawState(t)
		s, _, _, err := openStore("/state", d)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Save(func() State { return want }); err != nil {
			t.Fatal(err)
		}
		s.Close()
		_, got, warnings, err := openStore("/state", d)
		if err != nil || len(warnings) > 0 {
			t.Fatal(err, warnings)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

func TestStore_FirstStart_EmptyStateAndPrivateFiles(t *testing.T) {
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

func TestStore_SaveAfterSave_LastIsReadBack(t *testing.T) {
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

func TestStore_SecondOpen_ErrorNamesTheHolder(t *testing.T) {
	dir := t.TempDir()
	s, _ := mustOpen(t, dir)
	_, _, _, err := OpenStore(dir)
	held, ok := errors.AsType[*HeldError](err)
	if !ok || !errors.Is(err, tier.ErrInUse) {
		t.Fatalf("error %v, want a HeldError", err)
	}
	if want := fmt.Sprintf("process %d ", os.Getpid()); !strings.Contains(held.Holder, want) {
		t.Errorf("holder %q does not name %q", held.Holder, want)
	}
	if len(tier.Suggestions(err)) == 0 || !strings.Contains(err.Error(), held.Holder) || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %q, suggestions %q", err, tier.Suggestions(err))
	}
	s.Close()
	if s, _, _, err := OpenStore(dir); err != nil {
		t.Errorf("open after close: %v", err)
	} else {
		s.Close()
	}
}

func TestStore_PathOfAFile_IsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", file} {
		if _, _, _, err := OpenStore(dir); !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("OpenStore(%q): %v, want ErrInvalid", dir, err)
		}
	}
}

func TestStore_InvalidState_RefusedAndLastGoodOneKept(t *testing.T) {
	d := newFakeDisk(0)
	s, _, _, _ := openStore("/state", d)
	if err := save(s, 1); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []State{
		{Models: []tier.Model{{Name: "", Size: 1}}},
		{Models: []tier.Model{{Name: "a", Size: 1}, {Name: "a", Size: 1}}},
		{Homes: map[string]tier.Tier{"a": 7}},
		{Homes: map[string]tier.Tier{"": 0}},
		{Removed: []string{"\x00"}},
		{Blobs: map[string][]byte{"\xff": nil}},
	} {
		if err := s.Save(func() State { return bad }); err == nil {
			t.Errorf("%+v was saved", bad)
		}
	}
	s.Close()
	if _, st, _, _ := openStore("/state", d); number(t, st) != 1 {
		t.Error("the last good state is gone")
	}
}

func TestStore_AfterClose_SaveSaysClosed(t *testing.T) {
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

func TestStore_FolderCannotBeWritten_ReadsWarnsAndTriesAgain(t *testing.T) {
	d := newFakeDisk(0)
	s, _, _, _ := openStore("/state", d)
	save(s, 1)
	s.Close()
	readOnly := func(step, _ string) error {
		switch step {
		case "stat", "open", "read":
			return nil
		}
		return syscall.EROFS
	}
	d.fail = readOnly
	s, st, warnings, err := openStore("/state", d)
	if err != nil || number(t, st) != 1 {
		t.Fatalf("error %v, state %d; want what is there", err, number(t, st))
	}
	if len(warnings) != 1 || !errors.Is(warnings[0].Err, syscall.EROFS) {
		t.Errorf("warnings %v", warnings)
	}
	if err := save(s, 2); !errors.Is(err, syscall.EROFS) {
		t.Errorf("save: %v, want EROFS", err)
	}
	d.fail = nil
	if err := save(s, 3); err != nil {
		t.Fatalf("save when the folder can be written: %v", err)
	}
	s.Close()
	if _, st, _, _ := openStore("/state", d); number(t, st) != 3 {
		t.Errorf("read %d, want 3", number(t, st))
	}
}

func TestStore_FolderWrittenByAnotherMeanwhile_SaveDoesNotUndoIt(t *testing.T) {
	d := newFakeDisk(0)
	d.fail = func(step, _ string) error {
		if step == "stat" || step == "open" || step == "read" {
			return nil
		}
		return syscall.EROFS
	}
	late, _, _, err := openStore("/state", d) // the mount was not there yet
	if err != nil {
		t.Fatal(err)
	}
	d.fail = nil
	other, _, _, _ := openStore("/state", d)
	save(other, 1)
	if err := save(late, 2); !errors.Is(err, tier.ErrInUse) {
		t.Errorf("save while another holds the folder: %v, want ErrInUse", err)
	}
	other.Close()
	for range 2 {
		if err := save(late, 3); err == nil {
			t.Fatal("a save undid what another process has acknowledged")
		}
	}
	if _, st, _, err := openStore("/state", d); err != nil || number(t, st) != 1 {
		t.Errorf("error %v, read %d, want 1", err, number(t, st))
	}
}

// TestStore_ManySaversAtOnce_ShareWritesAndEachIsKept counts how often the disk is
// flushed for savers that come together.
func TestStore_ManySaversAtOnce_ShareWritesAndEachIsKept(t *testing.T) {
	d := newFakeDisk(0)
	s, _, _, _ := openStore("/state", d)
	var (
		mu  sync.Mutex
		now uint64
	)
	snapshot := func() State {
		mu.Lock()
		defer mu.Unlock()
		return numbered(now)
	}
	// The first writer waits in its flush until all others have come.
	const savers = 50
	gate, flushing := make(chan struct{}), make(chan struct{}, savers)
	d.fail = func(step, _ string) error {
		if step == "sync" {
			flushing <- struct{}{}
			d.mu.Unlock()
			<-gate
			d.mu.Lock()
		}
		return nil
	}
	var wg sync.WaitGroup
	add := func() {
		mu.Lock()
		now++
		mu.Unlock()
		if err := s.Save(snapshot); err != nil {
			t.Error(err)
		}
	}
	wg.Go(add)
	<-flushing
	for range savers {
		wg.Go(add)
	}
	for { // until the others are in the next commit
		mu.Lock()
		n := now
		mu.Unlock()
		if n == savers+1 {
			break
		}
		runtime.Gosched()
	}
	close(gate)
	wg.Wait()
	if flushes := 1 + len(flushing); flushes > 1+savers/2 {
		t.Errorf("%d savers cost %d flushes", savers+1, flushes)
	}
	s.Close()
	if _, st, _, _ := openStore("/state", d); number(t, st) != savers+1 {
		t.Errorf("read %d, want %d", number(t, st), savers+1)
	}
}

func TestStore_SnapshotPanics_OthersGetAnErrorAndTheStoreGoesOn(t *testing.T) {
	s, _ := mustOpen(t, t.TempDir())
	func() {
		defer func() { recover() }()
		s.Save(func() State { panic("no") })
	}()
	if err := save(s, 1); err != nil {
		t.Errorf("save after a panic: %v", err)
	}
}

func TestStore_CloseBetweenSaves_EverySaveIsKeptOrRefused(t *testing.T) {
	for range 50 {
		dir := t.TempDir()
		s, _, _, err := OpenStore(dir)
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
		again, st, _, err := OpenStore(dir)
		if err != nil {
			t.Fatalf("the lock was not given back: %v", err)
		}
		again.Close()
		if kept && number(t, st) != 7 {
			t.Fatal("an acknowledged save is not there")
		}
	}
}

func TestStore_ClosedWhileASaveWaitsForItsTurn_SaveIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFakeDisk(0)
		s, _, _, _ := openStore("/state", d)
		<-s.turn // another save is writing
		var err error
		go func() { err = save(s, 1) }()
		synctest.Wait()
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.turn <- struct{}{}
		synctest.Wait()
		if !errors.Is(err, tier.ErrClosed) {
			t.Errorf("save: %v, want ErrClosed", err)
		}
	})
}

func TestStore_FolderCannotBeThere_WarnsAndKeepsNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	s, _, warnings, err := OpenStore(filepath.Join(file, "state"))
	if err != nil || len(warnings) != 1 {
		t.Fatalf("error %v, warnings %v", err, warnings)
	}
	if err := save(s, 1); err == nil {
		t.Error("a state was saved below a file")
	}
	s.Close()
}
