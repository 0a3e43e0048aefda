package hotload

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

func TestStore_RealDiskFull_SaveFailsNothingLostNextOneWorks(t *testing.T) {
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
	s, st := mustOpen(t, dir) // a restart while the disk is full
	if got := number(t, st); got != 1 {
		t.Errorf("read %d, want 1", got)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := save(s, 3); err != nil {
		t.Errorf("save when there is room again: %v", err)
	}
}

func TestStore_RealReadOnlyFolder_ReadsWarnsAndSavesWhenWritable(t *testing.T) {
	dir := mountTmpfs(t, "size=1m")
	s, _ := mustOpen(t, dir)
	if err := save(s, 1); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Skipf("needs the right to remount: %v", err)
	}
	s, st, warnings, err := OpenStore(dir)
	if err != nil || len(warnings) != 1 || !errors.Is(warnings[0].Err, unix.EROFS) {
		t.Fatalf("error %v, warnings %v; want one of EROFS", err, warnings)
	}
	defer s.Close()
	if got := number(t, st); got != 1 {
		t.Errorf("read %d, want 1", got)
	}
	if err := save(s, 2); !errors.Is(err, unix.EROFS) {
		t.Errorf("save: %v, want EROFS", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	if err := save(s, 3); err != nil {
		t.Errorf("save when the folder can be written: %v", err)
	}
}

func TestStore_SecondProcess_ErrorNamesTheFirst(t *testing.T) {
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

func TestStore_PipeInPlaceOfAStateFile_SetAsideWithoutWaiting(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, slots[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _, warnings, err := OpenStore(dir)
	if err != nil || len(warnings) != 1 {
		t.Fatalf("error %v, warnings %v", err, warnings)
	}
	defer s.Close()
	for n := uint64(1); n <= 2; n++ {
		if err := save(s, n); err != nil {
			t.Error(err)
		}
	}
	if _, _, _, err := OpenStore(dir); !errors.Is(err, tier.ErrInUse) {
		t.Errorf("second open: %v", err)
	}
}

func TestOpenRegular_Pipe_RefusedWithoutWaiting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe.gguf")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := openRegular(path); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("%v, %v", f, err)
	}
}
