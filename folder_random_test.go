package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
)

// fileEvent is something that happens to a file, and the time until the next.
type fileEvent struct {
	What string
	File string
	To   string // of a rename or a link
	Part int    // of 10 of the file are written
	Wait time.Duration
}

var eventFiles = []string{
	"a.safetensors", "b.safetensors", "x/a.safetensors", "x/y/c.safetensors",
	"set-00001-of-00003.gguf", "set-00002-of-00003.gguf", "set-00003-of-00003.gguf", "x/set-00001-of-00002.gguf", "x/set-00002-of-00002.gguf",
	"mmproj-set.gguf", "one.gguf", "x/one.gguf", "two-1-of-2.gguf", "hub/model.safetensors", "hub/config.json", "SHA256SUMS", "chat.safetensors",
}

var fileEvents = rapid.Custom(func(t *rapid.T) fileEvent {
	return fileEvent{
		What: rapid.SampledFrom([]string{"write", "write", "write", "grow", "replace", "replace", "truncate", "delete", "rename", "folder", "link", "download", "outside"}).Draw(t, "what"),
		File: rapid.SampledFrom(eventFiles).Draw(t, "file"),
		To:   rapid.SampledFrom(eventFiles).Draw(t, "to"),
		Part: rapid.IntRange(0, 9).Draw(t, "part"),
		Wait: time.Duration(rapid.IntRange(0, 9).Draw(t, "seconds")) * time.Second,
	}
})

// contentOf returns a whole file of that name, each time another.
func contentOf(name string) []byte {
	base := filepath.Base(name)
	switch {
	case base == "config.json":
		return fmt.Appendf(nil, `{"architectures":["BertModel"],"n":%d}`, rand.Uint32())
	case base == "SHA256SUMS":
		return fmt.Appendf(nil, "%064x  a.safetensors\n", rand.Uint64())
	case strings.HasPrefix(base, "mmproj"):
		return ggufShard(1, 1, true)
	case strings.Contains(base, "-of-0000"):
		var no, of int
		fmt.Sscanf(base, "set-%05d-of-%05d.gguf", &no, &of)
		return ggufShard(no, of, false)
	case strings.HasSuffix(base, ".gguf"):
		return ggufShard(1, 1, false)
	}
	return tensors(100 + rand.IntN(3)*8)
}

// carry does what the event says in dir. at is the time of what is written: the clock of
// a file system ticks too slowly for what happens here within a moment.
func (e *fileEvent) carry(dir string, at time.Time) {
	path, to := filepath.Join(dir, e.File), filepath.Join(dir, e.To)
	write := func(path string, content []byte) {
		os.MkdirAll(filepath.Dir(path), 0o700)
		if os.WriteFile(path, content, 0o600) == nil {
			os.Chtimes(path, at, at)
		}
	}
	switch whole := contentOf(e.File); e.What {
	case "write":
		write(path, whole)
	case "grow":
		write(path, whole[:len(whole)*e.Part/10])
	case "replace":
		write(path+".new", whole)
		os.Rename(path+".new", path)
	case "truncate":
		os.Truncate(path, int64(len(whole)*e.Part/10))
		os.Chtimes(path, at, at)
	case "delete":
		os.Remove(path)
	case "rename":
		os.MkdirAll(filepath.Dir(to), 0o700)
		os.Rename(path, to)
	case "folder": // a whole folder goes, or comes back
		if os.Rename(filepath.Join(dir, "x"), filepath.Join(dir, "w")) != nil {
			os.Rename(filepath.Join(dir, "w"), filepath.Join(dir, "x"))
		}
	case "link":
		os.Remove(path)
		os.MkdirAll(filepath.Dir(path), 0o700)
		os.Symlink(to, path)
	case "download":
		write(path+".part", whole[:len(whole)*e.Part/10])
		if e.Part%2 == 0 {
			write(path+".part", whole)
			os.Rename(path+".part", path)
		}
	case "outside":
		os.Remove(path)
		os.MkdirAll(filepath.Dir(path), 0o700)
		os.Symlink("/etc/hostname", path)
	}
}

