package safety

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

func TestMemory_OrinNanoCapture_AvailableAsTheKernelSays(t *testing.T) {
	tr := newTree(t, map[string]string{
		"proc/meminfo": captured(t, "field/jetson/meminfo_orin_nano_8gb_r36.txt"),
		"proc/swaps": "Filename Type Size Used Priority\n" +
			strings.Repeat("/dev/zram0 partition 650224 48874 5\n", 6),
	})
	m := tr.read()
	if m.Total != 7802736*tier.KiB || m.Available != 6245596*tier.KiB {
		t.Errorf("total %v, available %v", m.Total, m.Available)
	}
	if m.Source != "host" {
		t.Errorf("source %q", m.Source)
	}
	if m.SwapTotal != 0 || m.SwapFree != 0 {
		t.Errorf("zram counts as disk: %v of %v", m.SwapFree, m.SwapTotal)
	}
	if want := tier.Bytes(6*650224) * tier.KiB; m.CompressedSwapTotal != want {
		t.Errorf("compressed swap is %v, want %v", m.CompressedSwapTotal, want)
	}
	if m.Pressure.HasPSI || !notesContain(m, "no pressure stall information") {
		t.Errorf("PSI %v, notes %q", m.Pressure.HasPSI, m.Notes)
	}
	if notesContain(m, "CMA") {
		t.Errorf("a CMA area without free pages is noted: %q", m.Notes)
	}
}

func TestMemory_TX2Capture_CMAIsNotedAndKeptFromDeviceMemory(t *testing.T) {
	tr := newTree(t, map[string]string{"proc/meminfo": captured(t, "field/jetson/meminfo_tx2_8gb_r32.txt")})
	m := tr.read()
	if m.Available != 5642288*tier.KiB || !notesContain(m, "CMA") {
		t.Errorf("available %v, notes %q", m.Available, m.Notes)
	}
	o := tr.options()
	o.DeviceMemory = true
	p, err := NewProbeAt(o)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if m := mustRead(t, p); m.Available != (5642288-719864)*tier.KiB || notesContain(m, "CMA") {
		t.Errorf("for device memory %v are available, notes %q", m.Available, m.Notes)
	}
	// There is no list of devices in this tree: the swap may all be zram.
	if m.SwapTotal != 0 || m.CompressedSwapTotal != 4019376*tier.KiB || !notesContain(m, "list of swap devices") {
		t.Errorf("swap %v, compressed %v, notes %q", m.SwapTotal, m.CompressedSwapTotal, m.Notes)
	}
}

func TestMemory_NoMemAvailable_EstimatedFromPartsAndWatermarks(t *testing.T) {
	files := map[string]string{
		"proc/meminfo": "MemTotal: 1048576 kB\nMemFree: 100000 kB\nBuffers: 10000 kB\nCached: 200000 kB\nShmem: 50000 kB\nSReclaimable: 20000 kB\n",
	}
	page := tier.Bytes(os.Getpagesize())
	t.Run("zoneinfo", func(t *testing.T) {
		files["proc/zoneinfo"] = "Node 0, zone DMA\n  pages free 3\n        min      10\n        low      12\n        high     15\nNode 0, zone Normal\n        low      1000\n"
		m := newTree(t, files).read()
		if want := (100000+10000+200000-50000+10000)*tier.KiB - 1012*page; m.Available != want {
			t.Errorf("available %v, want %v", m.Available, want)
		}
		if !notesContain(m, "no MemAvailable") {
			t.Errorf("notes %q", m.Notes)
		}
	})
	t.Run("no zoneinfo", func(t *testing.T) {
		delete(files, "proc/zoneinfo")
		m := newTree(t, files).read()
		if want := (100000+10000+200000-50000+10000)*tier.KiB - tier.GiB/64; m.Available != want {
			t.Errorf("available %v, want %v", m.Available, want)
		}
	})
}

