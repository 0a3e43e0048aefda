package hotload

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// Opening a watchdog or a tape is an act of its own; a pipe stands for them here.
func TestInspect_SpecialFile_RefusedWithoutOpeningIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Skipf("no inotify here: %v", err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, path, unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	if _, err := Inspect(path); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("err = %v, want ErrInvalid", err)
	}
	if n, err := unix.Read(watch, make([]byte, 4096)); err != unix.EAGAIN {
		t.Errorf("it was opened: %d bytes of events, %v", n, err)
	}
}

// TestEverything_FileHandles_GivenBack goes through what opens files, well and
// badly, and counts the handles.
func TestEverything_FileHandles_GivenBack(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{
		"a.gguf": llama(), "cut.gguf": llama()[:99], "m/model.safetensors": safetensorsShard(), "m/config.json": "{}",
		"broken/model.safetensors": safetensorsShard(), "broken/config.json": "{", "broken/model.safetensors.index.json": "{",
	})
	handles := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	round := func() {
		for _, path := range []string{"a.gguf", "cut.gguf", "m", "broken", "gone", "."} {
			Inspect(filepath.Join(dir, path))
			Measure(filepath.Join(dir, path))
			Resolve(dir, path)
		}
		Scan(t.Context(), dir)
		Watch(canceled(errBroken), dir, nil, 0, nil)
	}
	round() // what is opened once and for all
	before := handles()
	for range 10 {
		round()
	}
	if after := handles(); after > before {
		t.Errorf("%d handles are open, %d were before", after, before)
	}
}

func TestWatch_FileMayBeReadLater_ModelIsReportedThen(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{"a.gguf": llama()})
	path := filepath.Join(dir, "a.gguf")
	must(t, os.Chmod(path, 0))
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // of testing's
	w, readable := newWatcher(dir, nil), false
	look := func(times int) (added []tier.Model) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			if os.Geteuid() == 0 {
				unix.Setfsuid(65534) // whom permissions bind
			}
			if f, err := os.Open(path); err == nil {
				readable = true
				f.Close()
			}
			for range times {
				c, _ := w.Look(context.Background())
				added = append(added, c.Added...)
			}
		}()
		<-done
		return added
	}
	if added := look(3); readable {
		t.Skip("needs a user that permissions bind")
	} else if len(added) > 0 {
		t.Fatalf("reported %v, which cannot be read", added)
	}
	must(t, os.Chmod(path, 0o644)) // which leaves its size and its time as they were
	if added := look(retryLooks); len(added) != 1 || added[0].Name != "a" {
		t.Errorf("reported %v, want a", added)
	}
	if added := look(2 * retryLooks); len(added) > 0 || w.retry > 0 {
		t.Errorf("reported %v again", added)
	}
}
