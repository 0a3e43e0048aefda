package safety

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// What the kernel itself says, not a fixture. Tests that need root, a cgroup of
// their own or swap skip where they may not have it.

func TestProbe_ThisMachine_KeepsTheContract(t *testing.T) {
	tiertest.TestProbe(t, func(*testing.T) tier.MemoryProbe { return NewProbe() })
}

func TestProbe_FakeMachine_KeepsTheContract(t *testing.T) {
	tiertest.TestProbe(t, func(t *testing.T) tier.MemoryProbe {
		p, err := NewProbeAt(newTree(t, machine(), cgroups("0::/a\n", v2Mount), v2("sys/fs/cgroup/a", gib, "5")).options())
		if err != nil {
			t.Fatal(err)
		}
		return p
	})
}

func TestProbe_ThisMachine_SaysWhatMeminfoSays(t *testing.T) {
	m := readHere(t)
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	total := tier.Bytes(uint64(info.Totalram) * uint64(info.Unit))
	if m.Source == "host" && (m.Total-total).Abs() > tier.MiB {
		t.Errorf("total is %v, the kernel has %v", m.Total, total)
	}
	if m.Available <= 0 {
		t.Errorf("%+v", m)
	}
	t.Logf("%+v", m)
}

// readHere makes one reading of this machine.
func readHere(t *testing.T) tier.Memory {
	t.Helper()
	p := NewProbe()
	defer p.Close()
	return mustRead(t, p)
}

const (
	childVariable = "MODELTIER_SAFETY_TEST_CGROUP"
	childMarker   = "reading: "
)

// TestChildInCgroup is no test: it is the process that the next test puts into
// a cgroup.
func TestChildInCgroup(t *testing.T) {
	procs := os.Getenv(childVariable)
	if procs == "" {
		t.Skip("only as a child of another test")
	}
	p := NewProbe()
	defer p.Close()
	before := mustRead(t, p)
	join(t, procs)
	after := mustRead(t, p) // the same probe: it has to see the move
	// Memory that is charged to the group now.
	ballast, err := unix.Mmap(-1, 0, 64<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	loaded := mustRead(t, p)
	if err := unix.Munmap(ballast); err != nil {
		t.Fatal(err)
	}
	// A file larger than the group: its pages are no shortage.
	file := filepath.Join(t.TempDir(), "file")
	if err := writeAndRead(file, 320<<20); err != nil {
		t.Fatal(err)
	}
	cached := mustRead(t, p)
	for range 50 { // the kernel may count for two seconds more what was dirty a moment ago
		if cached.Dirty < 16*tier.MiB {
			break
		}
		time.Sleep(100 * time.Millisecond)
		cached = mustRead(t, p)
	}
	text, err := json.Marshal([]seen{seenIn(before), seenIn(after), seenIn(loaded), seenIn(cached)})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\n%s%s\n", childMarker, text)
}

// seen is what a child tells of a reading.
type seen struct {
	Total, Available tier.Bytes
	Source           string
	High             bool
}

func seenIn(m tier.Memory) seen {
	return seen{m.Total, m.Available, m.Source, m.Pressure.Level == tier.PressureHigh}
}

func writeAndRead(name string, size int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	chunk := make([]byte, 4<<20)
	for n := 0; n < size; n += len(chunk) {
		if _, err := f.Write(chunk); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	for n := 0; n < size; n += len(chunk) {
		if _, err := f.ReadAt(chunk, int64(n)); err != nil {
			return err
		}
	}
	return nil
}

// machineStalls returns the share of the last ten seconds in which some task of the
// machine waited for memory, in percent: other programs may press it.
func machineStalls(t *testing.T) float64 {
	t.Helper()
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		t.Fatal(err)
	}
	psi, err := fs.PSIStatsForResource("memory")
	if err != nil || psi.Some == nil {
		return 0 // then they say nothing of high pressure either
	}
	return psi.Some.Avg10
}

func TestProbe_RealMemoryCgroup_BoundSeen(t *testing.T) {
	const limit = 256 * tier.MiB
	outer := realCgroup(t)
	inner := filepath.Join(outer.dir, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeCgroup(t, inner) })
	// The limit is on the ancestor; the group itself has a larger one.
	outer.set(t, outer.dir, limit)
	outer.set(t, inner, 2*limit)

	var readings []seen
	report(t, childVariable, filepath.Join(inner, "cgroup.procs"), "TestChildInCgroup", &readings)
	before, after, loaded, cached := readings[0], readings[1], readings[2], readings[3]
	if before.Total <= limit {
		t.Fatalf("bounded before the move: %+v", before)
	}
	if after.Total != limit || after.Source != outer.dir || after.Available > limit || after.Available < limit/2 {
		t.Errorf("in the group: %+v, want a total of %v by %s", after, limit, outer.dir)
	}
	if took := after.Available - loaded.Available; (took - 64*tier.MiB).Abs() > 8*tier.MiB {
		t.Errorf("64 MiB were taken, the probe saw %v", took)
	}
	if cached.Available < limit/2 {
		t.Errorf("with the group full of file pages: %+v", cached)
	}
	if stalls := machineStalls(t); cached.High && stalls < 1 {
		t.Errorf("pressure is high for file pages alone, while the machine stalls %v%% of the time", stalls)
	}
	t.Logf("available before %v, after the move %v, with 64 MiB taken %v, full of file pages %v", before.Available, after.Available, loaded.Available, cached.Available)
}