func TestMemory_SwapOnDiskAndZramAndZswap_CountedApart(t *testing.T) {
	tr := newTree(t, machine(), map[string]string{
		"proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 12582912 kB\nZswap: 1048576 kB\nZswapped: 2097152 kB\n",
		"proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" +
			"/dev/nvme0n1p3                          partition\t8388604\t\t1048576\t\t-2\n" +
			"/mnt/zram1                              file\t\t1048572\t\t0\t\t-3\n" +
			"/dev/zram0                              partition\t4194300\t\t4194300\t\t100\n" +
			"/swap\\040file                          file\t\t1024\t\t2048\t\t-4\n\n",
		"sys/module/zswap/parameters/enabled":          "Y\n",
		"sys/module/zswap/parameters/max_pool_percent": "20\n",
	})
	m := tr.read()
	if want := (8388604 + 1048572 + 1024) * tier.KiB; m.SwapTotal != want {
		t.Errorf("swap on disk %v, want %v", m.SwapTotal, want)
	}
	// The last device claims to use more than it has.
	if want := (8388604 - 1048576 + 1048572) * tier.KiB; m.SwapFree != want {
		t.Errorf("free on disk %v, want %v", m.SwapFree, want)
	}
	pool := 16 * tier.GiB / 100 * 20
	if want := 4194300*tier.KiB + pool; m.CompressedSwapTotal != want {
		t.Errorf("compressed %v, want %v", m.CompressedSwapTotal, want)
	}
	if want := pool - tier.GiB; m.CompressedSwapFree != want {
		t.Errorf("compressed free %v, want %v", m.CompressedSwapFree, want)
	}
	if !notesContain(m, "zram") || !notesContain(m, "Zswap") {
		t.Errorf("notes %q", m.Notes)
	}

	tr.write("sys/module/zswap/parameters/enabled", "N\n")
	if m := tr.read(); m.CompressedSwapTotal != 4194300*tier.KiB+tier.GiB {
		t.Errorf("zswap that was switched off counts as %v, want what is left in it", m.CompressedSwapTotal-4194300*tier.KiB)
	}
}

func TestMemory_Lies_NeverMoreThanThereIs(t *testing.T) {
	tr := newTree(t, machine(), map[string]string{
		"proc/meminfo": "MemTotal: 1024 kB\nMemAvailable: 9007199254740991 kB\nCmaFree: 9007199254740991 kB\n",
	})
	m := tr.read()
	if m.Available != m.Total {
		t.Errorf("available %v of %v", m.Available, m.Total)
	}
	o := tr.options()
	o.DeviceMemory = true
	p := newProbe(o)
	defer p.Close()
	if m := mustRead(t, p); m.Available != 0 {
		t.Errorf("available %v though all of it is CMA", m.Available)
	}
}

