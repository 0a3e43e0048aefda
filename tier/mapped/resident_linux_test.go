package mapped

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/modeltier/modeltier/tier"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// After any moves, some of them cancelled, what is present is exactly what the tier
// promises, the rest of what is in memory is cached, and what is in ram is mlocked.
func TestMove_AnySequence_PresentIsWhatWasPromised(t *testing.T) {
	mod := sharded(t, "m", 3<<20+odd, 1, 1<<20)
	m := newTestMover(t, needPopulate(t), Options{})
	mayLock := m.locks.limit() >= mod.Size
	at, kept := tier.Storage, tier.Bytes(0)
	page := tier.Bytes(os.Getpagesize())
	rapid.Check(t, func(t *rapid.T) {
		for range rapid.IntRange(1, 4).Draw(t, "moves") {
			to := tier.Tier(rapid.IntRange(0, tier.Count-1).Draw(t, "to"))
			keep := tier.Bytes(rapid.Int64Range(-1, int64(mod.Size)+1).Draw(t, "keep"))
			off := rapid.IntRange(0, 10).Draw(t, "cancelled after")
			cause := errors.New("cancelled")
			ctx, cancel := context.WithCancelCause(context.Background())
			reports := 0
			err := m.Move(ctx, tier.Move{Model: mod, From: at, To: to, Keep: keep}, func(tier.Bytes) {
				if reports++; reports == off {
					cancel(cause)
				}
			})
			cancel(nil)
			switch {
			case err == nil:
				at, kept = to, min(max(keep, 0), mod.Size)
			case err != cause:
				t.Fatal(err)
			}
			want := mod.Size
			switch at {
			case tier.Storage:
				want = 0
			case tier.Swap:
				want = promised(mod, kept, page)
			}
			present, reclaimable, err := m.Resident(context.Background(), mod.Name)
			if err != nil {
				t.Fatal(err)
			}
			if present != want {
				t.Fatalf("%d bytes are present in %v, keep %d, want %d", present, at, kept, want)
			}
			rest, err := m.Cached(context.Background(), mod.Name)
			if err != nil || present+rest > mod.Size {
				t.Fatalf("%d bytes are present and %d cached in %v, keep %d, %v", present, rest, at, kept, err)
			}
			if n := tier.Bytes(rapid.Int64Range(0, int64(mod.Size)).Draw(t, "uncache")); n > 0 {
				if err := m.Uncache(context.Background(), mod.Name, n); err != nil {
					t.Fatal(err)
				}
				left, _ := m.Cached(context.Background(), mod.Name)
				if again, _, _ := m.Resident(context.Background(), mod.Name); again != present || rest-left < min(n, rest) {
					t.Fatalf("in %v, keep %d, %d bytes were to be dropped of %d, %d are left; %d are present", at, kept, n, rest, left, again)
				}
			}
			fixed := tier.Bytes(0)
			if at == tier.RAM && mayLock {
				fixed = mod.Size
			}
			if locked := m.Status().Locked; mayLock && (locked != fixed || reclaimable != present-fixed) {
				t.Fatalf("in %v %d bytes are locked and %d of %d reclaimable", at, locked, reclaimable, present)
			}
		}
	})
}

// promised is keep in whole pages of the shards, which end within a page.
func promised(m tier.Model, keep, page tier.Bytes) tier.Bytes {
	var sum, start tier.Bytes
	paths, err := findShards(m.Name, m.Path)
	if err != nil {
		panic(err)
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			panic(err)
		}
		size := tier.Bytes(info.Size())
		part := min(max(keep-start, 0), size)
		if part < size {
			part = part / page * page
		}
		sum += part
		start += size
	}
	return sum
}

// TestMain lets the test binary play other processes.
func TestMain(m *testing.M) {
	switch os.Getenv("MAPPED_TEST_ROLE") {
	case "holder":
		holder(os.Args[1])
	case "foreigner":
		foreigner(os.Args[1])
	default:
		os.Exit(m.Run())
	}
}

