package hotload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

// watched runs Watch on a folder in virtual time and notes what it tells.
type watched struct {
	t    *testing.T
	dir  string
	stop context.CancelCauseFunc
	done chan error

	mu       sync.Mutex
	reported []string // "+name", "~name", "-name", "?file"
}

const interval = time.Second

func startWatch(t *testing.T, dir string) *watched {
	t.Helper()
	known, _, err := Scan(t.Context(), dir)
	must(t, err)
	return startWatchKnowing(t, dir, known)
}

func startWatchKnowing(t *testing.T, dir string, known []tier.Model) *watched {
	ctx, stop := context.WithCancelCause(t.Context())
	w := &watched{t: t, dir: dir, stop: stop, done: make(chan error, 1)}
	go func() { w.done <- Watch(ctx, dir, known, interval, w.note) }()
	synctest.Wait()
	return w
}

func (w *watched) note(c Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range slices.Concat(c.Added, c.Changed) { // they are its own, and it spoils them
		clear(m.Labels)
		clear(m.Capabilities)
		clear(m.Parts)
	}
	for _, m := range c.Added {
		w.reported = append(w.reported, "+"+m.Name)
	}
	for _, m := range c.Changed {
		w.reported = append(w.reported, "~"+m.Name)
	}
	for _, m := range c.Removed {
		w.reported = append(w.reported, "-"+m.Name)
	}
	for _, s := range c.Skipped {
		w.reported = append(w.reported, "?"+filepath.Base(s.Path))
	}
}

// expect lets so many intervals pass and checks what was reported in them.
func (w *watched) expect(intervals int, want ...string) {
	w.t.Helper()
	time.Sleep(time.Duration(intervals) * interval)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.reported)
	slices.Sort(want)
	if diff := cmp.Diff(want, w.reported); len(want)+len(w.reported) > 0 && diff != "" {
		w.t.Fatalf("in %d intervals (-want +reported):\n%s", intervals, diff)
	}
	w.reported = nil
}

func (w *watched) path(name string) string { return filepath.Join(w.dir, name) }

func (w *watched) plant(files map[string]string) { plant(w.t, w.dir, files) }

func (w *watched) end() {
	w.t.Helper()
	w.stop(errBroken)
	if err := <-w.done; err != errBroken {
		w.t.Errorf("Watch returned %v, want the cause", err)
	}
}

// bubble runs a test in virtual time, in a folder with those files.
func bubble(t *testing.T, files map[string]string, test func(*testing.T, *watched)) {
	t.Helper()
	dir := t.TempDir()
	plant(t, dir, files)
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, dir)
		test(t, w)
		w.end()
	})
}

func TestWatch_NothingChanges_NothingIsReported(t *testing.T) {
	bubble(t, map[string]string{"a.gguf": llama(), "broken.gguf": "no", "sub/b.gguf": llama(), "README.md": "x"}, func(t *testing.T, w *watched) {
		w.expect(10)
		w.plant(map[string]string{"notes.txt": "not a model"})
		w.expect(5)
	})
}

func TestWatch_FileComesAndGoes_ReportedOnceWhenStill(t *testing.T) {
	bubble(t, map[string]string{"a.gguf": llama()}, func(t *testing.T, w *watched) {
		w.plant(map[string]string{"b.gguf": llama(), "sub/c.gguf": llama()})
		w.expect(1)
		w.expect(1, "+b", "+c")
		w.expect(5)
		must(t, os.Remove(w.path("b.gguf")))
		w.expect(1)
		w.expect(1, "-b")
		w.expect(5)
		must(t, os.RemoveAll(w.path("sub")))
		w.expect(3, "-c")
	})
}

func TestWatch_FileGrows_ReportedWhenItHasBeenStillForAnInterval(t *testing.T) {
	whole := llama()
	bubble(t, map[string]string{"a.gguf": whole}, func(t *testing.T, w *watched) {
		for n := 100; n < len(whole); n += 200 {
			w.plant(map[string]string{"b.gguf": whole[:n]})
			w.expect(1)
		}
		w.plant(map[string]string{"b.gguf": whole})
		w.expect(1)
		w.expect(1, "+b")
	})
}

func TestWatch_CopyStalls_ReasonIsReportedAndModelWhenItIsWhole(t *testing.T) {
	whole := llama()
	bubble(t, map[string]string{"a.gguf": whole}, func(t *testing.T, w *watched) {
		w.plant(map[string]string{"b.gguf": whole[:300]})
		w.expect(5, "?b.gguf")
		w.plant(map[string]string{"b.gguf": whole})
		w.expect(5, "+b")
	})
}

