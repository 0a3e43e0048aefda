package safety

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// boardMeminfo is made up in the form that an 8 GB board's kernel writes, vendor's
// lines included.
const boardMeminfo = `MemTotal:        7900000 kB
MemFree:         1200000 kB
MemAvailable:    6100000 kB
Buffers:           90000 kB
Cached:          4500000 kB
SwapCached:            0 kB
Active(file):    2100000 kB
Inactive(file):  2300000 kB
SwapTotal:       3960000 kB
SwapFree:        3600000 kB
Shmem:             40000 kB
SReclaimable:     200000 kB
CmaTotal:         786432 kB
CmaFree:          700000 kB
HugePages_Total:       0
HugePages_Free:        0
Hugepagesize:       2048 kB
NvMapMemFree:      60000 kB
NvMapMemUsed:     512000 kB
`

func TestMemory_BoardWithZramAndCMA_AvailableAsTheKernelSays(t *testing.T) {
	tr := newTree(t, map[string]string{
		"proc/meminfo": boardMeminfo,
		"proc/swaps":   "Filename Type Size Used Priority\n" + strings.Repeat("/dev/zram0 partition 660000 60000 5\n", 6),
	})
	m := tr.read()
	if m.Total != 7900000*tier.KiB || m.Available != 6100000*tier.KiB || m.Source != "host" {
		t.Errorf("%v available of %v by %q", m.Available, m.Total, m.Source)
	}
	if m.SwapTotal != 0 || m.CompressedSwapTotal != 3960000*tier.KiB || m.CompressedSwapFree != 3600000*tier.KiB {
		t.Errorf("swap on disk %v, compressed %v free of %v", m.SwapTotal, m.CompressedSwapFree, m.CompressedSwapTotal)
	}
	if m.Pressure.HasPSI || !notesContain(m, "no pressure stall information") || !notesContain(m, "zram") || !notesContain(m, "CMA") {
		t.Errorf("PSI %v, notes %q", m.Pressure.HasPSI, m.Notes)
	}
	o := tr.options()
	o.DeviceMemory = true
	p := newProbe(o)
	defer p.Close()
	if m := mustRead(t, p); m.Available != 5400000*tier.KiB || notesContain(m, "CMA") {
		t.Errorf("for device memory %v are available, notes %q", m.Available, m.Notes)
	}
}