// role starts the test binary as another process. What it prints is read from
// out; it ends when in is closed.
func role(t *testing.T, name, path string, as *syscall.Credential) (in io.Closer, out *bufio.Reader, cmd *exec.Cmd) {
	t.Helper()
	exe := filepath.Join(filepath.Dir(path), "role") // any user may run it there
	if b, err := os.ReadFile("/proc/self/exe"); err != nil {
		t.Skip(err)
	} else {
		must(t, os.WriteFile(exe, b, 0o755))
	}
	cmd = exec.Command(exe, path)
	cmd.Env = []string{"MAPPED_TEST_ROLE=" + name}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	must(t, err)
	pipe, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return in, bufio.NewReader(pipe), cmd
}

// holder maps a file, touches all of it, and holds it until its input ends.
func holder(path string) {
	f, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	info, err := f.Stat()
	if err != nil {
		panic(err)
	}
	b, err := mapFile(f, int(info.Size()))
	if err != nil {
		panic(err)
	}
	if err := touch(b, int64(os.Getpagesize())); err != nil {
		panic(err)
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(b)
}

func TestCached_ModelGivesWay_ItsPagesStayAndAreNotPresent(t *testing.T) {
	mod := sharded(t, "m", 5<<20+odd, 1, 3<<20)
	m := newTestMover(t, needPopulate(t), Options{})
	page := tier.Bytes(os.Getpagesize())
	for _, step := range []struct {
		to   tier.Tier
		keep tier.Bytes
	}{{tier.Swap, 0}, {tier.Swap, tier.MiB}, {tier.Swap, 6*tier.MiB + 5}, {tier.Storage, 0}} {
		mustMove(t, m, mod, tier.RAM, 0)
		if n := cached(t, m, mod); n != 0 {
			t.Errorf("in ram %v are cached", n)
		}
		mustMove(t, m, mod, step.to, step.keep)
		kept := promised(mod, step.keep, page)
		present, _ := seen(t, m, mod)
		if n := cached(t, m, mod); present != kept || n != mod.Size-kept {
			t.Errorf("in %v, keep %d: %d bytes are present and %d cached of %d", step.to, step.keep, present, n, mod.Size)
		}
		if s := modelStatus(t, m, "m"); s.Cached != mod.Size-kept {
			t.Errorf("Status says that %d bytes are cached", s.Cached)
		}
		if mapped := mappedBytes(t, "mapped-test-"); mapped > kept+2*page {
			t.Errorf("%v of the files are in our page tables, with %v kept", mapped, kept)
		}
		must(t, m.Uncache(t.Context(), "m", tier.MiB))
		if n := mod.Size - kept - cached(t, m, mod); n < tier.MiB || n > 3*tier.MiB {
			t.Errorf("in %v, keep %d: %v were dropped, want 1 MiB", step.to, step.keep, n)
		}
		must(t, m.Uncache(t.Context(), "m", tier.Unlimited))
		present, _ = seen(t, m, mod)
		if n := cached(t, m, mod); present != kept || n != 0 {
			t.Errorf("in %v, keep %d: %d bytes are present and %d cached after all was dropped", step.to, step.keep, present, n)
		}
	}
	if n := len(m.Status().Models); n != 0 {
		t.Errorf("Status lists %d models without a page in memory", n)
	}
}

// mappedBytes returns how much of files with such a path our page tables hold.
func mappedBytes(t *testing.T, path string) (sum tier.Bytes) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps")
	must(t, err)
	ours := false
	for line := range strings.Lines(string(b)) {
		var kB tier.Bytes
		if n, _ := fmt.Sscanf(line, "Rss: %d kB", &kB); n == 1 && ours {
			sum += kB * tier.KiB
		} else if first, _, _ := strings.Cut(line, " "); strings.Contains(first, "-") {
			ours = strings.Contains(line, path)
		}
	}
	return sum
}

// A model in storage is mapped again to be looked at.
func TestCached_FileIsReplaced_TheNewOneIsLeftAlone(t *testing.T) {
	mod := model(t, "m", tier.MiB)
	m := newTestMover(t, needPopulate(t), Options{})
	mustMove(t, m, mod, tier.RAM, 0)
	mustMove(t, m, mod, tier.Storage, 0)
	must(t, os.WriteFile(mod.Path+".new", content(int(tier.MiB)), 0o644))
	must(t, os.Rename(mod.Path+".new", mod.Path))
	must(t, m.Uncache(t.Context(), "m", tier.Unlimited))
	if n, on := cached(t, m, mod), cachedBytes(t, mod.Path); n != 0 || on != tier.MiB {
		t.Errorf("%v are told to be cached, %v of the new file are", n, on)
	}
}