func TestWatch_ContentChanges_IsReported(t *testing.T) {
	bubble(t, map[string]string{"a.gguf": llama(), "b.gguf": llama()}, func(t *testing.T, w *watched) {
		w.expect(2)
		w.plant(map[string]string{"a.gguf": other()}) // same size, in place
		w.expect(1)
		w.expect(1, "~a")
		stat, err := os.Stat(w.path("b.gguf"))
		must(t, err)
		w.plant(map[string]string{"new": other()})
		must(t, os.Chtimes(w.path("new"), time.Time{}, stat.ModTime())) // same size, same time, other file
		must(t, os.Rename(w.path("new"), w.path("b.gguf")))
		w.expect(3, "~b")
		w.plant(map[string]string{"a.gguf": "broken"})
		w.expect(3, "-a", "?a.gguf")
	})
}

// Inode and time only decide whether to look again.
func TestWatch_TouchedOrCopiedAgain_IsTheSameVersion(t *testing.T) {
	bubble(t, map[string]string{"a.gguf": llama(), "b.gguf": llama()}, func(t *testing.T, w *watched) {
		w.expect(2)
		must(t, os.Chtimes(w.path("a.gguf"), time.Time{}, time.Now().Add(-time.Hour)))
		w.plant(map[string]string{"new": llama()})
		must(t, os.Rename(w.path("new"), w.path("b.gguf")))
		w.expect(5)
	})
}

func TestWatch_LinkIsSwapped_IsReported(t *testing.T) {
	files := map[string]string{".store/v1": llama(), ".store/v2": other(), "m.gguf": "-> .store/v1"}
	bubble(t, files, func(t *testing.T, w *watched) {
		w.expect(2)
		must(t, os.Symlink(".store/v2", w.path("next")))
		must(t, os.Rename(w.path("next"), w.path("m.gguf")))
		w.expect(3, "~m")
		outside := filepath.Join(t.TempDir(), "x")
		must(t, os.WriteFile(outside, []byte(llama()), 0o600))
		must(t, os.Symlink(outside, w.path("next")))
		must(t, os.Rename(w.path("next"), w.path("m.gguf")))
		w.expect(4, "-m", "?m.gguf")
	})
}

func TestWatch_FileVanishesAndReturnsWithinAnInterval_NothingIsReported(t *testing.T) {
	bubble(t, map[string]string{"a.gguf": llama(), "b.gguf": llama()}, func(t *testing.T, w *watched) {
		w.expect(2)
		must(t, os.Rename(w.path("b.gguf"), w.path("b.away")))
		w.expect(1)
		must(t, os.Rename(w.path("b.away"), w.path("b.gguf")))
		w.expect(5)
		must(t, os.Rename(w.path("b.gguf"), w.path("b.away")))
		w.expect(3, "-b")
		must(t, os.Rename(w.path("b.away"), w.path("b.gguf")))
		w.expect(3, "+b")
	})
}

func TestWatch_FolderIsEmptyForAMoment_NothingIsRemoved(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{"m/a.gguf": llama(), "m/b.gguf": llama()})
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, filepath.Join(dir, "m"))
		unmount := func() {
			must(t, os.Rename(w.dir, w.dir+".away"))
			must(t, os.Mkdir(w.dir, 0o755))
		}
		mount := func() {
			must(t, os.Remove(w.dir))
			must(t, os.Rename(w.dir+".away", w.dir))
		}
		w.expect(2)
		unmount()
		w.expect(2) // any other change would have been reported by now
		mount()
		w.expect(5)
		unmount()
		w.expect(3, "-a", "-b")
		mount()
		w.expect(3, "+a", "+b")

		must(t, os.Rename(w.dir, w.dir+".away")) // there is no folder at all: nothing is believed
		w.expect(20)
		must(t, os.Rename(w.dir+".away", w.dir))
		w.expect(5)
		w.end()
	})
}

func TestWatch_FolderIsNotThereYet_ModelsAreReportedWhenItIs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	synctest.Test(t, func(t *testing.T) {
		w := startWatchKnowing(t, dir, nil)
		w.expect(3)
		w.plant(map[string]string{"a.gguf": llama()})
		w.expect(3, "+a")
		w.end()
	})
}

