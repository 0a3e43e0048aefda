package modeltier_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/safety"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/mapped"
)

// cageModels tells a child where the model files are, cageTime for how long.
const (
	cageModels = "MODELTIER_TEST_MODELS"
	cageTime   = "MODELTIER_TEST_TIME"
)

// TestManager_SevenGBModelOn8GBBoard_ServedFromSwapNeverKilled takes a model of 7
// GB through every operation in a cgroup of 7.4 GiB, which is what an Orin Nano has.
func TestManager_SevenGBModelOn8GBBoard_ServedFromSwapNeverKilled(t *testing.T) {
	if os.Getenv("MODELTIER_LONG") == "" {
		t.Skip("takes minutes and all memory there is: MODELTIER_LONG=1 runs it")
	}
	leavesNothing(t)
	const limit = 74 * tier.GiB / 10
	c := newCage(t, limit)
	path := filepath.Join(t.TempDir(), "big")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(7_000_000_000); err != nil { // a sparse file: it takes no disk
		t.Skipf("no sparse files here: %v", err)
	}
	defer unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	c.wait(c.start("TestBigModelChild", cageModels+"="+path))
	c.check(limit)
}

// TestBigModelChild is no test: it is the process in the cgroup.
func TestBigModelChild(t *testing.T) {
	caged(t)
	mover, err := mapped.New(mapped.Options{}) // the default one, at hand for its Bytes
	if err != nil {
		t.Fatal(err)
	}
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "big", Path: os.Getenv(cageModels), Capabilities: []string{"text-generation"}}},
		Mover:  mover,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	serve := func() {
		t.Helper()
		l, err := m.Acquire(t.Context(), modeltier.Request{Model: "big"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Release()
		if l.Tier() != tier.Swap {
			t.Errorf("served from %v, want swap", l.Tier())
		}
		parts, err := mover.Bytes("big")
		if err != nil {
			t.Fatal(err)
		}
		page := make([]byte, os.Getpagesize())
		for range 2000 {
			at := rand.IntN(len(parts[0])-len(page)) &^ (len(page) - 1)
			if copy(page, parts[0][at:]); page[0] != 0 {
				t.Fatalf("at %d there is %d", at, page[0])
			}
		}
	}
	serve()
	serve()
	if j, err := m.MoveTier(t.Context(), "big", tier.RAM); !errors.Is(err, tier.ErrTooLarge) && !errors.Is(err, tier.ErrNoCapacity) {
		t.Errorf("to ram: %v, %v; want a refusal", j, err)
	}
	for _, to := range []tier.Tier{tier.Swap, tier.Storage, tier.Swap} {
		if err := order(t)(m.MoveTier(t.Context(), "big", to)).Wait(t.Context()); err != nil {
			t.Errorf("to %v: %v", to, err)
		}
	}
	// A digest reads the file from its start, beside the mapping.
	r, err := mover.Weights("big")
	if err != nil {
		t.Fatal(err)
	}
	chunk, zero := make([]byte, 4<<20), make([]byte, 4<<20)
	for at := int64(0); at < int64(2*tier.GiB); at += int64(len(chunk)) {
		if n, err := r.ReadAt(chunk, at); err != nil || string(chunk[:n]) != string(zero) {
			t.Fatalf("at %d: %d bytes, %v", at, n, err)
		}
	}
	serve()
	if _, err := m.Optimize(t.Context()); err != nil {
		t.Error(err)
	}
	if s := m.Status(); s.RAM.Peak > s.Limits.RAM || s.Swap.Peak > s.Limits.Swap || s.Memory.Total > 74*tier.GiB/10 {
		t.Errorf("at most %v of %v, %v of %v, on a machine of %v", s.RAM.Peak, s.Limits.RAM, s.Swap.Peak, s.Limits.Swap, s.Memory.Total)
	}
	removed, err := m.Remove(t.Context(), "big")
	for errors.Is(err, modeltier.ErrInUse) && t.Context().Err() == nil { // what Optimize began is under way
		time.Sleep(10 * time.Millisecond)
		removed, err = m.Remove(t.Context(), "big")
	}
	if err := order(t)(removed, err).Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if s := m.Status(); s.RAM.Used != 0 || s.Swap.Used != 0 || len(s.Models) != 0 {
		t.Errorf("after Remove: %+v %+v %+v", s.RAM, s.Swap, s.Models)
	}
}

// The scaled machine has 600 MiB for a server of six models of 200 MiB and for the
// other process.
const (
	scaledMachine = 600 * tier.MiB
	scaledModel   = 200 * tier.MiB
	scaledModels  = 6
)

var scaledLimits = tier.Limits{RAM: 300 * tier.MiB, Swap: 1000 * tier.MiB, Reserved: 50 * tier.MiB, MaxModel: 400 * tier.MiB}

// mark returns the word written at both ends of a page of a model's file.
func mark(model, page int) uint64 { return rand.NewPCG(uint64(model), uint64(page)).Uint64() }

// TestManager_ModelsTwiceTheMemory_64Clients_NoKillNoWrongAnswer asks for all
// models at once, from 64 clients, while another process in the same cgroup
// takes memory and gives it back, for a minute and a half.
func TestManager_ModelsTwiceTheMemory_64Clients_NoKillNoWrongAnswer(t *testing.T) {
	if os.Getenv("MODELTIER_LONG") == "" {
		t.Skip("takes minutes and all memory there is: MODELTIER_LONG=1 runs it")
	}
	leavesNothing(t)
	c := newCage(t, scaledMachine)
	dir := t.TempDir()
	page := make([]byte, os.Getpagesize())
	for i := range scaledModels {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		buffer := make([]byte, 0, 4<<20)
		for p := range int(scaledModel) / len(page) {
			binary.NativeEndian.PutUint64(page, mark(i, p))
			binary.NativeEndian.PutUint64(page[len(page)-8:], mark(i, p))
			if buffer = append(buffer, page...); len(buffer) == cap(buffer) {
				if _, err := f.Write(buffer); err != nil {
					t.Fatal(err)
				}
				buffer = buffer[:0]
			}
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		// What is cached for this process is not charged to the group that reads it.
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
	}
	const during = 90 * time.Second
	hog := c.start("TestHogChild", cageTime+"="+during.String())
	server := c.start("TestServerChild", cageTime+"="+during.String(), cageModels+"="+dir)
	c.wait(server)
	c.wait(hog)
	c.check(scaledMachine)
}

func cagedFor(t *testing.T) context.Context {
	t.Helper()
	caged(t)
	d, err := time.ParseDuration(os.Getenv(cageTime))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestHogChild is no test: it is the process beside the server that allocates and
// frees memory at the pace of ordinary programs.
func TestHogChild(t *testing.T) {
	ctx := cagedFor(t)
	const step = 10 << 20
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	var held [][]byte
	grown, most := 0, 0
	for ctx.Err() == nil {
		want := rand.IntN(13) // to this many steps, and stay for a while
		for stay := 0; stay < 10 && ctx.Err() == nil; {
			switch {
			case len(held) < want:
				b, err := unix.Mmap(-1, 0, step, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
				if err != nil {
					t.Fatal(err)
				}
				held = append(held, b)
				grown, most = grown+1, max(most, len(held))
			case len(held) > want:
				if err := unix.Munmap(held[len(held)-1]); err != nil {
					t.Fatal(err)
				}
				held = held[:len(held)-1]
			default:
				stay++
			}
			select {
			case <-ctx.Done():
			case <-pace.C:
			}
		}
	}
	t.Logf("took %v in all, %v at most at once", tier.Bytes(grown*step), tier.Bytes(most*step))
}

// TestServerChild is no test: it is the server in the cgroup.
func TestServerChild(t *testing.T) {
	ctx := cagedFor(t)
	mover, err := mapped.New(mapped.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := modeltier.Config{Limits: scaledLimits, Mover: mover, MaxWait: 10 * time.Second}
	for i := range scaledModels {
		cfg.Models = append(cfg.Models, tier.Model{Name: fmt.Sprint(i), Path: filepath.Join(os.Getenv(cageModels), fmt.Sprint(i)), Capabilities: []string{"text-generation"}})
	}
	m, err := modeltier.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var (
		clients sync.WaitGroup
		served  [scaledModels][tier.Count]atomic.Int64
		refused sync.Map // counts by code
	)
	for range 64 {
		clients.Go(func() {
			for ctx.Err() == nil {
				i := rand.IntN(scaledModels)
				l, err := m.Acquire(ctx, modeltier.Request{Model: fmt.Sprint(i)})
				if err != nil {
					n, _ := refused.LoadOrStore(tier.Code(err), new(atomic.Int64))
					n.(*atomic.Int64).Add(1)
					if tier.Code(err) == "internal" {
						t.Errorf("an error without a code: %v", err)
					}
					continue
				}
				if err := probeWeights(mover, i); err != nil {
					t.Error(err)
				}
				served[i][l.Tier()].Add(1)
				l.Release()
			}
		})
	}
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	looks, locked := 0, tier.Bytes(0)
	for ctx.Err() == nil {
		<-look.C
		s := m.Status()
		if s.RAM.Used > s.Limits.RAM || s.Swap.Used > s.Limits.Swap || s.RAM.Peak > s.Limits.RAM || s.Swap.Peak > s.Limits.Swap {
			t.Errorf("beyond the limits: %+v %+v", s.RAM, s.Swap)
		}
		locked = max(locked, lockedBytes(t))
		looks++
	}
	clients.Wait()
	if locked > scaledLimits.RAM {
		t.Errorf("the kernel counts %v as locked, the ram limit is %v", locked, scaledLimits.RAM)
	}
	answers := int64(0)
	for i := range served {
		ram, swap := served[i][tier.RAM].Load(), served[i][tier.Swap].Load()
		t.Logf("model %d: %d answers from ram, %d from swap", i, ram, swap)
		if answers += ram + swap; ram+swap == 0 {
			t.Errorf("model %d was never served", i)
		}
	}
	if answers == 0 {
		t.Error("no request was served")
	}
	refused.Range(func(code, n any) bool {
		t.Logf("refused as %v: %d", code, n.(*atomic.Int64).Load())
		return true
	})
	s := m.Status()
	t.Logf("%d looks, at most %v charged in ram and %v locked, moves %v, %d evictions", looks, s.RAM.Peak, locked, s.Moved, s.Evictions)
	if err := m.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// probeWeights reads part of a leased model sequentially, as engines do, and compares
// it with what was written.
func probeWeights(mover *mapped.Mover, model int) error {
	parts, err := mover.Bytes(fmt.Sprint(model))
	if err != nil {
		return err
	}
	size := os.Getpagesize()
	const pages = 16
	from := rand.IntN(len(parts[0])/size - pages)
	for p := from; p < from+pages; p++ {
		page := parts[0][p*size:][:size]
		if head, tail := binary.NativeEndian.Uint64(page), binary.NativeEndian.Uint64(page[size-8:]); head != mark(model, p) || tail != head {
			return fmt.Errorf("page %d of model %d: %x and %x, want %x", p, model, head, tail, mark(model, p))
		}
	}
	return nil
}

// lockedBytes returns how many bytes this process has locked, by the kernel.
func lockedBytes(t *testing.T) tier.Bytes {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmLck:")
	var kb int64
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatal(err)
	}
	return tier.Bytes(kb) * tier.KiB
}

// oneAtATime is a container that has room for one of two models: the pages of the
// one that gave way are still in it when the other is loaded.
const (
	oneAtATime  = 288 * tier.MiB
	singleModel = 160 * tier.MiB
)

func TestManager_OneModelAtATime_CachedPagesAreNoKillAndNoRefusal(t *testing.T) {
	leavesNothing(t)
	c := newCage(t, oneAtATime)
	dir := t.TempDir()
	for i := range 2 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		chunk := make([]byte, 4<<20)
		rand.NewChaCha8([32]byte{byte(i)}).Read(chunk)
		for range singleModel / tier.Bytes(len(chunk)) {
			if _, err := f.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
	}
	c.wait(c.start("TestOneAtATimeChild", cageModels+"="+dir))
	c.check(oneAtATime)
}

// TestOneAtATimeChild is no test: it is the server in the cgroup.
func TestOneAtATimeChild(t *testing.T) {
	caged(t)
	mover, err := mapped.New(mapped.Options{})
	if err != nil {
		t.Fatal(err)
	}
	probe := safety.NewProbe()
	m, err := modeltier.New(modeltier.Config{
		Mover: mover,
		Probe: tier.MemoryProbeFunc(func(ctx context.Context) (tier.Memory, error) {
			seen, err := probe.Memory(ctx)
			seen.Pressure = tier.Pressure{} // other processes cause it, too
			return seen, err
		}),
		Limits: tier.Limits{RAM: tier.GiB, Swap: tier.GiB, Reserved: 32 * tier.MiB, MaxModel: tier.GiB},
		Models: []tier.Model{
			{Name: "0", Path: filepath.Join(os.Getenv(cageModels), "0"), Capabilities: []string{"text-generation"}},
			{Name: "1", Path: filepath.Join(os.Getenv(cageModels), "1"), Capabilities: []string{"text-generation"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	cached := 0 // changes after which pages of a model that gave way were left
	for i := range 20 {
		name := fmt.Sprint(i % 2)
		l, err := m.Acquire(t.Context(), modeltier.Request{Model: name})
		if err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
		parts, err := mover.Bytes(name)
		if err != nil {
			t.Fatal(err)
		}
		touched := 0
		for at := 0; at < len(parts[0]); at += os.Getpagesize() { // engines read all weights
			touched += int(parts[0][at])
		}
		if touched == 0 {
			t.Fatal("the weights are empty")
		}
		l.Release()
		s := m.Status()
		if s.Cached > 0 {
			cached++
		}
		if s.RAM.Used > oneAtATime {
			t.Errorf("change %d: %v are charged in a container of %v", i, s.RAM.Used, oneAtATime)
		}
	}
	if cached == 0 {
		t.Errorf("no page of a model that gave way was kept: %+v", m.Status().Models)
	}
	t.Logf("after %d of 20 changes pages of the other model were cached; moves %v", cached, m.Status().Moved)
}

// cageProcs names the file by which a child enters its cgroup.
const cageProcs = "MODELTIER_TEST_CGROUP"

// cage is a memory cgroup for the children of a test.
type cage struct {
	t       *testing.T
	dir     string
	unified bool
}

// newCage makes a memory cgroup with a limit beside this process, or skips.
func newCage(t *testing.T, limit tier.Bytes) *cage {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a memory cgroup takes root")
	}
	parent, unified, err := memoryCgroup()
	if err != nil {
		t.Skip(err)
	}
	c := &cage{t: t, unified: unified, dir: filepath.Join(parent, fmt.Sprintf("modeltier-test-%d", os.Getpid()))}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Skipf("a cgroup may not be made: %v", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(c.dir); err != nil {
			t.Errorf("the cgroup stays: %v", err)
		}
	})
	name := "memory.limit_in_bytes"
	if unified {
		name = "memory.max"
	}
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(strconv.FormatInt(int64(limit), 10)), 0); err != nil {
		t.Skipf("a limit may not be set: %v", err)
	}
	return c
}

// memoryCgroup finds a group with the memory controller in which groups can be
// created: with version 1 that of this process; with version 2, which allows no
// groups below one with processes, the root.
func memoryCgroup() (dir string, unified bool, err error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", false, err
	}
	path := ""
	for line := range strings.Lines(string(own)) {
		if part := strings.SplitN(strings.TrimSpace(line), ":", 3); len(part) == 3 && part[1] == "memory" {
			path = part[2]
		}
	}
	for line := range strings.Lines(string(mounts)) {
		at, kind, ok := strings.Cut(line, " - ")
		fields, types := strings.Fields(at), strings.Fields(kind)
		if !ok || len(fields) < 5 || len(types) < 3 {
			continue
		}
		switch point := fields[4]; {
		case types[0] == "cgroup" && strings.Contains(","+types[2]+",", ",memory,"):
			if dir := filepath.Join(point, path); path != "" && exists(dir) {
				return dir, false, nil
			}
			return point, false, nil
		case types[0] == "cgroup2":
			down, err := os.ReadFile(filepath.Join(point, "cgroup.subtree_control"))
			if err == nil && strings.Contains(string(down), "memory") {
				return point, true, nil
			}
		}
	}
	return "", false, fmt.Errorf("there is no memory controller to make a group with")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// start runs one test of this binary in a child process in the cage. The test's
// cleanup ends it at the latest.
func (c *cage) start(test string, env ...string) *exec.Cmd {
	c.t.Helper()
	child := exec.CommandContext(c.t.Context(), os.Args[0], "-test.v", "-test.run=^"+test+"$")
	child.Env = append(append(os.Environ(), cageProcs+"="+filepath.Join(c.dir, "cgroup.procs")), env...)
	child.Stdout = new(strings.Builder)
	child.Stderr = child.Stdout
	if err := child.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { // if the test has not waited for it
		child.Process.Kill()
		child.Wait()
	})
	return child
}

// wait waits for a child that has to succeed, and shows what it said.
func (c *cage) wait(child *exec.Cmd) {
	c.t.Helper()
	err := child.Wait()
	said := child.Stdout.(fmt.Stringer).String()
	if err != nil || !strings.Contains(said, "\n--- PASS") {
		c.t.Errorf("the child ended with %v:\n%s", err, said)
		return
	}
	c.t.Logf("the child:\n%s", said)
}

// figure returns a number from a file of the group; key is "" if the file holds
// nothing else.
func (c *cage) figure(file, key string) int64 {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, file))
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 0 && (key == "" || f[0] == key) {
			n, err := strconv.ParseInt(f[len(f)-1], 10, 64)
			if err != nil {
				c.t.Fatalf("%s: %v", file, err)
			}
			return n
		}
	}
	c.t.Fatalf("%s: no %s in %q", file, key, text)
	return 0
}

// check fails the test on an OOM kill or if the group used more than limit. The
// kernel may exceed it by a few pages for which it cannot wait.
func (c *cage) check(limit tier.Bytes) {
	c.t.Helper()
	killed, peak, hits := int64(0), tier.Bytes(0), int64(0)
	if c.unified {
		killed, hits = c.figure("memory.events", "oom_kill"), c.figure("memory.events", "max")
		if exists(filepath.Join(c.dir, "memory.peak")) {
			peak = tier.Bytes(c.figure("memory.peak", ""))
		}
	} else {
		killed, hits = c.figure("memory.oom_control", "oom_kill"), c.figure("memory.failcnt", "")
		peak = tier.Bytes(c.figure("memory.max_usage_in_bytes", ""))
	}
	c.t.Logf("in the cgroup of %v: %d OOM kills, at most %v used, page cache dropped at the limit %d times", limit, killed, peak, hits)
	if killed != 0 || peak > limit+tier.MiB {
		c.t.Errorf("%d OOM kills, at most %v of %v used", killed, peak, limit)
	}
}

// caged moves a child into its cgroup; it skips if the test is not one.
func caged(t *testing.T) {
	t.Helper()
	procs := os.Getenv(cageProcs)
	if procs == "" {
		t.Skip("runs as the child of a test only")
	}
	if err := os.WriteFile(procs, []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		t.Fatal(err)
	}
}
