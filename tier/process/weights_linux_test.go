package process

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// Both ways to count cached bytes, on a file that is partly cached.
func TestCached_MincoreAndCachestatAgree(t *testing.T) {
	path := weightsOf(t, oddSize)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM) // no read-ahead
	page := int64(os.Getpagesize())
	b := make([]byte, 2*page)
	for _, off := range []int64{0, 10 * page, oddSize - 100} {
		f.ReadAt(b, off)
	}
	for _, c := range []struct{ off, n, want int64 }{
		{0, oddSize, 5 * page}, {0, page, page}, {2 * page, 8 * page, 0}, {10 * page, 1, 1}, {0, 0, 0},
		{oddSize - oddSize%page, oddSize % page, oddSize % page},
	} {
		if got, err := mincore(f, c.off, c.n); got != c.want || err != nil {
			t.Errorf("mincore of %d bytes at %d: %d, %v; want %d", c.n, c.off, got, err, c.want)
		}
		if got, err := cachestat(f, c.off, c.n); got != c.want || err != nil {
			t.Errorf("cachestat of %d bytes at %d: %d, %v; want %d", c.n, c.off, got, err, c.want)
		}
	}
}

// On an overlay the pages belong to the file below.
func TestCached_Overlay_SeesTheLayerBelow(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(at(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := weightsOf(t, oddSize)
	opts := "lowerdir=" + filepath.Dir(path) + ",upperdir=" + at("upper") + ",workdir=" + at("work")
	if err := unix.Mount("overlay", at("merged"), "overlay", 0, opts); err != nil {
		t.Skip("cannot mount an overlay: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at("merged"), 0); err != nil {
			t.Error(err)
		}
	})
	files := []weightFile{{filepath.Join(at("merged"), filepath.Base(path)), oddSize}}
	sys := newSystem()
	if n, sure := sys.cachedOf(files); n != 0 || !sure {
		t.Fatalf("%v are cached before it was read, %v", n, sure)
	}
	// The kernel may drop a page at any time, and keep one for a moment.
	eventually(t, "all that was read is seen", func() bool {
		if _, err := os.ReadFile(files[0].path); err != nil {
			t.Fatal(err)
		}
		n, sure := sys.cachedOf(files)
		return n == oddSize && sure
	})
	eventually(t, "nothing is seen of what was dropped", func() bool {
		dropAll(sys, files)
		n, sure := sys.cachedOf(files)
		return n == 0 && sure
	})
}

// A kernel before 6.5, on which the rest works as well.
func TestMove_WithoutCachestat_SeesTheSame(t *testing.T) {
	sys := newSystem()
	sys.cached = mincore
	r := newRig(t, sys, Options{Engine: fake{Touch: true}.engine()})
	m := modelOf(t, "m", oddSize)
	r.move(m, tier.Storage, tier.RAM)
	if e := r.engine("m"); e.Cached != m.Size {
		t.Errorf("in ram %v are cached", e.Cached)
	}
	r.move(m, tier.RAM, tier.Swap)
	if n := r.cached(m); n != m.Size {
		t.Errorf("in swap %v are cached", n)
	}
	r.uncache(m)
	if e := r.engine("m"); e.Cached > m.Size/4 { // a page may be on a list of a processor's own
		t.Errorf("in swap %v are cached", e.Cached)
	}
}

// The kernel tells nothing of files of another user, and takes no page of them from an
// engine; what a cgroup would reclaim is tested by itself.
func TestResident_FilesOfAnother_OnlyThePageTablesCount(t *testing.T) {
	needsPageOut(t)
	sys := withoutCgroups()
	sys.owned = func(*os.File) bool { return false }
	r := newRig(t, sys, Options{Engine: fake{Touch: true}.engine()})
	m := modelOf(t, "m", 32<<20)
	r.move(m, tier.Storage, tier.RAM)
	present, reclaimable, err := r.Resident(t.Context(), "m")
	if present != m.Size || reclaimable == 0 || err != nil {
		t.Errorf("touched, %v are present, %v reclaimable, %v", present, reclaimable, err)
	}
	r.move(m, tier.RAM, tier.Swap)
	r.uncache(m)
	if e := r.engine("m"); e.State != Stopped || e.Cached != 0 {
		t.Errorf("it is %s (%s), with %v in its tables", e.State, e.Note, e.Cached)
	}
}

// A file with its parts, and a folder of files, are all of them paged.
func TestWeights_PartsAndFolders(t *testing.T) {
	dir := t.TempDir()
	write := func(names ...string) {
		for _, n := range names {
			if err := os.WriteFile(filepath.Join(dir, n), make([]byte, 10), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	of := func(path string, parts ...string) string {
		for i := range parts {
			parts[i] = filepath.Join(dir, parts[i])
		}
		files, err := weightFiles(&tier.Model{Name: "m", Path: path, Parts: parts})
		if err != nil {
			return err.Error()
		}
		var names []string
		for _, f := range files {
			names = append(names, filepath.Base(f.path))
		}
		return strings.Join(names, " ")
	}
	write("config.json", "b.bin")
	if got := of(dir); got != "b.bin config.json" && got != "config.json b.bin" {
		t.Errorf("of a folder without known weights: %s", got)
	}
	write("w-00001-of-00003.gguf", "w-00002-of-00003.gguf", "w-00003-of-00003.gguf", "other.gguf")
	if got := of(filepath.Join(dir, "w-00001-of-00003.gguf"), "w-00003-of-00003.gguf", "w-00001-of-00003.gguf", "w-00002-of-00003.gguf"); got != "w-00001-of-00003.gguf w-00003-of-00003.gguf w-00002-of-00003.gguf" {
		t.Errorf("of a shard and its parts: %s", got)
	}
	if got := of(dir, "w-00003-of-00003.gguf", "other.gguf"); got != "w-00003-of-00003.gguf other.gguf" {
		t.Errorf("of a folder with parts: %s", got)
	}
	if got := of(dir); strings.Contains(got, "config.json") || strings.Count(got, ".gguf") != 4 {
		t.Errorf("of a folder with weights: %s", got)
	}
	os.Symlink(filepath.Join(dir, "other.gguf"), filepath.Join(dir, "link"))
	if got := of(filepath.Join(dir, "link")); got != "other.gguf" {
		t.Errorf("of a link: %s", got)
	}
	if got := of("hub/name"); got != "" {
		t.Errorf("of a name in a hub: %s", got)
	}
	if got := of(filepath.Join(dir, "missing")); !strings.Contains(got, "must be readable") {
		t.Errorf("of what is missing: %s", got)
	}
}

func TestRead_ManyFilesAndPartsCached_AllIsCached(t *testing.T) {
	m, err := New(Options{Engine: fake{}.engine()})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	files := filesAt([]string{weightsOf(t, 70<<20), weightsOf(t, 3), weightsOf(t, 0), weightsOf(t, 90<<20+7)})
	if n, sure := m.sys.cachedOf(files); n != 0 || !sure {
		t.Fatalf("before, %v are cached, %v", n, sure)
	}
	f, err := os.Open(files[0].path)
	if err != nil {
		t.Fatal(err)
	}
	f.ReadAt(make([]byte, 20<<20), 10<<20)
	f.Close()
	var told int64
	told64 := make(chan int64, 1024)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range told64 {
			told += n
		}
	}()
	err = m.read(t.Context(), files, func(n int64) { told64 <- n })
	close(told64)
	<-done
	// The kernel may take back a few pages at any time, and does under pressure.
	if n, _ := m.sys.cachedOf(files); err != nil || n < sizeOf(files)*99/100 || told != int64(sizeOf(files)) {
		t.Errorf("after, %v of %v are cached, %d were reported, %v", n, sizeOf(files), told, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dropAll(m.sys, files)
	if err := m.read(ctx, files, func(int64) {}); err == nil {
		t.Error("a refill that was cancelled says that it is done")
	}
}
