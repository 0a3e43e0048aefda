package modeltier_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// mountTmpfs returns a folder on its own filesystem of that size.
func mountTmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("a filesystem cannot be mounted, which takes root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// servesAll runs every operation of a Manager once.
func servesAll(t *testing.T, m *modeltier.Manager) {
	t.Helper()
	l, err := m.Acquire(t.Context(), modeltier.Request{Model: "a"})
	if err != nil {
		t.Fatalf("Acquire: %v", err)
	}
	l.Release()
	order(t)(m.HotLoad(t.Context(), tier.Model{Name: "x", Size: tier.GiB, Home: tier.Swap})).Wait(t.Context())
	for _, to := range []tier.Tier{tier.RAM, tier.Swap} {
		if err := order(t)(m.MoveTier(t.Context(), "x", to)).Wait(t.Context()); err != nil {
			t.Errorf("MoveTier: %v", err)
		}
	}
	if _, _, err := m.UpdateLimits(t.Context(), tier.Limits{RAM: 40 * tier.GiB}); err != nil {
		t.Errorf("UpdateLimits: %v", err)
	}
}

func TestManager_StateDirFull_CostsPersistenceNotService(t *testing.T) {
	leavesNothing(t)
	dir := mountTmpfs(t, "size=64k")
	m, err := modeltier.New(crashConfig(filepath.Join(dir, "state")))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := order(t)(m.HotLoad(t.Context(), tier.Model{Name: "kept", Size: tier.GiB})).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for { // until nothing more fits
		if _, err := f.Write(bytes.Repeat([]byte{1}, 512)); err != nil {
			break
		}
	}
	f.Close()
	servesAll(t, m)
	if trouble := m.Status().StateTrouble; len(trouble) == 0 {
		t.Error("Status says nothing of the state that cannot be kept")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := order(t)(m.MoveTier(t.Context(), "x", tier.Storage)).Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if trouble := m.Status().StateTrouble; len(trouble) > 0 {
		t.Errorf("there is room again, and Status says: %q", trouble)
	}
	want := memoirOf(m)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	again, err := modeltier.New(crashConfig(filepath.Join(dir, "state")))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := memoirOf(again); got.Limits != want.Limits || len(got.Homes) != 5 || got.Homes["x"] != tier.Storage {
		t.Errorf("remembered: %v, want %v", got, want)
	}
}

func TestNew_StateDirReadOnly_IsAnErrorThatSaysWhatToDo(t *testing.T) {
	leavesNothing(t)
	dir := mountTmpfs(t, "size=1m")
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	m, err := modeltier.New(crashConfig(filepath.Join(dir, "state")))
	if !errors.Is(err, unix.EROFS) {
		t.Errorf("New: %v, want EROFS", err)
	}
	if err == nil {
		m.Close()
	}
}

// If the disk is full or fails while the Manager runs, service continues; what was
// acknowledged meanwhile is persisted as soon as the disk allows.
func TestManager_DiskFullForAWhile_AcknowledgedIsKeptWhenThereIsRoomAgain(t *testing.T) {
	for _, orderly := range []bool{false, true} {
		t.Run(fmt.Sprintf("only at Close %v", orderly), func(t *testing.T) {
			leavesNothing(t)
			dir := mountTmpfs(t, "size=256k")
			m, err := modeltier.New(crashConfig(filepath.Join(dir, "state")))
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			full := fill(t, filepath.Join(dir, "fill"))
			if err := order(t)(m.HotLoad(t.Context(), tier.Model{Name: "kept", Size: tier.GiB})).Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			servesAll(t, m)
			if trouble := m.Status().StateTrouble; len(trouble) == 0 {
				t.Error("Status says nothing of the state that cannot be kept")
			}
			if err := os.Remove(full); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(time.Minute); !orderly && len(m.Status().StateTrouble) > 0; {
				if time.Now().After(deadline) {
					t.Fatal("the state is not kept a minute after there is room again")
				}
				runtime.Gosched()
			}
			if err := m.Close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
			again, err := modeltier.New(crashConfig(filepath.Join(dir, "state")))
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if _, ok := again.Model("kept"); !ok {
				t.Error("the model that was acknowledged is forgotten")
			}
		})
	}
}

// fill writes a file that takes all free space and returns its path.
func fill(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	return path
}