func TestMemory_OrinNanoCapture_AvailableAsTheKernelSays(t *testing.T) {
	tr := newTree(t, map[string]string{
		"proc/meminfo": captured(t, "field/jetson/meminfo_orin_nano_8gb_r36.txt"),
		"proc/swaps": "Filename Type Size Used Priority\n" +
			strings.Repeat("/dev/zram0 partition 650224 48874 5\n", 6),
	})
	m := tr.read()
	if m.Total != 7802736*tier.KiB || m.Available != (6245596-16)*tier.KiB { // 16 kB are dirty
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
	const clean = 5642288 - 32
	if m.Available != clean*tier.KiB || !notesContain(m, "CMA") {
		t.Errorf("available %v, notes %q", m.Available, m.Notes)
	}
	o := tr.options()
	o.DeviceMemory = true
	p, err := NewProbeAt(o)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if m := mustRead(t, p); m.Available != (clean-719864)*tier.KiB || notesContain(m, "CMA") {
		t.Errorf("for device memory %v are available, notes %q", m.Available, m.Notes)
	}
	// There is no list of devices in this tree: the swap may all be zram.
	if m.SwapTotal != 0 || m.CompressedSwapTotal != 4019376*tier.KiB || !notesContain(m, "list of swap devices") {
		t.Errorf("swap %v, compressed %v, notes %q", m.SwapTotal, m.CompressedSwapTotal, m.Notes)
	}
}

func TestMemory_SwapOnDiskAndZramAndZswap_CountedApart(t *testing.T) {
	tr := newTree(t, machine(), map[string]string{
		"proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 12582912 kB\nZswap: 1048576 kB\nZswapped: 2097152 kB\n",
		"proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" +
			"/dev/nvme0n1p3                          partition\t8388604\t\t1048576\t\t-2\n" +
			"/mnt/zram1                              file\t\t1048572\t\t0\t\t-3\n" +
			"/dev/zram0                              partition\t4194300\t\t4194300\t\t100\n" +
			"/swap\\040file                          file\t\t1024\t\t2048\t\t-4\n",
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
		{"proc/meminfo", "MemTotal: 10 kB\nMemFree: 5 kB\n"},
		{"proc/meminfo", "MemTotal: 10 MB\nMemAvailable: 1 kB\n"},
		{"proc/meminfo", "MemTotal: ten kB\nMemAvailable: 1 kB\n"},
		{"proc/meminfo", "MemTotal: -1 kB\nMemAvailable: 1 kB\n"},
		{"proc/meminfo", "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n"},
		{"proc/meminfo", "MemTotal: 18014398509481985 kB\nMemAvailable: 1 kB\n"}, // 2^64 + 1024 bytes
		{"proc/meminfo", "MemTotal: 10\nMemAvailable: 1 kB\n"},
		{"proc/meminfo", "MemTotal:\nMemAvailable: 1 kB\n"},
		{"proc/meminfo", "no colon\nMemTotal: 10 kB\nMemAvailable: 1 kB\n"},
		{"proc/meminfo", machine()["proc/meminfo"] + strings.Repeat("Padding: 1 kB\n", maxSmallFile/14)},
		{"proc/meminfo", strings.Repeat("x", maxFile+1)},
		{"proc/vmstat", strings.Repeat("counter 1\n", maxFile/10+1)},
		{"proc/swaps", "Filename Type\n/dev/sda1 partition\n"},
		{"proc/swaps", "Filename Type\n/dev/sda1 partition -1 0 0\n"},
		{"proc/swaps", "Filename Type\n/dev/sda1 partition 9223372036854775807 0 0\n"},
		{"proc/swaps", machine()["proc/swaps"] + strings.Repeat("/a file 1 1 1\n", maxSmallFile/14)},
		{"proc/vmstat", "pswpout many\n"},
		{"proc/pressure/memory", "full avg10=0.00 avg60=0.00\n"},
		{"proc/pressure/memory", "some avg10=100.01 avg60=0.00\n"},
		{"proc/pressure/memory", "some avg10=NaN avg60=0.00\n"},
		{"proc/pressure/memory", "some avg60=0.00 avg10=0.00\n"},
		{"proc/self/cgroup", "0:/app\n"},
		{"proc/self/cgroup", "0::app\n"},
		{"proc/self/cgroup", "0::" + strings.Repeat("/a", maxDepth+1) + "\n"},
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
	for _, file := range []string{"proc/meminfo", "proc/swaps", "proc/vmstat", "proc/pressure/memory", "sys/fs/cgroup/a/memory.pressure"} {
		for _, kind := range []string{"pipe", "folder"} {
			tr := newTree(t, machine(), cgroups("0::/a\n", v2Mount), v2("sys/fs/cgroup/a", gib, "5"))
			name := filepath.Join(tr.dir, file)
			err := errors.Join(os.RemoveAll(name), os.MkdirAll(filepath.Dir(name), 0o755))
			if kind == "folder" {
				err = errors.Join(err, os.Mkdir(name, 0o755))
			} else {
				err = errors.Join(err, unix.Mkfifo(name, 0o644))
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tr.probe().Memory(t.Context()); !errors.Is(err, tier.ErrInvalid) {
				t.Errorf("%s for %s: error is %v", kind, file, err)
			}
		}
	}
}

func TestMemory_FileGoesAndComes_ReadAgain(t *testing.T) {
	tr := newTree(t, machine())
	p := tr.probe()
	mustRead(t, p)
	// A machine's own files do not go; a mounted tree's may.
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
	cause := errors.New("the caller is gone")
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
	<-p.turn // a reading is under way
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

	// A caller from before a reading began takes that one.
	p.began = time.Now().Add(time.Hour)
	p.last.Source = "shared"
	if m := mustRead(t, p); m.Source != "shared" {
		t.Errorf("read again: %+v", m)
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

func TestMemory_LaidOutManyTimes_NoHandleIsLeft(t *testing.T) {
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

func TestStatus_TellsWhereAndWhatItReads(t *testing.T) {
	tr := newTree(t, machine(), cgroups("0::/a/b\n", v2Mount), v2("sys/fs/cgroup/a", "8589934592", gib), v2("sys/fs/cgroup/a/b", "2147483648", gib), map[string]string{
		"sys/fs/cgroup/a/b/memory.stat":     "inactive_file 0\nactive_file 0\nworkingset_refault_file 0\n",
		"sys/fs/cgroup/a/b/memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
		"proc/pressure/memory":              "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
	})
	p := tr.probe()
	if s := p.Status(); s.System != "linux" || s.Readings != 0 || !s.At.IsZero() {
		t.Errorf("before the first reading: %+v", s)
	}
	first := mustRead(t, p)
	want := ProbeStatus{
		System: "linux", Proc: tr.dir + "/proc", Sys: tr.dir + "/sys", Cgroup: 2,
		Groups: []string{"/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a"}, PSI: true, Bound: "/sys/fs/cgroup/a/b",
		StallsOf: "/sys/fs/cgroup/a/b", RefaultsOf: "/sys/fs/cgroup/a/b",
		Readings: 1, At: first.At,
	}
	got := p.Status()
	if got.Took <= 0 || got.Took > time.Minute {
		t.Errorf("took %v", got.Took)
	}
	want.Took = got.Took
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got.Groups[0] = "changed" // it is a copy
	tr.write("proc/meminfo", "MemTotal: much\n")
	if _, err := p.Memory(t.Context()); err == nil {
		t.Fatal("no error")
	}
	got = p.Status()
	if got.Readings != 1 || got.Failures != 1 || !strings.Contains(got.Error, "meminfo") || !got.ErrorAt.After(got.At) || got.Groups[0] != want.Groups[0] {
		t.Errorf("after a failure: %+v", got)
	}
	text, err := json.Marshal(p.PartStatus())
	if err != nil || !strings.Contains(string(text), `"cgroup_version":2`) || !strings.Contains(string(text), `"psi":true`) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestStatus_Cgroups_ByTheirVersion(t *testing.T) {
	for version, files := range map[int][]map[string]string{
		0: nil,
		1: {cgroups("4:memory:/a\n0::/\n", v1Mount), v1("sys/fs/cgroup/memory/a", "2147483648", gib)},
		2: {cgroups("0::/a\n", v2Mount), v2("sys/fs/cgroup/a", "2147483648", gib)},
	} {
		p := newTree(t, append([]map[string]string{machine()}, files...)...).probe()
		mustRead(t, p)
		// As on Linux 5.10 of a board: no PSI, and version 1 does not count refaults.
		if s := p.Status(); s.Cgroup != version || s.PSI || len(s.Notes) == 0 || s.StallsOf != "" || s.RefaultsOf != "host" {
			t.Errorf("version %d: %+v", version, s)
		}
	}
}

func TestStatus_WhileReadingsRunOrHang_ReturnsAtOnce(t *testing.T) {
	p := newTree(t, machine(), cgroups("0::/app\n", v2Mount), v2("sys/fs/cgroup/app", gib, "1")).probe()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				p.Memory(context.Background())
				if s, ok := p.PartStatus().(ProbeStatus); !ok || s.Readings == 0 || len(s.Groups) != 1 {
					t.Errorf("%+v", s)
				}
			}
		})
	}
	all.Wait()
	<-p.turn // a reading that does not return
	if s := p.Status(); s.Readings == 0 {
		t.Errorf("%+v", s)
	}
	p.turn <- struct{}{}
}

// A reading costs a path for each file and little else, and nothing in proportion to time or to earlier
// readings.
func TestMemory_SteadyState_AllocationsAreBounded(t *testing.T) {
	probes := map[string]*Probe{
		"this machine": NewProbe(),
		"nested v2": newTree(t, machine(), cgroups("0::/a/b\n", v2Mount),
			v2("sys/fs/cgroup/a", "8589934592", "1073741824"), v2("sys/fs/cgroup/a/b", "4294967296", "1073741824")).probe(),
		"no files but meminfo": newTree(t, map[string]string{"proc/meminfo": machine()["proc/meminfo"]}).probe(),
	}
	for name, p := range probes {
		defer p.Close()
		mustRead(t, p)
		if n := testing.AllocsPerRun(100, func() { mustRead(t, p) }); n > 50 {
			t.Errorf("%s: %v allocations a reading", name, n)
		}
	}
}
