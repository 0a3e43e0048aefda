package mapped

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// Opening a pipe waits for its writer; a load must not.
func TestOpen_SpecialFile_IsRefusedAtOnce(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "m.gguf")
	if err := syscall.Mkfifo(pipe, 0o644); err != nil {
		t.Skip(err)
	}
	other := filepath.Join(t.TempDir(), "m.bin") // of no known format
	must(t, syscall.Mkfifo(other, 0o644))
	for path, says := range map[string]string{pipe: "a pipe", filepath.Dir(pipe): "a pipe", filepath.Dir(other): "a pipe", os.DevNull: "a device"} {
		if _, err := openWeights(newSystem(), &tier.Model{Name: "m", Path: path}); !errors.Is(err, tier.ErrInvalid) || !strings.Contains(err.Error(), says) || len(tier.Suggestions(err)) == 0 {
			t.Errorf("%s: %v, want an error about %s and a way out", path, err, says)
		}
	}
}

func TestOpen_MappingFails_ClosesEverything(t *testing.T) {
	mod := sharded(t, "m", 100, 200, 300)
	sys := newSystem()
	mapFile := sys.mapFile
	n := 0
	sys.mapFile = func(f *os.File, size int) ([]byte, error) {
		if n++; n == 3 {
			return nil, syscall.ENOMEM
		}
		return mapFile(f, size)
	}
	before := holdings(t)
	if _, err := openWeights(sys, &mod); !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("open = %v", err)
	}
	if now := holdings(t); now != before {
		t.Errorf("holds %v, held %v", now, before)
	}
}

// Files that change while they are loaded, read and demoted give errors of the
// package, whatever the kernel offers, and never end the process.
func TestMover_FilesChangeAllTheTime_OnlyErrors(t *testing.T) {
	for name, take := range map[string]func(*system){
		"all calls":   func(*system) {},
		"no populate": func(s *system) { s.populate = nil },
		"pagemap":     func(s *system) { s.mayAskMincore = func(*os.File, fs.FileInfo) bool { return false } },
	} {
		t.Run(name, func(t *testing.T) { storm(t, take) })
	}
}

func storm(t *testing.T, take func(*system)) {
	const size = 1 << 20
	mod := sharded(t, "m", size, size)
	mod.Size *= 2
	paths, err := findShards("m", mod.Path)
	must(t, err)
	sys := newSystem()
	take(sys)
	m := newTestMover(t, sys, Options{})
	stop := make(chan struct{})
	var group sync.WaitGroup
	defer group.Wait()
	defer close(stop)
	loop := func(do func(i int)) {
		group.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					do(i)
				}
			}
		})
	}
	whole := content(size)
	loop(func(i int) { // these may fail: the file may be gone
		path := paths[i/5%2]
		switch i % 5 {
		case 0:
			_ = os.Truncate(path, int64(i%size))
		case 1:
			_ = os.Truncate(path, size)
		case 2:
			_ = os.WriteFile(path+".new", whole, 0o644)
			_ = os.Rename(path+".new", path)
		case 3:
			_ = os.Remove(path)
		case 4:
			_ = os.WriteFile(path, whole, 0o644)
		}
	})
	for range 2 {
		buf := make([]byte, size/2)
		loop(func(int) {
			if r, err := m.Weights("m"); err == nil {
				for off := int64(0); off < r.Size() && err == nil; off += size / 4 {
					_, err = r.ReadAt(buf, off)
				}
			}
			_, _ = m.Bytes("m")
			_ = m.Status()
			if r, ok := any(m).(tier.Resident); ok {
				_, _, _ = r.Resident(context.Background(), "m")
			}
			_, _ = m.Cached(context.Background(), "m")
			_ = m.Uncache(context.Background(), "m", size)
		})
	}
	moved, changed := 0, 0
	for range 60 {
		for _, to := range []tier.Tier{tier.RAM, tier.Swap, tier.RAM, tier.Storage} {
			err := m.Move(t.Context(), tier.Move{Model: mod, To: to, Keep: size + size/2}, func(tier.Bytes) {})
			if _, ok := errors.AsType[*ChangedError](err); ok {
				changed++
			}
			if err == nil {
				moved++
			}
			if err != nil && !errors.Is(err, tier.ErrInvalid) && !errors.Is(err, tier.ErrNoCapacity) && !errors.Is(err, syscall.EFAULT) {
				t.Errorf("to %v: %v", to, err)
			}
		}
	}
	t.Logf("%d moves came to an end, %d found a changed file", moved, changed)
}
