package hotload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// TestWatch_AnyChanges_WhatWasToldAddsUpToWhatIsThere changes files at random and
// compares, when all is still, with a fresh Scan.
func TestWatch_AnyChanges_WhatWasToldAddsUpToWhatIsThere(t *testing.T) {
	whole := llama()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		must(t, err)
		plant(t, dir, map[string]string{"keep.gguf": whole})
		synctest.Test(t, func(t *testing.T) {
			told := map[string]string{"keep": filepath.Join(dir, "keep.gguf")}
			known, _, err := Scan(t.Context(), dir)
			must(t, err)
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				done <- Watch(ctx, dir, known, interval, func(c Change) {
					for _, m := range c.Removed {
						if told[m.Name] != m.Path {
							t.Errorf("%s was removed and is not known", m.Name)
						}
						delete(told, m.Name)
					}
					for _, m := range c.Added {
						if told[m.Name] != "" {
							t.Errorf("%s was added twice", m.Name)
						}
						told[m.Name] = m.Path
					}
					for _, m := range c.Changed {
						if told[m.Name] != m.Path {
							t.Errorf("%s changed and is not known", m.Name)
						}
					}
				})
			}()
			synctest.Wait()
			names := []string{"a.gguf", "b.gguf", "x/a.gguf", "y/m-00001-of-00002.gguf", "y/m-00002-of-00002.gguf", "z/model.safetensors", "z/config.json"}
			for step := range rapid.IntRange(1, 15).Draw(rt, "steps") {
				name := rapid.SampledFrom(names).Draw(rt, "file")
				path := filepath.Join(dir, name)
				switch rapid.IntRange(0, 3).Draw(rt, "what") {
				case 0:
					os.Remove(path)
				case 1:
					plant(t, dir, map[string]string{name: whole[:rapid.IntRange(1, len(whole)-1).Draw(rt, "length")]})
				default:
					content := whole
					switch {
					case strings.Contains(name, "-00001"):
						content = ggufShard(1, 2)
					case strings.Contains(name, "-00002"):
						content = ggufShard(2, 2)
					case strings.HasPrefix(name, "z/m"):
						content = safetensorsShard()
					case strings.HasPrefix(name, "z/"):
						content = `{"architectures":["BertModel"]}`
					}
					plant(t, dir, map[string]string{name: content})
				}
				// Seconds pass here within one tick of the filesystem's clock, in which a file
				// that is made anew can have the size, the inode and the time of the one before.
				now := time.Now().Add(time.Duration(step) * time.Millisecond)
				if err := os.Chtimes(path, now, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				time.Sleep(time.Duration(rapid.IntRange(0, 3).Draw(rt, "wait")) * interval)
			}
			time.Sleep(4 * interval)
			synctest.Wait()
			stop()
			<-done
			there, _, err := Scan(context.Background(), dir)
			must(t, err)
			var want, got []string
			for _, m := range there {
				want = append(want, m.Path)
			}
			for _, path := range told {
				got = append(got, path)
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(want, got) {
				rt.Fatalf("told %q, there is %q", got, want)
			}
		})
	})
}

// BenchmarkWatch_Look is what a folder costs in which nothing happens.
func BenchmarkWatch_Look(b *testing.B) {
	dir := b.TempDir()
	for i := range 200 {
		plant(b, dir, map[string]string{fmt.Sprintf("m%03d.gguf", i): llama()})
	}
	w := newWatcher(dir, nil)
	w.look(b.Context())
	w.look(b.Context())
	b.ReportAllocs()
	for b.Loop() {
		if _, news := w.look(b.Context()); news {
			b.Fatal("news in a folder that is still")
		}
	}
}
