package safety

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modeltier/modeltier/tier"
)

func TestMemory_CgroupBoundsSwap(t *testing.T) {
	disk := map[string]string{"proc/swaps": "Filename Type Size Used Priority\n/dev/sda2 partition 8388608 0 -2\n/dev/zram0 partition 4194304 0 100\n"}
	for _, c := range []struct {
		name        string
		files       []map[string]string
		total, free tier.Bytes
	}{
		{"v2 swap limit", []map[string]string{
			cgroups("0::/a\n", v2Mount), v2("sys/fs/cgroup/a", "", "5", "memory.swap.max", "2147483648\n", "memory.swap.current", gib+"\n"),
		}, 2 * tier.GiB, 1 * tier.GiB},
		{"v2 no swap at all", []map[string]string{
			cgroups("0::/a\n", v2Mount), v2("sys/fs/cgroup/a", "", "5", "memory.swap.max", "0\n"),
		}, 0, 0},
		{"v2 without swap accounting", []map[string]string{
			cgroups("0::/a\n", v2Mount), {"sys/fs/cgroup/a/memory.max": "max\n", "sys/fs/cgroup/a/memory.current": "1\n"},
		}, 8 * tier.GiB, 8 * tier.GiB},
		{"v1 memory and swap", []map[string]string{
			cgroups("4:memory:/a\n", v1Mount),
			v1("sys/fs/cgroup/memory/a", "4294967296", gib, "memory.memsw.limit_in_bytes", "6442450944\n", "memory.memsw.usage_in_bytes", "2147483648\n"),
		}, 2 * tier.GiB, 1 * tier.GiB},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newTree(t, append([]map[string]string{machine(), disk}, c.files...)...).read()
			if m.SwapTotal != c.total || m.SwapFree != c.free {
				t.Errorf("swap %v free of %v, want %v of %v", m.SwapFree, m.SwapTotal, c.free, c.total)
			}
			if m.CompressedSwapTotal > 4*tier.GiB || c.total < 4*tier.GiB && m.CompressedSwapTotal > c.total {
				t.Errorf("compressed swap %v", m.CompressedSwapTotal)
			}
		})
	}
}

func TestMemory_PressureOfLimitedGroup_RaisesTheMachines(t *testing.T) {
	group := func(limit string) tier.Pressure {
		return newTree(t, machine(), cgroups("0::/a\n", v2Mount), map[string]string{
			"proc/pressure/memory": "some avg10=1.00 avg60=9.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
		}, v2("sys/fs/cgroup/a", limit, gib, "memory.pressure", "some avg10=30.00 avg60=5.00 avg300=0.00 total=0\nfull avg10=8.00 avg60=2.00 avg300=0.00 total=0\n")).read().Pressure
	}
	limited := group("2147483648")
	want := tier.Pressure{HasPSI: true, Some10: 30, Some60: 9, Full10: 8, Full60: 2, Level: tier.PressureHigh}
	if diff := cmp.Diff(want, limited); diff != "" {
		t.Errorf("limited group (-want +got):\n%s", diff)
	}
	want = tier.Pressure{HasPSI: true, Some10: 1, Some60: 9}
	for _, limit := range []string{"", "17179869185"} { // the latter is more than the machine has
		if diff := cmp.Diff(want, group(limit)); diff != "" {
			t.Errorf("group with limit %q (-want +got):\n%s", limit, diff)
		}
	}
}

func TestMemory_GroupRunsIntoItsLimit_HighOnlyWithoutFilePages(t *testing.T) {
	type step struct {
		use, inactive, active string
		hits                  string
		want                  tier.PressureLevel
	}
	steps := []step{
		{gib, "0", "0", "5", tier.PressureLow},                      // full, but when that was is not known
		{gib, "0", "0", "5", tier.PressureLow},                      // and not again
		{gib, "500000000", "500000000", "316802", tier.PressureLow}, // reading files
		{gib, "30000000", "30000000", "316803", tier.PressureHigh},  // nothing left to drop
		{gib, "30000000", "30000000", "316803", tier.PressureLow},
	}
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			tr := newTree(t, machine())
			files := func(s step) map[string]string {
				if version == "v2" {
					return v2("sys/fs/cgroup/a", gib, s.use, append(stat2(s.inactive, s.active),
						"memory.events", "low 0\nhigh 0\nmax "+s.hits+"\noom 0\noom_kill 0\n")...)
				}
				return v1("sys/fs/cgroup/memory/a", gib, s.use, "memory.failcnt", s.hits+"\n", "memory.stat",
					"hierarchical_memory_limit 1073741824\ntotal_inactive_file "+s.inactive+"\ntotal_active_file "+s.active+"\n")
			}
			place := cgroups("0::/a\n", v2Mount)
			if version == "v1" {
				place = cgroups("4:memory:/a\n", v1Mount)
			}
			for name, text := range place {
				tr.write(name, text)
			}
			p := tr.probe()
			for i, s := range steps {
				for name, text := range files(s) {
					tr.write(name, text)
				}
				if m := mustRead(t, p); m.Pressure.Level != s.want {
					t.Errorf("step %d: level %v, want %v", i, m.Pressure.Level, s.want)
				}
			}
		})
	}
}

func TestMemory_KillsInOurGroups_CountedThereAndNotElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := func(oom, kills string) []string {
			return []string{"memory.events", "max 0\noom " + oom + "\noom_kill " + kills + "\n"}
		}
		tr := newTree(t, machine(), cgroups("0::/a/b\n", v2Mount),
			v2("sys/fs/cgroup/a", "4294967296", gib, events("7", "5")...), v2("sys/fs/cgroup/a/b", "2147483648", "1", events("2", "1")...))
		p := tr.probe()
		if m := mustRead(t, p); m.Pressure.OOMKills != 5 || m.Pressure.Level != tier.PressureLow {
			t.Fatalf("%+v", m.Pressure)
		}
		tr.write("proc/vmstat", "oom_kill 100\n") // somebody else's
		if m := mustRead(t, p); m.Pressure.OOMKills != 5 || m.Pressure.Level != tier.PressureLow {
			t.Errorf("a kill elsewhere counts: %+v", m.Pressure)
		}
		tr.write("sys/fs/cgroup/a/memory.events", "max 0\noom 8\noom_kill 5\n")
		if m := mustRead(t, p); m.Pressure.Level != tier.PressureHigh {
			t.Errorf("a failed allocation does not count: %+v", m.Pressure)
		}
		time.Sleep(2 * time.Minute)
		tr.write("sys/fs/cgroup/a/memory.events", "max 0\noom 8\noom_kill 6\n")
		if m := mustRead(t, p); m.Pressure.OOMKills != 6 || m.Pressure.Level != tier.PressureHigh {
			t.Errorf("a kill does not count: %+v", m.Pressure)
		}
	})
}

func TestMemory_KillsInVersion1_SumOfOurGroups(t *testing.T) {
	kills := func(n string) []string {
		return []string{"memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill " + n + "\n"}
	}
	m := newTree(t, machine(), cgroups("4:memory:/a/b\n", v1Mount),
		v1("sys/fs/cgroup/memory/a", "4294967296", gib, kills("3")...), v1("sys/fs/cgroup/memory/a/b", "2147483648", "1", kills("4")...)).read()
	if m.Pressure.OOMKills != 7 {
		t.Errorf("%d kills, want 7", m.Pressure.OOMKills)
	}
}
