package state

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/tier"
	"golang.org/x/sys/unix"
)

// mountTmpfs mounts a file system of that size for the length of the test.
func mountTmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("needs the right to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

func TestSave_RealDiskFull_FailsNothingLostNextOneWorks(t *testing.T) {
	dir := mountTmpfs(t, "size=128k")
	s, _ := mustOpen(t, dir)
	if err := save(s, 1); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	err := os.WriteFile(filler, make([]byte, 1<<20), 0o600)
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	if err := save(s, 2); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("save on a full disk: %v, want ENOSPC", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, tempName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a temporary file takes room on a full disk: %v", err)
	}
	s.Close()
	s, st, warnings, err := Open(dir) // a restart while the disk is full
	if err != nil || len(warnings) > 0 || number(t, st) != 1 {
		t.Fatalf("read %d, warnings %v, error %v; want 1", number(t, st), warnings, err)
	}
	defer s.Close()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := save(s, 3); err != nil {
		t.Errorf("save when there is room again: %v", err)
	}
}

func TestOpen_ReadOnlyFileSystem_IsAnError(t *testing.T) {
	dir := mountTmpfs(t, "size=1m")
	s, _ := mustOpen(t, dir)
	if err := save(s, 1); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Skipf("needs the right to remount: %v", err)
	}
	if _, _, _, err := Open(dir); !errors.Is(err, unix.EROFS) {
		t.Errorf("Open: %v, want EROFS", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	if _, st := mustOpen(t, dir); number(t, st) != 1 {
		t.Errorf("read %d, want 1", number(t, st))
	}
}

func TestOpen_NoPermissionToWrite_IsAnError(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(dir, 0o700) })
	if os.Geteuid() == 0 {
		dir = "/proc/self" // what binds root, too
	}
	if s, _, _, err := Open(dir); err == nil {
		s.Close()
		t.Error("a folder without permission to write was opened")
	}
}

// The lock must not depend on a file that a tidy person can delete, nor on the path
// by which the folder is named.
func TestOpen_LockFileDeleted_FolderStaysLocked(t *testing.T) {
	dir := t.TempDir()
	s, _ := mustOpen(t, dir)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, deleted := range []bool{false, true} {
		if deleted {
			if err := os.Remove(filepath.Join(dir, lockName)); err != nil {
				t.Fatal(err)
			}
		}
		for _, path := range []string{dir, link, filepath.Join(dir, "..", filepath.Base(dir))} {
			if second, _, _, err := Open(path); !errors.Is(err, tier.ErrInUse) {
				t.Errorf("lock file deleted: %v; Open(%q): %v, want ErrInUse", deleted, path, err)
				if err == nil {
					second.Close()
				}
			}
		}
	}
	if err := save(s, 1); err != nil {
		t.Error(err)
	}
	s.Close()
	if _, st := mustOpen(t, link); number(t, st) != 1 {
		t.Errorf("read %d, want 1", number(t, st))
	}
}

func TestOpen_LockFileLockedByOlderVersion_IsInUse(t *testing.T) {
	dir := t.TempDir()
	older, err := os.Create(filepath.Join(dir, lockName))
	if err != nil {
		t.Fatal(err)
	}
	older.WriteString("process 7 (older)\n")
	if err := flock(older); err != nil {
		t.Fatal(err)
	}
	_, _, _, err = Open(dir)
	if locked, ok := errors.AsType[*LockedError](err); !ok || locked.Owner != "process 7 (older)" {
		t.Errorf("Open: %v, want a LockedError", err)
	}
	older.Close()
	mustOpen(t, dir)
}

// A save after the path leads elsewhere must not write into a folder that another
// process may own.
func TestSave_PathLeadsElsewhere_GoesToTheLockedFolder(t *testing.T) {
	top := t.TempDir()
	path, first, second := filepath.Join(top, "state"), filepath.Join(top, "v1"), filepath.Join(top, "v2")
	for _, dir := range []string{first, second} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(first, path); err != nil {
		t.Fatal(err)
	}
	s, _ := mustOpen(t, path)
	if err := errors.Join(os.Remove(path), os.Symlink(second, path)); err != nil {
		t.Fatal(err)
	}
	other, _ := mustOpen(t, path)
	if err := errors.Join(save(s, 1), save(other, 2), save(s, 3)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	other.Close()
	for dir, want := range map[string]uint64{first: 3, second: 2} {
		if _, st := mustOpen(t, dir); number(t, st) != want {
			t.Errorf("%s: read %d, want %d", dir, number(t, st), want)
		}
	}
}

func TestOpen_SecondProcess_ErrorNamesTheFirst(t *testing.T) {
	dir := t.TempDir()
	s, _ := mustOpen(t, dir)
	child := exec.Command(os.Args[0], "-test.run=^TestStoreChild$")
	child.Env = append(os.Environ(), killDir+"="+dir)
	var out bytes.Buffer
	child.Stdout = &out
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "failed") || !strings.Contains(got, "is held by process ") {
		t.Errorf("the second process said %q", got)
	}
	if err := save(s, 1); err != nil {
		t.Errorf("the first process cannot save any more: %v", err)
	}
}

func TestOpen_PipeInPlaceOfAStateFile_SetAsideWithoutWaiting(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, slots[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _, warnings, err := Open(dir)
	if err != nil || len(warnings) != 1 {
		t.Fatalf("error %v, warnings %v", err, warnings)
	}
	defer s.Close()
	for n := uint64(1); n <= 2; n++ {
		if err := save(s, n); err != nil {
			t.Error(err)
		}
	}
	if _, _, _, err := Open(dir); !errors.Is(err, tier.ErrInUse) {
		t.Errorf("second open: %v", err)
	}
}

func TestStore_FileHandles_GivenBack(t *testing.T) {
	handles := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	dir := t.TempDir()
	round := func() {
		s, _ := mustOpen(t, dir)
		if _, _, _, err := Open(dir); err == nil {
			t.Error("opened twice")
		}
		if err := errors.Join(save(s, 1), s.Close()); err != nil {
			t.Error(err)
		}
		Open(filepath.Join(dir, slots[1]))
		Open("/proc/self")
	}
	round() // what stays open by itself
	before := handles()
	for range 10 {
		round()
	}
	if after := handles(); after > before {
		t.Errorf("%d handles are open, %d were before", after, before)
	}
}