func TestWatch_ShardsArriveOneByOne_ReportedOnceWhenComplete(t *testing.T) {
	bubble(t, map[string]string{"a.gguf": llama()}, func(t *testing.T, w *watched) {
		w.plant(map[string]string{"m/m-00001-of-00003.gguf": ggufShard(1, 3), "m/m-00002-of-00003.gguf": ggufShard(2, 3)[:50]})
		w.expect(1)
		w.plant(map[string]string{"m/m-00002-of-00003.gguf": ggufShard(2, 3)})
		w.expect(1)
		w.plant(map[string]string{"m/m-00003-of-00003.gguf": ggufShard(3, 3)})
		w.expect(1)
		w.expect(1, "+m")
		shard := ggufShard(2, 3)
		w.plant(map[string]string{"m/m-00002-of-00003.gguf": shard[:len(shard)-1] + "\x01"})
		w.expect(3, "~m")
		must(t, os.Remove(w.path("m/m-00002-of-00003.gguf")))
		w.expect(3, "-m", "?m-00001-of-00003.gguf")
	})
}

func TestWatch_OneFileGrowsForEver_OthersAreStillReported(t *testing.T) {
	bubble(t, map[string]string{"a.gguf": llama()}, func(t *testing.T, w *watched) {
		for i := range 4 {
			w.plant(map[string]string{"endless.gguf": strings.Repeat("x", i+1)})
			if i == 0 {
				w.plant(map[string]string{"b.gguf": llama()})
			}
			if i == 1 {
				w.expect(1, "+b")
			} else {
				w.expect(1)
			}
		}
	})
}

func TestWatch_ChangedBetweenScanAndWatch_IsReported(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{"gone.gguf": llama(), "other.gguf": llama(), "same.gguf": llama()})
	synctest.Test(t, func(t *testing.T) {
		known, _, err := Scan(t.Context(), dir)
		must(t, err)
		elsewhere := tier.Model{Name: "elsewhere", Path: "/elsewhere/m.gguf", Size: 1}
		must(t, os.Remove(filepath.Join(dir, "gone.gguf")))
		plant(t, dir, map[string]string{"new.gguf": llama(), "other.gguf": llama() + "padding", "elsewhere.gguf": llama()})
		w := startWatchKnowing(t, dir, append(known, elsewhere))
		w.expect(1, "-gone", "+new", "~other", "+"+filepath.Base(dir)+"/elsewhere")
		w.expect(5)
		w.end()
	})
}

// A hot load may name a file that Scan would not: it was never gone.
func TestWatch_KnownModelThatScanWouldNotName_RemovedOnlyWhenItIsGone(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{"a.gguf": llama(), "raw.bin": "weights", "sub/part.bin": "weights", "out.bin": "-> " + filepath.Join(t.TempDir(), "x"), "empty.bin": ""})
	synctest.Test(t, func(t *testing.T) {
		known, _, err := Scan(t.Context(), dir)
		must(t, err)
		for _, name := range []string{"raw.bin", "sub", "out.bin", "empty.bin"} {
			known = append(known, tier.Model{Name: name, Path: filepath.Join(dir, name), Size: 7})
		}
		w := startWatchKnowing(t, dir, known)
		w.expect(2, "-out.bin") // leads nowhere
		w.plant(map[string]string{"b.gguf": llama()})
		must(t, os.Truncate(w.path("raw.bin"), 0)) // to be rewritten
		w.expect(3, "+b")

		must(t, os.Rename(w.path("raw.bin"), w.path("raw.away")))
		must(t, os.Remove(w.path("b.gguf")))
		w.expect(1)
		must(t, os.Rename(w.path("raw.away"), w.path("raw.bin")))
		w.expect(5, "-b")

		must(t, os.Remove(w.path("raw.bin")))
		w.expect(1)
		w.expect(1, "-raw.bin")
		must(t, os.RemoveAll(w.path("sub")))
		w.expect(3, "-sub")
		w.expect(5)

		// A mount that blinks takes the last file with it.
		must(t, os.Remove(w.path("a.gguf")))
		w.expect(3, "-a")
		must(t, os.Rename(w.path("empty.bin"), w.path("empty.away")))
		w.expect(2)
		must(t, os.Rename(w.path("empty.away"), w.path("empty.bin")))
		w.expect(5)
		w.end()
	})
}