func TestMemory_GarbageInAnyFile_ErrorNamesFileAndText(t *testing.T) {
	const group = "sys/fs/cgroup/app/"
	whole := func(t *testing.T) tree {
		return newTree(t, machine(), cgroups("0::/app\n", v2Mount), v2("sys/fs/cgroup/app", "1073741824", "1"), map[string]string{
			"proc/pressure/memory":                         "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
			group + "memory.pressure":                      "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
			group + "memory.swap.max":                      "1\n",
			"sys/module/zswap/parameters/enabled":          "Y\n",
			"sys/module/zswap/parameters/max_pool_percent": "20\n",
		})
	}
	if m := whole(t).read(); m.Source == "host" {
		t.Fatalf("the tree's cgroup does not count: %+v", m)
	}
	for _, c := range []struct{ file, text string }{
		{"proc/meminfo", ""},
		{"proc/meminfo", "MemTotal: 0 kB\nMemAvailable: 1 kB\n"},
		{"proc/meminfo", "MemTotal: 10 kB\n"},
		{"proc/meminfo", "MemTotal: 10 MB\nMemAvailable: 1 kB\n"},
		{"proc/meminfo", "MemTotal: ten kB\nMemAvailable: 1 kB\n"},
		{"proc/meminfo", "MemTotal: -1 kB\nMemAvailable: 1 kB\n"},
		{"proc/meminfo", "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n"},
		{"proc/meminfo", "MemTotal:\nMemAvailable: 1 kB\n"},
		{"proc/meminfo", strings.Repeat("x", largestFile+1)},
		{"proc/vmstat", strings.Repeat("counter 1\n", largestFile/10+1)},
		{"proc/swaps", "Filename Type\n/dev/sda1 partition\n"},
		{"proc/swaps", "Filename Type\n/dev/sda1 partition -1 0 0\n"},
		{"proc/vmstat", "pswpout many\n"},
		{"proc/pressure/memory", "full avg10=0.00 avg60=0.00\n"},
		{"proc/pressure/memory", "some avg10=100.01 avg60=0.00\n"},
		{"proc/pressure/memory", "some avg10=NaN avg60=0.00\n"},
		{"proc/pressure/memory", "some avg60=0.00 avg10=0.00\n"},
		{"proc/self/cgroup", "0:/app\n"},
		{"proc/self/cgroup", "0::app\n"},
		{"proc/self/cgroup", "0::" + strings.Repeat("/a", deepest+1) + "\n"},
		{"proc/self/mountinfo", "30 24 0:26 - cgroup2 cgroup2 rw\n"},
		{group + "memory.max", "much\n"},
		{group + "memory.max", ""},
		{group + "memory.max", "1 2\n"},
		{group + "memory.high", "-1\n"},
		{group + "memory.current", "\n"},
		{group + "memory.stat", "inactive_file lots\n"},
		{group + "memory.events", "oom_kill x\n"},
		{group + "memory.pressure", "some avg10=0.00\n"},
		{group + "memory.swap.max", "0x10\n"},
		{group + "memory.swap.current", "none\n"},
		{"sys/module/zswap/parameters/max_pool_percent", "101\n"},
	} {
		tr := whole(t)
		tr.write(c.file, c.text)
		p := tr.probe()
		_, err := p.Memory(t.Context())
		if !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("%s %.40q: error is %v", c.file, c.text, err)
			continue
		}
		if !strings.Contains(err.Error(), tr.dir+"/"+c.file) {
			t.Errorf("%s %.40q: error names another file: %v", c.file, c.text, err)
		}
		if len(err.Error()) > 1000 {
			t.Errorf("%s: error is %d bytes long", c.file, len(err.Error()))
		}
		text, err := os.ReadFile(whole(t).dir + "/" + c.file)
		if err != nil {
			t.Fatal(err)
		}
		tr.write(c.file, string(text))
		if m := mustRead(t, p); m.Source == "host" {
			t.Errorf("%s: after it was mended the cgroup does not bound any more", c.file)
		}
	}
}

func TestMemory_NoMeminfo_ErrorIsOfTheFileSystem(t *testing.T) {
	tr := newTree(t)
	_, err := NewProbeAt(tr.options())
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "proc/meminfo") {
		t.Errorf("error is %v", err)
	}
}