// faults collects what goes wrong on any goroutine of a bubble.
type faults struct {
	mu  sync.Mutex
	all []string
}

func (f *faults) addf(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, fmt.Sprintf(format, args...))
}

// pester requests models of the library until ctx ends. None that is there may fail, and
// each stays in ram as it is while it is leased.
func (r *rig) pester(ctx context.Context, seed uint64, f *faults) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for ctx.Err() == nil {
		names := r.names()
		name := names[rng.IntN(len(names))]
		l, err := r.Acquire(ctx, modeltier.Request{Model: name})
		switch {
		case err == nil:
			was := l.Model()
			time.Sleep(time.Duration(rng.IntN(4000)) * time.Millisecond)
			if now := l.Model(); r.mover.At(was.Name) != tier.RAM || !cmp.Equal(was, now) || l.Tier() != tier.RAM {
				f.addf("under its lease %q became %+v, in %v", name, now, r.mover.At(was.Name))
			}
			l.Release()
		case ctx.Err() != nil:
		case errors.Is(err, modeltier.ErrNotFound) && name != "keep" && !slices.Contains(r.names(), name): // it went just now
		default:
			f.addf("a request for %q failed: %v", name, err)
		}
		time.Sleep(time.Duration(1+rng.IntN(500)) * time.Millisecond)
	}
}

// TestWatchModelDir_AnyFileEvents_LibraryIsWhatAScanFinds has files come, grow, change and
// go at random under requests. A model keeps its name while it is there, and when all is
// still, the library and what is left out are those of a fresh scan.
func TestWatchModelDir_AnyFileEvents_LibraryIsWhatAScanFinds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		events := rapid.SliceOfN(fileEvents, 1, 30).Draw(rt, "events")
		s := newShelf(t, "keep")
		var f faults
		synctest.Test(t, func(t *testing.T) {
			cfg := s.watching()
			cfg.Aliases = map[string]string{"chat": "keep"}
			r := newRig(t, cfg)
			ctx, stop := context.WithCancel(t.Context())
			var clients sync.WaitGroup
			for i := range 4 {
				clients.Go(func() { r.pester(ctx, uint64(i), &f) })
			}
			called := make(map[string]string) // name by path, as of a moment ago
			for i, e := range events {
				e.carry(s.dir, time.Now().Add(time.Duration(i)*time.Millisecond))
				for range e.Wait / time.Second {
					time.Sleep(time.Second) // half as long as between two looks
					now := make(map[string]string)
					for m := range r.Models() {
						now[m.Path] = m.Name
						if was := called[m.Path]; was != "" && was != m.Name {
							f.addf("event %d: %s was called %q and is %q", i, m.Path, was, m.Name)
						}
					}
					called = now
				}
			}
			time.Sleep(30 * time.Second) // with requests: what was replaced or has gone waits for them to pause
			stop()
			clients.Wait()
			time.Sleep(30 * time.Second)
			synctest.Wait()

			found, skipped, err := hotload.Scan(context.Background(), s.dir)
			if err != nil {
				t.Fatal(err)
			}
			type set struct {
				Size    tier.Bytes
				Parts   string
				Version string
			}
			want, got := make(map[string]set), make(map[string]set)
			left, leftOut := make(map[string]bool), make(map[string]bool)
			for _, m := range found {
				if m.Name == "chat" {
					left[m.Path] = true
				} else {
					want[m.Path] = set{m.Size, strings.Join(m.Parts, " "), m.Version}
				}
			}
			for m := range r.Models() {
				got[m.Path] = set{m.Size, strings.Join(m.Parts, " "), m.Version}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				f.addf("models (-a scan finds +there are):\n%s", diff)
			}
			for _, l := range skipped {
				left[l.Path] = true
			}
			for _, l := range r.Status().LeftOut {
				leftOut[l.Path] = true
			}
			if diff := cmp.Diff(left, leftOut); diff != "" {
				f.addf("left out (-a scan +Status):\n%s", diff)
			}
		})
		if len(f.all) > 0 {
			rt.Fatalf("%d faults, the first: %s", len(f.all), f.all[0])
		}
	})
}
