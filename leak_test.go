package modeltier_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// leavesNothing checks, when the test and the cleanups that it adds later have run,
// that no goroutine, mapping or file handle is left of them. A test calls it
// before it makes a Manager; newRig does.
func leavesNothing(t *testing.T) {
	t.Helper()
	before := lookAround(t.Name())
	t.Cleanup(func() {
		for _, trace := range before.left() {
			t.Errorf("left behind: %s", trace)
		}
	})
}

// surroundings is what a process holds at one moment. Where there is no /proc,
// there are only the goroutines to look at.
type surroundings struct {
	label   string
	handles map[string]int // by what they are of
	mapped  map[string]int // by file
}

const leakLabel = "modeltier-test"

// lookAround takes note of what there is, and marks the goroutine that calls it:
// those that it starts inherit the mark.
func lookAround(name string) *surroundings {
	s := &surroundings{handles: handles(), mapped: mappings()}
	s.label = fmt.Sprintf("%s %p", name, s)
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(leakLabel, s.label)))
	return s
}

// left returns what is there now and was not there before, in words.
func (s *surroundings) left() (traces []string) {
	pprof.SetGoroutineLabels(context.Background())
	if !inBubble() { // a bubble that ends with goroutines in it fails by itself
		if left := s.goroutines(); left != "" {
			traces = append(traces, "goroutines:\n"+left)
		}
	}
	for file, n := range mappings() {
		if n > s.mapped[file] {
			traces = append(traces, fmt.Sprintf("%d mappings of %s", n-s.mapped[file], file))
		}
	}
	for file, n := range handles() {
		if n > s.handles[file] {
			traces = append(traces, fmt.Sprintf("%d handles of %s", n-s.handles[file], file))
		}
	}
	return traces
}

// goroutines returns the stacks of those with the mark. They may be on their way
// out: it gives them a moment, without sleeping through it.
func (s *surroundings) goroutines() string {
	for limit := time.Now().Add(2 * time.Second); ; runtime.Gosched() {
		var profile bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
			return err.Error()
		}
		var left []string
		for block := range strings.SplitSeq(profile.String(), "\n\n") {
			if strings.Contains(block, s.label) {
				left = append(left, block)
			}
		}
		if len(left) == 0 || time.Now().After(limit) {
			return strings.Join(left, "\n\n")
		}
	}
}

// inBubble reports whether time is virtual here: a bubble begins in the year 2000.
func inBubble() bool { return time.Now().Year() < 2020 }

// handles counts what is open. Sockets are left out: the HTTP client of a test
// keeps some for later; and so is what the runtime polls with.
func handles() map[string]int {
	open := make(map[string]int)
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		of, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err == nil && !strings.HasPrefix(of, "socket:") && !strings.HasPrefix(of, "anon_inode:[event") && !strings.HasPrefix(of, "/proc/") {
			open[of]++
		}
	}
	return open
}

// mappings counts the files that are mapped.
func mappings() map[string]int {
	mapped := make(map[string]int)
	maps, _ := os.ReadFile("/proc/self/maps")
	for line := range strings.Lines(string(maps)) {
		if i := strings.IndexByte(line, '/'); i >= 0 {
			mapped[strings.TrimSpace(line[i:])]++
		}
	}
	return mapped
}

func TestLeavesNothing_SomethingIsLeft_IsSeen(t *testing.T) {
	s := lookAround(t.Name())
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { <-stop; close(stopped) }()
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	traces := strings.Join(s.left(), "\n")
	if !strings.Contains(traces, "TestLeavesNothing") {
		t.Errorf("the goroutine is not seen: %q", traces)
	}
	if _, err := os.Stat("/proc/self/fd"); err == nil && !strings.Contains(traces, f.Name()) {
		t.Errorf("the handle is not seen: %q", traces)
	}
	close(stop)
	<-stopped
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if traces := s.left(); len(traces) > 0 {
		t.Errorf("nothing is left, yet it says: %q", traces)
	}
}

// weights writes a model's file whose bytes are not all the same.
func weights(t *testing.T, name string, size tier.Bytes) tier.Model {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	line := []byte(name + " 0123456789abcdef")
	if err := os.WriteFile(path, bytes.Repeat(line, int(size)/len(line)+1)[:size], 0o644); err != nil {
		t.Fatal(err)
	}
	return tier.Model{Name: name, Path: path, Size: size, Capabilities: []string{"text-generation"}}
}

// TestManager_DefaultParts_CloseLeavesNothing takes models through the tiers with
// the mover, probe, selector and placement that a Manager has by default, and
// ends it in every way there is.
func TestManager_DefaultParts_CloseLeavesNothing(t *testing.T) {
	a, b := weights(t, "a", 6*tier.MiB), weights(t, "b", 5*tier.MiB)
	for name, end := range map[string]func(*modeltier.Manager) error{
		"Close":    (*modeltier.Manager).Close,
		"Shutdown": func(m *modeltier.Manager) error { return m.Shutdown(t.Context()) },
		"Close under a lease": func(m *modeltier.Manager) error {
			if _, err := m.Acquire(t.Context(), modeltier.Request{Model: "a"}); err != nil {
				t.Error(err)
			}
			return m.Close()
		},
		"Close during a load": func(m *modeltier.Manager) error {
			if _, err := m.HotLoad(t.Context(), tier.Model{Name: "c", Path: b.Path, Home: tier.RAM}); err != nil {
				t.Error(err)
			}
			return m.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			leavesNothing(t)
			m, err := modeltier.New(modeltier.Config{
				Models: []tier.Model{a, b}, StateDir: t.TempDir(),
				Limits: tier.Limits{RAM: 8 * tier.MiB, Swap: 32 * tier.MiB, Reserved: tier.MiB},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			for range 2 {
				for _, model := range []string{"a", "b"} {
					l, err := m.Acquire(t.Context(), modeltier.Request{Model: model})
					if err != nil {
						t.Fatal(err)
					}
					l.Release()
				}
			}
			if err := end(m); err != nil {
				t.Error(err)
			}
		})
	}
}
