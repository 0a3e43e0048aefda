package safety

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/procfs"

	"github.com/modeltier/modeltier/tier"
)

func TestParsers_ThisMachine_AgreeWithProcfs(t *testing.T) {
	oracle, err := procfs.NewDefaultFS()
	if err != nil {
		t.Fatal(err)
	}
	buf := []byte(nil)
	read := func(name string) []byte {
		text, err := readFile("/proc/"+name, &buf)
		if err != nil {
			t.Skip(err)
		}
		return text
	}
	self, err := oracle.Self()
	if err != nil {
		t.Fatal(err)
	}
	lines, err := self.Cgroups()
	if err != nil {
		t.Skip(err)
	}
	var placed ownCgroups
	for _, l := range lines {
		if l.HierarchyID == 0 {
			placed.unified = l.Path
		}
		if slices.Contains(l.Controllers, "memory") {
			placed.memory = l.Path
		}
	}
	own, err := parseOwnCgroups("cgroup", read("self/cgroup"))
	if err != nil || own != placed {
		t.Errorf("this process is at %+v, procfs says %+v (%v)", own, placed, err)
	}
}

func TestParsers_ThisMachinesMemory_AgreeWithProcfs(t *testing.T) {
	oracle, err := procfs.NewDefaultFS()
	if err != nil {
		t.Fatal(err)
	}
	s := newSource(ProbeOptions{})
	kib := func(n *uint64) tier.Bytes {
		if n == nil {
			return 0
		}
		return tier.Bytes(*n) * tier.KiB
	}
	text, err := readFile(s.meminfo, &s.buf)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseMeminfo(s.meminfo, text)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := oracle.Meminfo()
	if err != nil {
		t.Fatal(err)
	}
	// Only what stays the same between two looks.
	if got.total != kib(theirs.MemTotal) || got.swapTotal != kib(theirs.SwapTotal) || got.available <= 0 {
		t.Errorf("%+v, procfs says %v and %v of swap", got, kib(theirs.MemTotal), kib(theirs.SwapTotal))
	}
	var m tier.Memory
	if err := s.readSwaps(&m); err != nil && !missing(err) {
		t.Fatal(err)
	}
	devices, _ := oracle.Swaps()
	var all tier.Bytes
	for _, d := range devices {
		all += tier.Bytes(d.Size) * tier.KiB
	}
	if m.SwapTotal+m.CompressedSwapTotal != all {
		t.Errorf("%v of swap, procfs says %v", m.SwapTotal+m.CompressedSwapTotal, all)
	}
	_, failed := oracle.PSIStatsForResource("memory")
	if psi, err := readPSI(s.psi, &s.buf); err != nil || psi.there != (failed == nil) {
		t.Errorf("PSI %v (%v), procfs says %v", psi.there, err, failed)
	}
}