// Pages that a reader of a model in swap faults in are cached bytes.
func TestCached_ServedFromSwap_WhatIsReadIsCached(t *testing.T) {
	mod := model(t, "m", 4*tier.MiB)
	m := newTestMover(t, needPopulate(t), Options{})
	mustMove(t, m, mod, tier.Swap, tier.MiB)
	must(t, m.Uncache(t.Context(), "m", tier.Unlimited))
	sameWeights(t, m, mod)
	if present, _ := seen(t, m, mod); present != tier.MiB || cached(t, m, mod) != 3*tier.MiB {
		t.Errorf("%v are present and %v cached", present, cached(t, m, mod))
	}
	must(t, m.Uncache(t.Context(), "m", tier.Unlimited))
	if n := cached(t, m, mod); n != 0 {
		t.Errorf("%v are cached after all was dropped", n)
	}
}

func TestCached_ManyModelsInStorage_TheOldestIsForgotten(t *testing.T) {
	mod := model(t, "m", 1)
	m := newTestMover(t, needPopulate(t), Options{})
	for i := range maxUnmapped + 1 {
		mod.Name = fmt.Sprint(i)
		mustMove(t, m, mod, tier.Swap, 1)
		mustMove(t, m, mod, tier.Storage, 0)
	}
	for name, want := range map[string]tier.Bytes{"0": 0, "1": 1, mod.Name: 1} {
		mod.Name = name
		if n := cached(t, m, mod); n != want {
			t.Errorf("of model %s %d bytes are cached, want %d", name, n, want)
		}
	}
}

// A move ends an Uncache that is under way, and is not refused.
func TestUncache_AMoveComes_GoesFirst(t *testing.T) {
	mod := model(t, "m", 16*tier.MiB)
	sys := needPopulate(t)
	drop := sys.dropCached
	dropping, goOn := make(chan struct{}, 16), make(chan struct{})
	sys.dropCached = func(f *os.File, off, n int64) error {
		dropping <- struct{}{}
		<-goOn
		return drop(f, off, n)
	}
	m := newTestMover(t, sys, Options{})
	mustMove(t, m, mod, tier.RAM, 0)
	mustMove(t, m, mod, tier.Swap, 0)
	uncached := make(chan error)
	go func() { uncached <- m.Uncache(context.Background(), "m", tier.Unlimited) }()
	<-dropping
	m.mu.Lock()
	r := m.entries["m"].run
	cancel, called := r.cancel, make(chan struct{})
	off := sync.OnceFunc(func() { close(called) })
	r.cancel = func(err error) { cancel(err); off() }
	m.mu.Unlock()
	moved := make(chan error)
	go func() { moved <- m.Move(context.Background(), tier.Move{Model: mod, To: tier.RAM}, nil) }()
	<-called
	close(goOn)
	must(t, <-uncached)
	must(t, <-moved)
	if n := len(dropping); n > 1 {
		t.Errorf("%d pieces were dropped after the move came", n)
	}
	if present, _ := seen(t, m, mod); present != mod.Size {
		t.Errorf("%v are present of %v", present, mod.Size)
	}
	must(t, m.Uncache(context.Background(), "m", tier.Unlimited))
	if present, _ := seen(t, m, mod); present != mod.Size {
		t.Errorf("Uncache took %v from a model in ram", mod.Size-present)
	}
}

func TestUncache_DuringAMove_ReturnsAtOnce(t *testing.T) {
	mod := model(t, "m", tier.MiB)
	m := newTestMover(t, needPopulate(t), Options{})
	must(t, m.Move(t.Context(), tier.Move{Model: mod, To: tier.RAM}, func(tier.Bytes) {
		must(t, m.Uncache(context.Background(), "m", tier.Unlimited))
	}))
	must(t, m.Uncache(t.Context(), "unknown", tier.Unlimited))
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("cancelled")
	cancel(cause)
	if err := m.Uncache(ctx, "m", tier.Unlimited); err != cause {
		t.Errorf("Uncache = %v", err)
	}
}

