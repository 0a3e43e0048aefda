package safety

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/procfs"

	"github.com/modeltier/modeltier/tier"
)

// The parsers here are our own because they run at every reading and allocate
// nothing; procfs says what they should have seen.

func TestParsers_ThisMachineAndCaptures_AgreeWithProcfs(t *testing.T) {
	dirs := map[string]string{"this machine": "/proc"}
	for _, name := range []string{"meminfo_orin_nano_8gb_r36.txt", "meminfo_tx2_8gb_r32.txt"} {
		if text, err := os.ReadFile(filepath.Join(shared, "field/jetson", name)); err == nil {
			tr := newTree(t, map[string]string{"proc/meminfo": string(text)})
			dirs[name] = tr.dir + "/proc"
		}
	}
	for name, dir := range dirs {
		t.Run(name, func(t *testing.T) {
			oracle, err := procfs.NewFS(dir)
			if err != nil {
				t.Fatal(err)
			}
			buf := []byte(nil)
			read := func(name string) string {
				text, err := (&file{path: dir + "/" + name}).read(&buf)
				if err != nil {
					t.Skip(err)
				}
				return string(text)
			}
			text := read("meminfo")
			want, err := oracle.Meminfo()
			if err != nil {
				t.Fatal(err)
			}
			got, err := parseMeminfo("meminfo", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range []struct {
				name string
				got  tier.Bytes
				want *uint64
			}{
				{"MemTotal", got.total, want.MemTotalBytes},
				{"SwapTotal", got.swapTotal, want.SwapTotalBytes},
				{"CmaTotal", got.cmaTotal, want.CmaTotalBytes},
			} {
				if f.want != nil && uint64(f.got) != *f.want {
					t.Errorf("%s is %d, procfs says %d", f.name, f.got, *f.want)
				}
			}
			// These move between two readings.
			if diff := float64(got.available) - float64(*want.MemAvailableBytes); math.Abs(diff) > float64(got.total)/20 {
				t.Errorf("MemAvailable is %d, procfs says %d", got.available, *want.MemAvailableBytes)
			}
			if name != "this machine" {
				return
			}
			swaps, err := oracle.Swaps()
			if err != nil {
				t.Fatal(err)
			}
			sum := tier.Bytes(0)
			for _, s := range swaps {
				sum += tier.Bytes(s.Size) * tier.KiB
			}
			space, err := parseSwaps("swaps", []byte(read("swaps")))
			if err != nil || space.diskTotal+space.zramTotal != sum {
				t.Errorf("swap is %+v, procfs says %v (%v)", space, sum, err)
			}
			if psi, err := oracle.PSIStatsForResource("memory"); err == nil {
				var p tier.Pressure
				if err := parsePSI("memory", []byte(read("pressure/memory")), &p); err != nil || math.Abs(p.Some60-psi.Some.Avg60) > 20 {
					t.Errorf("some avg60 is %v, procfs says %v (%v)", p.Some60, psi.Some.Avg60, err)
				}
			}
			zones, err := oracle.Zoneinfo()
			if err != nil {
				t.Fatal(err)
			}
			low := uint64(0)
			for _, z := range zones {
				if z.Low != nil {
					low += uint64(*z.Low)
				}
			}
			if pages, err := parseWatermarks("zoneinfo", []byte(read("zoneinfo"))); err != nil || pages != low {
				t.Errorf("low watermarks are %d pages, procfs says %d (%v)", pages, low, err)
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
				for _, c := range l.Controllers {
					if c == "memory" {
						placed.memory = l.Path
					}
				}
			}
			own, err := parseOwnCgroups("cgroup", []byte(read("self/cgroup")))
			if err != nil || own != placed {
				t.Errorf("we are at %+v, procfs says %+v (%v)", own, placed, err)
			}
		})
	}
}

func TestParseMeminfo_OddTexts(t *testing.T) {
	const good = "MemTotal: 10 kB\nMemAvailable: 4 kB\n"
	for name, text := range map[string]string{
		"blank lines":           "\n\n" + good + "\n \n",
		"no line end at last":   "MemTotal: 10 kB\nMemAvailable: 4 kB",
		"carriage returns":      "MemTotal: 10 kB\r\nMemAvailable: 4 kB\r\n",
		"tabs":                  "MemTotal:\t10\tkB\nMemAvailable:\t4 kB\n",
		"vendor's own":          "NvMapMemFree: much\nno colon\n:\n" + good,
		"fields without a unit": good + "HugePages_Total: 0\n",
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
		"/dev/zram": false, "/dev/zramx": false, "/dev/nvme0n1p3": false, "/zram0/file": false, "": false,
	} {
		if got := isZRAM([]byte(device)); got != want {
			t.Errorf("%q: %v", device, got)
		}
	}
}

func TestPercent_DecimalsOnly(t *testing.T) {
	for text, want := range map[string]float64{"0.00": 0, "4.96": 4.96, "100.00": 100, "7": 7, "99.999": 99.999} {
		if got, ok := percent([]byte(text)); !ok || math.Abs(got-want) > 1e-9 {
			t.Errorf("%q: %v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", ".", "1.", ".5", "-1.00", "100.01", "1e2", "NaN", "1.2.3", "1.0000000000", "99999999999999999999"} {
		if got, ok := percent([]byte(text)); ok {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestUnescape_KernelsEscapes(t *testing.T) {
	for text, want := range map[string]string{
		`/a\040b`: "/a b", `/a\134b`: `/a\b`, `\011\012`: "\t\n", `/a\`: `/a\`, `/a\04`: `/a\04`, `/a\999`: `/a\999`, `\777`: `\777`, "": "",
	} {
		if got := unescape([]byte(text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// fuzzText seeds a fuzz target with texts that the parsers know.
func fuzzText(f *testing.F, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	for _, name := range []string{"/proc/meminfo", "/proc/vmstat", "/proc/swaps", "/proc/pressure/memory", "/proc/zoneinfo", "/proc/self/cgroup", "/proc/self/mountinfo"} {
		if text, err := os.ReadFile(name); err == nil {
			f.Add(text)
		}
	}
}

func FuzzMeminfo(f *testing.F) {
	fuzzText(f, "MemTotal: 1 kB\nMemAvailable: 99999999999999999999 kB\n", "MemTotal: 1 kB\nMemFree:\n\n", "MemTotal:1 kB\nMemFree: 2 kB\nShmem: 9007199254740991 kB\nZswap: 5 kB")
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseMeminfo("meminfo", text)
		if err == nil && (m.total <= 0 || m.available < 0 || m.free < 0 || m.cmaFree < 0 || m.zswap < 0 || m.swapFree < 0) {
			t.Errorf("%+v", m)
		}
	})
}

func FuzzSwaps(f *testing.F) {
	fuzzText(f, "Filename\n/dev/zram0 partition 5 9223372036854775807 1\n", "\n/a file 9007199254740991 1\n/a file 9007199254740991 1\n")
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parseSwaps("swaps", text)
		if err == nil && (s.diskFree < 0 || s.diskFree > s.diskTotal || s.zramFree < 0 || s.zramFree > s.zramTotal) {
			t.Errorf("%+v", s)
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
	fuzzText(f, "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=100.00 avg60=1 avg300=0.00 total=0\n", "some avg10=-1 avg60=x")
	f.Fuzz(func(t *testing.T, text []byte) {
		var p tier.Pressure
		err := parsePSI("psi", text, &p)
		for _, share := range []float64{p.Some10, p.Some60, p.Full10, p.Full60} {
			if !(share >= 0 && share <= 100) {
				t.Errorf("%+v", p)
			}
		}
		if p.HasPSI != (err == nil) {
			t.Errorf("%v: %+v", err, p)
		}
	})
}

func FuzzWatermarks(f *testing.F) {
	fuzzText(f, "low 281474976710656\nlow 281474976710656\nlow 281474976710656\n")
	f.Fuzz(func(t *testing.T, text []byte) {
		if n, err := parseWatermarks("zoneinfo", text); err == nil && n > 1<<50 {
			t.Errorf("%d pages", n)
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
			if s, err := parseGroupStat("stat", text, unified); err == nil && (s.files < 0 || s.limit < 0) {
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
			case depth(p.below) > deepest:
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