func TestParseMeminfo_OddTexts(t *testing.T) {
	const good = "MemTotal: 10 kB\nMemAvailable: 4 kB\n"
	for name, text := range map[string]string{
		"no line end at last":   "MemTotal: 10 kB\nMemAvailable: 4 kB",
		"carriage returns":      "MemTotal: 10 kB\r\nMemAvailable: 4 kB\r\n",
		"tabs":                  "MemTotal:\t10\tkB\nMemAvailable:\t4 kB\n",
		"vendor's own":          "NvMapMemFree: 3 kB\nNvMapMemUsed: 0 kB\n" + good,
		"an empty line":         "MemTotal: 10 kB\n\nMemAvailable: 4 kB\n",
		"fields without a unit": good + "HugePages_Total: 0\nHugePages_Free: 3\n",
	} {
		m, err := parseMeminfo("meminfo", []byte(text))
		if err != nil || m.total != 10*tier.KiB || m.available != 4*tier.KiB {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

func TestParseVmstat_OldAndNewNames_Summed(t *testing.T) {
	c, err := parseVmstat("vmstat", []byte("allocstall_dma 1\nallocstall_normal 2\nallocstall 4\nworkingset_refault 8\npgscan_direct 16\npgscan_direct_throttle 32\npswpout 64\noom_kill 128\nworkingset_refault_anon 256\n"))
	want := counters{refault: 8, swapOut: 64, stalls: 7, scans: 16, kills: 128}
	if diff := cmp.Diff(want, c, cmp.AllowUnexported(counters{})); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestIsZRAM_KernelsNamesOnly(t *testing.T) {
	for device, want := range map[string]bool{
		"/dev/zram0": true, "/dev/block/zram12": true, "zram3": true,
		"/dev/zram": false, "/dev/zramx": false, "/dev/nvme0n1p3": false, "/zram0/file": false, "zram": false, "": false,
	} {
		if got := isZRAM(device); got != want {
			t.Errorf("%q: %v", device, got)
		}
	}
}

func TestUnescape_KernelsEscapes(t *testing.T) {
	for text, want := range map[string]string{
		`/a\040b`: "/a b", `/a\134b`: `/a\b`, `\011\012`: "\t\n", `/a\`: `/a\`, `/a\04`: `/a\04`, `/a\999`: `/a\999`, `\777`: `\777`, "": "",
	} {
		if got := unescape(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// fuzzText seeds a fuzz target with texts that the parsers know.
func fuzzText(f *testing.F, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	for _, name := range []string{"/proc/meminfo", "/proc/vmstat", "/proc/swaps", "/proc/pressure/memory", "/proc/self/cgroup", "/proc/self/mountinfo"} {
		if text, err := os.ReadFile(name); err == nil {
			f.Add(text)
		}
	}
}

func FuzzMeminfo(f *testing.F) {
	fuzzText(f, "MemTotal: 1 kB\nMemAvailable: 99999999999999999999 kB\n", "MemTotal: 1 kB\nMemFree:\n\n", "MemTotal:1 kB\nMemAvailable: 2 kB\nCmaFree: 9007199254740991 kB\nZswap: 5 kB",
		"MemTotal: 18014398509481985 kB\nMemAvailable: 1 kB\n", "MemTotal: 0x10 kB\nMemFree: 8\n")
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseMeminfo("meminfo", text)
		switch {
		case err != nil && !errors.Is(err, tier.ErrInvalid):
			t.Error(err)
		case err == nil && (m.total <= 0 || m.available < 0 || m.cmaFree < 0 || m.zswap < 0 || m.swapFree < 0):
			t.Errorf("%+v", m)
		}
	})
}

func FuzzSwaps(f *testing.F) {
	fuzzText(f, "Filename\n/dev/zram0 partition 5 9223372036854775807 1\n", "\n/a file 9007199254740991 1 1\n/a file 9007199254740991 1 1\n",
		"\n/a file -1 -9223372036854775808 1\n", "\n/a file 9223372036854775807 0 1\n")
	f.Fuzz(func(t *testing.T, text []byte) {
		var m tier.Memory
		s := newSource(newTree(t, map[string]string{"proc/swaps": string(text)}).options())
		err := s.readSwaps(&m)
		switch {
		case err != nil && !errors.Is(err, tier.ErrInvalid):
			t.Error(err)
		case err == nil && (m.SwapFree < 0 || m.SwapFree > m.SwapTotal || m.CompressedSwapFree < 0 || m.CompressedSwapFree > m.CompressedSwapTotal):
			t.Errorf("%+v", m)
		}
	})
}

func FuzzVmstat(f *testing.F) {
	fuzzText(f, "allocstall_a 18446744073709551615\nallocstall_b 1\n", "oom_kill\n")
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := parseVmstat("vmstat", text); err != nil && !strings.Contains(err.Error(), "vmstat") {
			t.Error(err)
		}
	})
}

func FuzzPSI(f *testing.F) {
	fuzzText(f, "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=100.00 avg60=1 avg300=0.00 total=0\n", "some avg10=-1 avg60=x",
		"some avg10=NaN avg60=inf avg300=1e99 total=1\n", "some avg10=1e2 avg60=0x1p3 avg300=0 total=1\nfull avg10=101 avg60=0 avg300=0 total=0\n")
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parsePSI("pressure", text)
		for _, share := range []float64{p.some10, p.some60, p.full10, p.full60} {
			if !(share >= 0 && share <= 100) {
				t.Errorf("%+v", p)
			}
		}
		if p.there != (err == nil) || err != nil && !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("%v: %+v", err, p)
		}
	})
}

func FuzzGroupFiles(f *testing.F) {
	fuzzText(f, "max\n", "9223372036854771712\n", "18446744073709551615", "total_inactive_file 5\nhierarchical_memory_limit 9\n", "max 1\noom 2\noom_kill 3\n", "inactive_file 18446744073709551615\n")
	f.Fuzz(func(t *testing.T, text []byte) {
		if v, err := parseValue("value", text); err == nil && v < 0 {
			t.Errorf("value %d", v)
		}
		for _, unified := range []bool{false, true} {
			if s, err := parseGroupStat("stat", text, unified); err == nil && (s.files.clean() < 0 || s.files.cleanMapped() < 0 || s.files.cleanMapped() > s.files.clean() || s.limit < 0) {
				t.Errorf("%+v", s)
			}
		}
		if _, err := parseGroupEvents("events", text); err != nil && !strings.Contains(err.Error(), "events") {
			t.Error(err)
		}
	})
}

func FuzzCgroupPlace(f *testing.F) {
	f.Add([]byte("4:memory:/a/b\n0::/x\n"), []byte(v1Mount+v2Mount))
	f.Add([]byte("0::/../..\n"), []byte("30 24 0:26 /.. /sys\\040/fs rw - cgroup2 cgroup2 rw\n"))
	f.Add([]byte("0::/a (deleted)\n"), []byte("1 2 3:4 / / rw - cgroup x memory\n - cgroup2\n"))
	f.Fuzz(func(t *testing.T, self, mountinfo []byte) {
		own, err := parseOwnCgroups("cgroup", self)
		if err != nil {
			return
		}
		mounts, err := parseMounts("mountinfo", mountinfo)
		if err != nil {
			return
		}
		for _, unified := range []bool{false, true} {
			where := own.memory
			if unified {
				where = own.unified
			}
			p, found := locate(mounts, unified, where, func(_ mount, below string) bool { return len(below)%2 == 0 })
			switch {
			case !found:
			case p.unified != unified, p.below != "" && p.below[0] != '/', strings.Contains(p.below+"/", "/../"):
				t.Errorf("%q in %q is at %+v", where, mountinfo, p)
			case depth(p.below) > maxDepth:
				t.Errorf("%d cgroups deep", depth(p.below))
			}
		}
	})
}

// FuzzProbe reads a whole machine of which every file is foreign.
func FuzzProbe(f *testing.F) {
	m := machine()
	f.Add([]byte(m["proc/meminfo"]), []byte(m["proc/swaps"]), []byte(m["proc/vmstat"]), []byte("max 0\noom_kill 1\ninactive_file 5\n"), []byte("1073741824"), true)
	f.Add([]byte("MemTotal: 9007199254740991 kB\nMemFree: 1 kB\nShmem: 9007199254740991 kB\n"), []byte(""), []byte("pswpout 1"), []byte("total_inactive_file 18446744073709551615\n"), []byte("0"), false)
	f.Fuzz(func(t *testing.T, meminfo, swaps, vmstat, stat, limit []byte, unified bool) {
		tr := newTree(t)
		place, dir, files := cgroups("0::/a\n", v2Mount), "sys/fs/cgroup/a", v2
		if !unified {
			place, dir, files = cgroups("4:memory:/a\n", v1Mount), "sys/fs/cgroup/memory/a", v1
		}
		for _, m := range []map[string]string{place, files(dir, "", "5", "memory.stat", string(stat), "memory.events", string(stat), "memory.max", string(limit), "memory.limit_in_bytes", string(limit))} {
			for name, text := range m {
				tr.write(name, text)
			}
		}
		tr.write("proc/meminfo", string(meminfo))
		tr.write("proc/swaps", string(swaps))
		tr.write("proc/vmstat", string(vmstat))
		p := newProbe(tr.options())
		defer p.Close()
		for range 2 {
			m, err := p.Memory(t.Context())
			if err != nil {
				return
			}
			if err := m.Validate(); err != nil {
				t.Errorf("%v: %+v", err, m)
			}
		}
	})
}