func TestUncache_AnotherProcessMapsTheFile_StaysUntilItLeaves(t *testing.T) {
	for _, to := range []tier.Tier{tier.Storage, tier.Swap} {
		t.Run(to.String(), func(t *testing.T) {
			mod := model(t, "m", 8*tier.MiB)
			in, out, cmd := role(t, "holder", mod.Path, nil)
			m := newTestMover(t, needPopulate(t), Options{})
			mustMove(t, m, mod, tier.RAM, 0)
			if line, err := out.ReadString('\n'); line != "held\n" {
				t.Fatal(line, err)
			}
			mustMove(t, m, mod, to, 0)
			must(t, m.Uncache(t.Context(), "m", tier.Unlimited))
			if present, _ := seen(t, m, mod); present != 0 || cached(t, m, mod) != mod.Size {
				t.Errorf("%v are told to be present and %v cached, with %v mapped elsewhere", present, cached(t, m, mod), mod.Size)
			}
			must(t, in.Close())
			must(t, cmd.Wait())
			must(t, m.Uncache(t.Context(), "m", tier.Unlimited))
			if n := cached(t, m, mod); n != 0 {
				t.Errorf("%v are cached after it ended", n)
			}
		})
	}
}

// foreignReport is what a foreigner prints.
type foreignReport struct {
	Err              []string
	Hot, Swap, Gone  tier.Bytes
	Cached           tier.Bytes
	Status           ModelStatus
	WhatMincoreClaim tier.Bytes
}

// foreigner loads and demotes a file of another user.
func foreigner(path string) {
	var r foreignReport
	note := func(err error) {
		if err != nil {
			r.Err = append(r.Err, err.Error())
		}
	}
	m, err := New(Options{})
	note(err)
	info, err := os.Stat(path)
	note(err)
	mod := tier.Model{Name: "m", Path: path, Size: tier.Bytes(info.Size())}
	step := func(to tier.Tier) (present tier.Bytes) {
		note(m.Move(context.Background(), tier.Move{Model: mod, To: to}, nil))
		present, _, err := m.Resident(context.Background(), "m")
		note(err)
		return present
	}
	r.Hot = step(tier.RAM)
	r.Status = m.Status().Models[0]
	r.Swap = step(tier.Swap)
	s := m.entries["m"].weights.shards[0]
	vec := make([]byte, s.pages())
	note(m.sys.mincore(s.data, vec))
	r.WhatMincoreClaim = tier.Bytes(bytes.Count(vec, []byte{1})) * tier.Bytes(m.sys.page)
	r.Gone = step(tier.Storage)
	r.Cached, err = m.Cached(context.Background(), "m")
	note(err)
	note(m.Uncache(context.Background(), "m", 1)) // all, as none is seen
	note(m.Close())
	_ = json.NewEncoder(os.Stdout).Encode(r)
}

func TestResident_FilesOfAnotherUser_NeverBelievesMincore(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	mod := model(t, "m", 8*tier.MiB)
	must(t, os.Chmod(filepath.Dir(mod.Path), 0o755))
	must(t, os.Chmod(mod.Path, 0o644))
	_, out, cmd := role(t, "foreigner", mod.Path, &syscall.Credential{Uid: 65534, Gid: 65534})
	var r foreignReport
	must(t, json.NewDecoder(out).Decode(&r))
	must(t, cmd.Wait())
	t.Logf("%+v", r)
	if r.Err != nil {
		t.Errorf("errors: %q", r.Err)
	}
	if r.Hot != mod.Size || r.Swap != 0 || r.Gone != 0 || r.Cached != 0 {
		t.Errorf("present in ram %d, in swap %d, in storage %d, cached %d", r.Hot, r.Swap, r.Gone, r.Cached)
	}
	if r.Status.Seen != "pagemap" || !strings.Contains(strings.Join(r.Status.Notes, " "), "neither owns") {
		t.Errorf("Status does not tell: %+v", r.Status)
	}
	if r.WhatMincoreClaim != mod.Size {
		t.Errorf("mincore told the truth here (%d bytes): the test shows nothing", r.WhatMincoreClaim)
	}
	if n := cachedBytes(t, mod.Path); n != 0 {
		t.Errorf("%d bytes are still cached, seen as the owner", n)
	}
}