const (
	thrashVariable = "MODELTIER_SAFETY_TEST_THRASH"
	loadsVariable  = "MODELTIER_SAFETY_TEST_LOADS"
)

// join puts this process into the cgroup of a list of processes.
func join(t *testing.T, procs string) {
	t.Helper()
	if err := os.WriteFile(procs, []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		t.Fatal(err)
	}
}

// touch reads a file through a mapping, as an engine reads its weights.
func touch(t *testing.T, name string) (sum byte) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(pages)
	for i := 0; i < len(pages); i += os.Getpagesize() {
		sum += pages[i]
	}
	return sum
}

// TestChildThrashes is no test: it is a neighbour that reads, until it is killed, a
// file larger than its cgroup.
func TestChildThrashes(t *testing.T) {
	procs := os.Getenv(thrashVariable)
	if procs == "" {
		t.Skip("only as a child of another test")
	}
	join(t, procs)
	file := filepath.Join(t.TempDir(), "file")
	if err := writeAndRead(file, 128<<20); err != nil {
		t.Fatal(err)
	}
	for {
		touch(t, file)
	}
}

func TestProbe_RealNeighbourAtALimitOfItsOwn_IsNoPressureHere(t *testing.T) {
	if testing.Short() {
		t.Skip("the kernel's averages take seconds")
	}
	g := realCgroup(t)
	g.set(t, g.dir, 48*tier.MiB)
	p := NewProbe()
	defer p.Close()
	if m := mustRead(t, p); !m.Pressure.HasPSI || m.Pressure.Stalled > tier.PressureLow {
		t.Skipf("no PSI, or the machine is pressed already: %+v", m.Pressure)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildThrashes$")
	cmd.Env = append(os.Environ(), thrashVariable+"="+filepath.Join(g.dir, "cgroup.procs"), "TMPDIR="+t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for range 40 {
		time.Sleep(500 * time.Millisecond)
		m := mustRead(t, p)
		if m.Pressure.Level > tier.PressureLow {
			t.Fatalf("with %v available: %+v", m.Available, m.Pressure)
		}
		if m.Pressure.Stalled > tier.PressureLow {
			t.Logf("with %v available: %+v", m.Available, m.Pressure)
			return
		}
	}
	t.Skip("the neighbour did not stall: its files may be in memory")
}

func TestProbe_RealNeighbourKilledAtItsLimit_IsNoPressureHere(t *testing.T) {
	g := realCgroup(t)
	g.set(t, g.dir, 16*tier.MiB)
	var m tier.Memory
	for range 3 { // during one of them other programs may press the machine
		p := NewProbe()
		before := mustRead(t, p)
		// What tail keeps of zeros without a line end is all of them.
		exec.Command("sh", "-c", `echo $$ >"$0"; head -c 64000000 /dev/zero | tail >/dev/null`, filepath.Join(g.dir, "cgroup.procs")).Run()
		m = mustRead(t, p)
		p.Close()
		if m.Pressure.OOMKills == before.Pressure.OOMKills {
			t.Skip("the kill was not counted here")
		}
		if m.Pressure.Level <= before.Pressure.Level {
			return
		}
	}
	t.Errorf("after a kill at another's limit: %+v", m.Pressure)
}

// TestChildLoads is no test: in a tight cgroup it reads the weights of two models
// in turns, and then has a program eat what is left.
func TestChildLoads(t *testing.T) {
	procs := os.Getenv(loadsVariable)
	if procs == "" {
		t.Skip("only as a child of another test")
	}
	join(t, procs)
	const weights = 128 * tier.MiB
	var files [2]string
	for i := range files {
		files[i] = filepath.Join(t.TempDir(), "weights") // each in a folder of its own
		if err := writeAndRead(files[i], int(weights)); err != nil {
			t.Fatal(err)
		}
	}
	p := NewProbe()
	defer p.Close()
	var g Governor
	promise := Promise{Limits: tier.Limits{Reserved: 48 * tier.MiB}}
	// look returns the highest levels of some seconds of loads.
	look := func(seconds int) (seen tier.Pressure) {
		for end, i := time.Now().Add(time.Duration(seconds)*time.Second), 0; time.Now().Before(end); i++ {
			touch(t, files[i%2])
			promise.Loaded += weights
			m := mustRead(t, p)
			var d Decision
			g, d = g.Observe(time.Now(), m, promise)
			seen.Level, seen.Stalled = max(seen.Level, d.Level), max(seen.Stalled, m.Pressure.Stalled)
			seen.Refault = max(seen.Refault, m.Pressure.Refault)
		}
		return seen
	}
	own := look(5)
	hog, err := unix.Mmap(-1, 0, int(120*tier.MiB), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(hog)
	text, err := json.Marshal([]tier.Pressure{own, look(5)})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\n%s%s\n", childMarker, text)
}

func TestGovernor_RealLoadsInATightCgroup_AreNoPressureAndAHogIs(t *testing.T) {
	if testing.Short() {
		t.Skip("the kernel's averages take seconds")
	}
	g := realCgroup(t)
	g.set(t, g.dir, 160*tier.MiB)
	var levels []tier.Pressure
	report(t, loadsVariable, filepath.Join(g.dir, "cgroup.procs"), "TestChildLoads", &levels)
	own, hog := levels[0], levels[1]
	t.Logf("own loads %+v", own)
	t.Logf("a hog %+v", hog)
	if own.Refault < mediumRefault || own.Stalled == tier.PressureLow {
		t.Log("the loads stalled no task: that they are told apart is not shown")
	}
	if own.Level > tier.PressureLow {
		t.Errorf("own loads: %+v", own)
	}
	if hog.Level < hog.Stalled {
		t.Errorf("a hog: %+v", hog)
	}
}

// report runs a test as a child with a variable set, and takes what it has to tell.
func report(t *testing.T, variable, value, name string, into any) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+value)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	_, text, ok := strings.Cut(string(out), childMarker)
	if !ok {
		t.Fatalf("child said nothing:\n%s", out)
	}
	text, _, _ = strings.Cut(text, "\n")
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatal(err)
	}
}