func TestWatch_NamesRepeat_AModelKeepsItsName(t *testing.T) {
	bubble(t, map[string]string{"z/m.gguf": llama()}, func(t *testing.T, w *watched) {
		w.plant(map[string]string{"a/m.gguf": llama()}) // it stands before the other
		w.expect(3, "+a/m")
		must(t, os.Remove(w.path("z/m.gguf")))
		w.expect(3, "-m")
		w.plant(map[string]string{"z/m.gguf": llama()})
		w.expect(3, "+m")
	})
}

func TestWatch_ConfigBesideTheWeightsChanges_ModelIsReportedAgain(t *testing.T) {
	bubble(t, map[string]string{"m/model.safetensors": safetensorsShard(), "m/config.json": `{"architectures":["BertModel"]}`}, func(t *testing.T, w *watched) {
		w.expect(2)
		w.plant(map[string]string{"m/config.json": `{"architectures":["LlamaForCausalLM"]}`})
		w.expect(3, "~m")
	})
}

func TestWatch_ConfigArrivesWhileAnotherModelIsReported_FolderWaitsForIt(t *testing.T) {
	bubble(t, map[string]string{"a.gguf": llama()}, func(t *testing.T, w *watched) {
		w.plant(map[string]string{"m/model.safetensors": safetensorsShard()})
		w.expect(1)
		w.plant(map[string]string{"m/config.json": `{"architectures":["BertModel"]}`})
		w.expect(1) // the weights are still, and the folder is not
		w.expect(1, "+m")
		w.plant(map[string]string{"b.gguf": llama()})
		w.expect(1)
		w.plant(map[string]string{"m/config.json": `{"architectures":["LlamaForCausalLM"]}`})
		w.expect(1, "+b")
		w.expect(1, "~m")
	})
}

func TestWatch_SubfolderCannotBeListed_ItsModelsAreKept(t *testing.T) {
	known := []tier.Model{{Name: "a", Path: "/m/sub/a.gguf", Size: 1}, {Name: "sub", Path: "/m/sub", Size: 1}, {Name: "b", Path: "/m/subway/b.gguf", Size: 1}}
	w := newWatcher("/m", known)
	for range 2 { // looks, at which nothing is there
		w.goAway()
	}
	c, _ := w.settle(nil, []Skipped{{Path: "/m/sub", Reason: "cannot be listed: input/output error", unread: true}}, nil)
	if len(c.Removed) != 1 || c.Removed[0].Name != "b" {
		t.Errorf("removed %v, want b alone", c.Removed)
	}
	if len(c.Skipped) != 1 {
		t.Errorf("reported %v, want the reason", c.Skipped)
	}
	c, _ = w.settle(nil, nil, nil)
	if len(c.Removed) != 2 {
		t.Errorf("removed %v when the subfolder is gone, want both that were in it", c.Removed)
	}
}

func TestScan_SubfolderCannotBeListed_TheRestIsFound(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{"a.gguf": llama(), "sub/b.gguf": llama()})
	sub := filepath.Join(dir, "sub")
	must(t, os.Chmod(sub, 0))
	t.Cleanup(func() { os.Chmod(sub, 0o700) })
	if _, err := os.ReadDir(sub); err == nil {
		t.Skip("needs a user that permissions bind, and not root")
	}
	models, skipped := scan(t, dir)
	if models["a"] == "" || skipped["sub"] == "" {
		t.Errorf("models %v, left out %v", models, skipped)
	}
}

func TestWatch_ContextEnds_ReturnsItsCauseAndReportsNothingMore(t *testing.T) {
	bubble(t, map[string]string{"a.gguf": llama()}, func(t *testing.T, w *watched) {
		w.plant(map[string]string{"b.gguf": llama()})
		w.expect(1)
		w.stop(errBroken)
		w.expect(5)
	})
	if err := Watch(canceled(errBroken), t.TempDir(), nil, 0, nil); !errors.Is(err, errBroken) {
		t.Error(err)
	}
}

func canceled(cause error) context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	return ctx
}