func TestResident_Tmpfs_FreesNothingAndSaysSo(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "mapped-test-")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "m.gguf")
	must(t, os.WriteFile(path, content(4<<20), 0o644))
	m := newTestMover(t, needPopulate(t), Options{Lock: tier.None})
	mod := tier.Model{Name: "m", Path: path, Size: 4 * tier.MiB}
	for _, to := range []tier.Tier{tier.RAM, tier.Swap, tier.Storage} {
		mustMove(t, m, mod, to, 0)
		if present, reclaimable := seen(t, m, mod); present != mod.Size || reclaimable != 0 {
			t.Errorf("in %v %d bytes are present and %d reclaimable, want all and none", to, present, reclaimable)
		}
		must(t, m.Uncache(t.Context(), "m", tier.Unlimited))
		if n := cached(t, m, mod); n != 0 {
			t.Errorf("in %v %d bytes are cached", to, n)
		}
	}
	mustMove(t, m, mod, tier.RAM, 0)
	sameWeights(t, m, mod)
	if s := modelStatus(t, m, "m"); s.Filesystem != "tmpfs" || !strings.Contains(strings.Join(s.Notes, " "), "memory already") {
		t.Errorf("Status does not tell: %+v", s)
	}
}

func TestUncache_Overlay_DropsOnTheLayerBelow(t *testing.T) {
	dir := onDisk(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		must(t, os.Mkdir(at(d), 0o755))
	}
	writeFile(t, at("lower/m.gguf"), 8<<20)
	opts := "lowerdir=" + at("lower") + ",upperdir=" + at("upper") + ",workdir=" + at("work")
	if err := unix.Mount("overlay", at("merged"), "overlay", 0, opts); err != nil {
		t.Skip("cannot mount an overlay: ", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(at("merged"), 0)) })
	m := newTestMover(t, needPopulate(t), Options{})
	t.Cleanup(func() { m.Close() }) // before the unmount
	mod := tier.Model{Name: "m", Path: at("merged/m.gguf"), Size: 8 * tier.MiB}
	mustMove(t, m, mod, tier.RAM, 0)
	if n := cachedBytes(t, at("lower/m.gguf")); n != mod.Size {
		t.Errorf("%d bytes of the layer below are cached", n)
	}
	if n, _ := seen(t, m, mod); n != mod.Size {
		t.Errorf("in ram, %d bytes are told to be present", n)
	}
	mustMove(t, m, mod, tier.Swap, 2*tier.MiB)
	if n, _ := seen(t, m, mod); n != 2*tier.MiB || cached(t, m, mod) != 6*tier.MiB {
		t.Errorf("in swap, %d bytes are told to be present and %d cached", n, cached(t, m, mod))
	}
	must(t, m.Uncache(t.Context(), "m", tier.Unlimited))
	if n := cachedBytes(t, at("lower/m.gguf")); n != 2*tier.MiB {
		t.Errorf("%d bytes of the layer below are cached, want 2 MiB", n)
	}
	if s := modelStatus(t, m, "m"); s.Filesystem != "overlay" || len(s.Notes) == 0 {
		t.Errorf("Status does not tell: %+v", s)
	}
	mustMove(t, m, mod, tier.Storage, 0)
	must(t, m.Uncache(t.Context(), "m", tier.Unlimited))
	if n := cachedBytes(t, at("lower/m.gguf")); n != 0 {
		t.Errorf("%d bytes of the layer below are cached", n)
	}
}

// A file that was written just now is dirty: its pages can be dropped only
// when they are on the device.
func TestUncache_FileJustWritten_GoesAllTheSame(t *testing.T) {
	path := filepath.Join(onDisk(t), "m.gguf")
	must(t, os.WriteFile(path, content(16<<20), 0o644)) // no fsync
	mod := tier.Model{Name: "m", Path: path, Size: 16 * tier.MiB}
	m := newTestMover(t, needPopulate(t), Options{})
	mustMove(t, m, mod, tier.RAM, 0)
	mustMove(t, m, mod, tier.Swap, 5*tier.MiB)
	must(t, m.Uncache(t.Context(), "m", tier.Unlimited))
	if present, _ := seen(t, m, mod); present != 5*tier.MiB || cached(t, m, mod) != 0 {
		t.Errorf("%d bytes are present, want 5 MiB, and %d cached", present, cached(t, m, mod))
	}
	sameWeights(t, m, mod)
}