type cgroup struct {
	dir     string // of a new group beside this process
	unified bool
}

// realCgroup makes a memory cgroup below the lowest that a probe sees around
// this process, or skips.
func realCgroup(t *testing.T) cgroup {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a cgroup needs root")
	}
	p := NewProbe()
	defer p.Close()
	mustRead(t, p)
	if len(p.source.groups) == 0 {
		t.Skip("no memory controller around this process")
	}
	top := p.source.groups[len(p.source.groups)-1] // below the mount point groups without processes may be made
	c := cgroup{unified: top.unified, dir: filepath.Join(top.name, "modeltier-test-"+strconv.Itoa(os.Getpid()))}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Skipf("a cgroup may not be made: %v", err)
	}
	t.Cleanup(func() { removeCgroup(t, c.dir) })
	if c.unified {
		if err := os.WriteFile(filepath.Join(c.dir, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
			t.Skipf("the controller may not be handed down: %v", err)
		}
	}
	return c
}

func (c cgroup) set(t *testing.T, dir string, limit tier.Bytes) {
	t.Helper()
	name := "memory.limit_in_bytes"
	if c.unified {
		name = "memory.max"
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(strconv.FormatInt(int64(limit), 10)), 0); err != nil {
		t.Skipf("a limit may not be set: %v", err)
	}
}

func removeCgroup(t *testing.T, dir string) {
	if err := os.Remove(dir); err != nil {
		t.Errorf("the cgroup stays: %v", err)
	}
}