func TestMemory_PipeOrFolderForAFile_ErrorAndNoWait(t *testing.T) {
	for _, kind := range []string{"pipe", "folder"} {
		tr := newTree(t)
		name := filepath.Join(tr.dir, "proc/meminfo")
		var err error
		if kind == "folder" {
			err = os.MkdirAll(name, 0o755)
		} else if err = os.Mkdir(filepath.Dir(name), 0o755); err == nil {
			err = unix.Mkfifo(name, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.probe().Memory(t.Context()); !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("%s: error is %v", kind, err)
		}
	}
}

func TestMemory_FileGoesAndComes_ReadAgain(t *testing.T) {
	tr := newTree(t, machine())
	p := tr.probe()
	mustRead(t, p)
	// A machine's own files do not go; a mounted tree's may.
	p.source.meminfo.close()
	if err := os.Remove(tr.dir + "/proc/meminfo"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Memory(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	tr.write("proc/meminfo", machine()["proc/meminfo"])
	mustRead(t, p)
}

func TestMemory_ContextEnded_ItsCause(t *testing.T) {
	p := newTree(t, machine()).probe()
	cause := errors.New("nobody cares any more")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := p.Memory(ctx); !errors.Is(err, cause) {
		t.Errorf("error is %v", err)
	}
	mustRead(t, p)
}

func TestMemory_ContextEndsWhileAnotherReads_ItsCauseAtOnce(t *testing.T) {
	p := newTree(t, machine()).probe()
	<-p.turn
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := p.Memory(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	p.turn <- struct{}{}
	mustRead(t, p)
}

func TestMemory_ManyWaitForOneReading_TheyShareTheNext(t *testing.T) {
	p := newTree(t, machine()).probe()
	first := mustRead(t, p)
	<-p.turn // somebody reads
	var waiting, done sync.WaitGroup
	readings := make([]tier.Memory, 8)
	for i := range readings {
		waiting.Add(1)
		done.Go(func() {
			waiting.Done()
			m, err := p.Memory(context.Background())
			if err != nil {
				t.Error(err)
			}
			readings[i] = m
		})
	}
	waiting.Wait()
	p.turn <- struct{}{}
	done.Wait()
	for _, m := range readings {
		if !m.At.After(first.At) {
			t.Error("got a reading from before the call")
		}
	}
	if again := mustRead(t, p); !again.At.After(first.At) {
		t.Error("a later call got an older reading")
	}

	// Whoever called before a reading began takes that one.
	p.began = time.Now().Add(time.Hour)
	p.last.Source = "shared"
	if m := mustRead(t, p); m.Source != "shared" {
		t.Errorf("read anew: %+v", m)
	}
}

func TestMemory_ManyAtOnceWithClose_NoRaceAndErrClosedAfter(t *testing.T) {
	p := newTree(t, machine(), cgroups("0::/app\n", v2Mount), v2("sys/fs/cgroup/app", "1073741824", "1")).probe()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				if _, err := p.Memory(context.Background()); err != nil && !errors.Is(err, tier.ErrClosed) {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() { p.Close() })
	all.Wait()
	if _, err := p.Memory(t.Context()); !errors.Is(err, tier.ErrClosed) {
		t.Errorf("error is %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// handles is the number of files that this process has open.
func handles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}

func TestClose_AllFilesAreClosed(t *testing.T) {
	before := handles(t)
	p, err := NewProbeAt(ProbeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if open := handles(t); open <= before {
		t.Fatalf("%d handles before, %d with a probe: nothing to close", before, open)
	}
	p.Close()
	if after := handles(t); after > before {
		t.Errorf("%d handles before, %d after", before, after)
	}
}

func TestMemory_LaidOutAnewManyTimes_NoHandleIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTree(t, machine(), cgroups("0::/app\n", v2Mount), v2("sys/fs/cgroup/app", "1073741824", "1")).probe()
		mustRead(t, p)
		before := handles(t)
		for range 5 {
			time.Sleep(layoutAge)
			mustRead(t, p)
		}
		if after := handles(t); after > before {
			t.Errorf("%d handles before, %d after", before, after)
		}
	})
}

func TestMemory_SteadyState_AllocatesNothing(t *testing.T) {
	probes := map[string]*Probe{
		"this machine": NewProbe(),
		"nested v2": newTree(t, machine(), cgroups("0::/a/b\n", v2Mount),
			v2("sys/fs/cgroup/a", "8589934592", "1073741824"), v2("sys/fs/cgroup/a/b", "4294967296", "1073741824")).probe(),
		"no files but meminfo": newTree(t, map[string]string{"proc/meminfo": machine()["proc/meminfo"]}).probe(),
	}
	for name, p := range probes {
		defer p.Close()
		mustRead(t, p)
		if n := testing.AllocsPerRun(100, func() { mustRead(t, p) }); n > 0 {
			t.Errorf("%s: %v allocations a reading", name, n)
		}
	}
}