// Pages are dropped in steps, and folios that lie across a step go too.
func TestUncache_KeptPartOfALargeFile_IsExact(t *testing.T) {
	mod := model(t, "m", 150*tier.MiB+odd)
	m := newTestMover(t, needPopulate(t), Options{})
	keep := tier.MiB + 3*tier.Bytes(m.sys.page)
	mustMove(t, m, mod, tier.RAM, 0)
	mustMove(t, m, mod, tier.Swap, keep)
	must(t, m.Uncache(t.Context(), "m", 50*tier.MiB))
	if gone := mod.Size - keep - cached(t, m, mod); gone < 50*tier.MiB || gone > 54*tier.MiB {
		t.Errorf("%v were dropped, want 50 MiB", gone)
	}
	must(t, m.Uncache(t.Context(), "m", tier.Unlimited))
	if present, _ := seen(t, m, mod); present != keep || cached(t, m, mod) != 0 {
		t.Errorf("%d bytes are present, want %d, and %d cached", present, keep, cached(t, m, mod))
	}
	sameWeights(t, m, mod)
}

func TestResident_NothingTells_IsAnError(t *testing.T) {
	mod := model(t, "m", tier.MiB)
	sys := newSystem()
	sys.mincore, sys.pagemap, sys.cachestat = nil, nil, nil
	m := newTestMover(t, sys, Options{})
	mustMove(t, m, mod, tier.RAM, 0)
	_, _, err := m.Resident(t.Context(), "m")
	if !errors.Is(err, tier.ErrInvalid) || len(tier.Suggestions(err)) == 0 {
		t.Errorf("Resident = %v", err)
	}
	if s := modelStatus(t, m, "m"); s.Seen != "nothing" || len(s.Notes) == 0 {
		t.Errorf("Status does not tell: %+v", s)
	}
}

// held is what the process holds.
type held struct{ files, maps int }

func holdings(t *testing.T) held {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	maps, err := os.ReadFile("/proc/self/maps")
	must(t, err)
	return held{len(fds), bytes.Count(maps, []byte("mapped-test-"))}
}

// vmLocked returns how much memory of the process is locked.
func vmLocked(t *testing.T) tier.Bytes {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		var kB tier.Bytes
		if n, _ := fmt.Sscanf(line, "VmLck: %d kB", &kB); n == 1 {
			return kB * tier.KiB
		}
	}
	t.Skip("no VmLck in /proc/self/status")
	return 0
}

func TestMover_WhateverHappens_HoldsNothingAfterwards(t *testing.T) {
	a, b := model(t, "a", 4*tier.MiB), sharded(t, "b", 1<<20, 1<<20)
	bad := b
	bad.Size = 1
	before := holdings(t)
	m, err := New(Options{Lock: tier.None})
	must(t, err)
	mustMove(t, m, a, tier.RAM, 0)
	ctx, cancel := context.WithCancel(t.Context())
	if err := m.Move(ctx, tier.Move{Model: b, To: tier.RAM}, func(tier.Bytes) { cancel() }); err == nil {
		t.Log("too fast to be cancelled")
		mustMove(t, m, b, tier.Storage, 0)
	}
	if err := m.Move(t.Context(), tier.Move{Model: bad, To: tier.RAM}, nil); err == nil {
		t.Error("a bad model was loaded")
	}
	mustMove(t, m, b, tier.Swap, 0)
	if now := holdings(t); now.files != before.files+3 || now.maps != before.maps+3 {
		t.Errorf("holds %+v for 3 files, held %+v", now, before)
	}
	mustMove(t, m, b, tier.Storage, 0)
	if now := holdings(t); now.files != before.files+1 || now.maps != before.maps+1 {
		t.Errorf("holds %+v for 1 file, held %+v", now, before)
	}
	must(t, m.Close())
	if now := holdings(t); now != before {
		t.Errorf("holds %+v after Close, held %+v", now, before)
	}
}