func TestProbe_RealSwapFile_CountsAsDisk(t *testing.T) {
	const size = 32 << 20
	before := readHere(t)
	name := filepath.Join(t.TempDir(), "swap")
	makeSwap(t, name, size)
	swapOn(t, name)
	after := readHere(t)
	page := tier.Bytes(os.Getpagesize())
	if got := after.SwapTotal - before.SwapTotal; got != size-page {
		t.Errorf("swap on disk grew by %v, want %v", got, size-page)
	}
	if after.CompressedSwapTotal != before.CompressedSwapTotal {
		t.Errorf("compressed swap went from %v to %v", before.CompressedSwapTotal, after.CompressedSwapTotal)
	}
}

func TestProbe_RealZram_CountsAsCompressed(t *testing.T) {
	const size = 32 << 20
	if os.Geteuid() != 0 {
		t.Skip("zram needs root")
	}
	text, err := os.ReadFile("/sys/class/zram-control/hot_add")
	if err != nil {
		t.Skipf("no zram: %v", err)
	}
	id := strings.TrimSpace(string(text))
	t.Cleanup(func() {
		if err := os.WriteFile("/sys/class/zram-control/hot_remove", []byte(id), 0); err != nil {
			t.Errorf("the zram device stays: %v", err)
		}
	})
	if err := os.WriteFile("/sys/block/zram"+id+"/disksize", []byte(strconv.Itoa(size)), 0); err != nil {
		t.Skipf("a zram device may not be set up: %v", err)
	}
	before := readHere(t)
	device := "/dev/zram" + id
	if _, err := os.Stat(device); err != nil {
		t.Skipf("no device nodes are made here: %v", err)
	}
	makeSwap(t, device, size)
	swapOn(t, device)
	after := readHere(t)
	page := tier.Bytes(os.Getpagesize())
	if got := after.CompressedSwapTotal - before.CompressedSwapTotal; got != size-page {
		t.Errorf("compressed swap grew by %v, want %v", got, size-page)
	}
	if after.SwapTotal != before.SwapTotal || after.SwapFree > before.SwapFree {
		t.Errorf("swap on disk went from %v to %v", before.SwapTotal, after.SwapTotal)
	}
	if !notesContain(after, "zram") {
		t.Errorf("notes %q", after.Notes)
	}
}

// makeSwap writes what swapon looks for: a page with a version, the number of
// the last page, and a signature at its end (include/linux/swap.h).
func makeSwap(t *testing.T, name string, size int) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	page := os.Getpagesize()
	space := make([]byte, size) // written whole: swap takes no holes
	*(*uint32)(unsafe.Pointer(&space[1024])) = 1
	*(*uint32)(unsafe.Pointer(&space[1028])) = uint32(size/page - 1)
	copy(space[page-10:], "SWAPSPACE2")
	if _, err = f.Write(space); err == nil {
		err = f.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func swapOn(t *testing.T, name string) {
	t.Helper()
	path, err := unix.BytePtrFromString(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, no := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0, 0); no != 0 {
		if slices.Contains([]error{unix.EPERM, unix.EINVAL, unix.ENOSYS}, error(no)) {
			t.Skipf("swap may not be switched on: %v", no)
		}
		t.Fatal(no)
	}
	t.Cleanup(func() {
		if _, _, no := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(path)), 0, 0); no != 0 && !errors.Is(no, unix.EINVAL) {
			t.Errorf("swap stays on: %v", no)
		}
	})
}

func BenchmarkMemory(b *testing.B) {
	b.Run("this machine", func(b *testing.B) {
		p := NewProbe()
		defer p.Close()
		benchmarkMemory(b, p)
	})
	b.Run("only meminfo", func(b *testing.B) {
		benchmarkMemory(b, newTree(b, map[string]string{"proc/meminfo": machine()["proc/meminfo"]}).probe())
	})
	b.Run("4 limited cgroups in files", func(b *testing.B) {
		const root = "sys/fs/cgroup/"
		benchmarkMemory(b, newTree(b, machine(), cgroups("0::/a/b/c/d\n", v2Mount),
			v2(root+"a", gib, "5"), v2(root+"a/b", gib, "5"), v2(root+"a/b/c", gib, "5"), v2(root+"a/b/c/d", gib, "5")).probe())
	})
}

func benchmarkMemory(b *testing.B, p *Probe) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Memory(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