// Work that grows with the square of the folder takes a minute here;
// the bound is a hundred times what linear work takes.
func TestWatch_ManyFilesMoving_WorkIsNearLinear(t *testing.T) {
	const n = 8_000
	var known []tier.Model
	var all []found
	var skipped []Skipped
	moving := make(map[string]bool)
	for i := range n {
		path := filepath.Join("/m", fmt.Sprint("d", i), "m.gguf")
		m := tier.Model{Name: fmt.Sprint("m", i), Path: path, Size: 1}
		known = append(known, m)
		all = append(all, found{model: m, files: []file{}})
		skipped = append(skipped, Skipped{Path: filepath.Join("/gone", fmt.Sprint(i)), unread: true})
		moving[filepath.Join("/m", fmt.Sprint("e", i), "m.gguf")] = true
	}
	w := newWatcher("/m", known)
	began := time.Now()
	c, _ := w.settle(all, skipped, moving)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("settling %d models took %v", n, took)
	}
	if len(c.Skipped) != n || len(c.Added)+len(c.Changed)+len(c.Removed) > 0 {
		t.Errorf("added %d, changed %d, removed %d, skipped %d", len(c.Added), len(c.Changed), len(c.Removed), len(c.Skipped))
	}
}

// TestWatch_AnyChanges_WhatWasReportedAddsUpToWhatIsThere changes files at random and
// compares, when all is still, with a fresh Scan.
func TestWatch_AnyChanges_WhatWasReportedAddsUpToWhatIsThere(t *testing.T) {
	whole := llama()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		must(t, err)
		plant(t, dir, map[string]string{"keep.gguf": whole})
		synctest.Test(t, func(t *testing.T) {
			reported := map[string]string{"keep": filepath.Join(dir, "keep.gguf")}
			known, _, err := Scan(t.Context(), dir)
			must(t, err)
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				done <- Watch(ctx, dir, known, interval, func(c Change) {
					for _, m := range c.Removed {
						if reported[m.Name] != m.Path {
							t.Errorf("%s was removed and is not known", m.Name)
						}
						delete(reported, m.Name)
					}
					for _, m := range c.Added {
						if reported[m.Name] != "" {
							t.Errorf("%s was added twice", m.Name)
						}
						reported[m.Name] = m.Path
					}
					for _, m := range c.Changed {
						if reported[m.Name] != m.Path {
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
				// that is recreated can have the size, the inode and the time of the one before.
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
			for _, path := range reported {
				got = append(got, path)
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(want, got) {
				rt.Fatalf("reported %q, there is %q", got, want)
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
	w.Look(b.Context())
	w.Look(b.Context())
	b.ReportAllocs()
	for b.Loop() {
		if _, news := w.Look(b.Context()); news {
			b.Fatal("news in a folder that is still")
		}
	}
}

// BenchmarkWatch_LookAtChanges is a look at which every file has changed: four times
// as many cost four times as much.
func BenchmarkWatch_LookAtChanges(b *testing.B) {
	for _, models := range []int{2000, 8000} {
		b.Run(fmt.Sprintf("models=%d", models), func(b *testing.B) {
			dir := b.TempDir()
			for i := range models {
				plant(b, dir, map[string]string{fmt.Sprintf("m%05d.gguf", i): llama()})
			}
			known, _, err := Scan(b.Context(), dir)
			must(b, err)
			w := newWatcher(dir, known)
			w.Look(b.Context())
			b.ReportAllocs()
			for b.Loop() {
				w.headers, w.pending[dir] = nil, true
				for path, f := range w.models {
					f.model.Size++
					w.models[path] = f
				}
				if c, _ := w.Look(b.Context()); len(c.Changed) != models {
					b.Fatal(len(c.Changed), "of", models, "were reported")
				}
			}
		})
	}
}

// BenchmarkFolder_AgainstFind compares a scan, and a look at which nothing has changed,
// with find over the same tree: 20 000 files in 500 folders, a tenth of them models.
func BenchmarkFolder_AgainstFind(b *testing.B) {
	dir, content := b.TempDir(), llama()
	for i := range 20_000 {
		name := fmt.Sprintf("d%03d/f%05d.txt", i%500, i)
		if i%10 == 0 {
			name = fmt.Sprintf("d%03d/m%05d.gguf", i%499, i)
		}
		plant(b, dir, map[string]string{name: content})
	}
	b.Run("find", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("find", dir, "-printf", "%p %s %T@\n").Run(); err != nil {
				b.Skip(err)
			}
		}
	})
	b.Run("scan", func(b *testing.B) {
		for b.Loop() {
			if models, _, err := Scan(b.Context(), dir); err != nil || len(models) != 2000 {
				b.Fatal(len(models), err)
			}
		}
	})
	b.Run("look", func(b *testing.B) {
		w := newWatcher(dir, nil)
		w.Look(b.Context())
		w.Look(b.Context())
		for b.Loop() {
			if _, news := w.Look(b.Context()); news {
				b.Fatal("news in a folder that is still")
			}
		}
	})
}
