package safety

import (
	"cmp"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/tier"
)

func TestJudge_Thresholds_EnteredAtOnceAndLeftAtHalf(t *testing.T) {
	psi := func(some, full float64) tier.Pressure { return tier.Pressure{HasPSI: true, Some10: some, Full10: full} }
	rate := func(refault, out tier.Bytes) tier.Pressure { return tier.Pressure{Refault: refault, SwapOut: out} }
	const low, medium, high = tier.PressureLow, tier.PressureMedium, tier.PressureHigh
	type step struct {
		p    tier.Pressure
		want tier.PressureLevel
	}
	for name, steps := range map[string][]step{
		"some": {{psi(4.9, 0), low}, {psi(5, 0), medium}, {psi(2.5, 0), medium}, {psi(2.4, 0), low}, {psi(19.9, 0), medium}, {psi(20, 0), high}, {psi(10, 0), high}, {psi(9.9, 0), medium}, {psi(0, 0), low}},
		"full": {{psi(4.9, 4.9), low}, {psi(5, 5), high}, {psi(3, 2.5), high}, {psi(2.5, 2.4), medium}, {psi(2.4, 2.4), low}},
		"refault": {{rate(32*tier.MiB-1, 0), low}, {rate(32*tier.MiB, 0), medium}, {rate(16*tier.MiB, 0), medium},
			{rate(16*tier.MiB-1, 0), low}, {rate(1000*tier.GiB, 0), medium}},
		"swap-out": {{rate(0, 8*tier.MiB-1), low}, {rate(0, 8*tier.MiB), high}, {rate(0, 4*tier.MiB), high}, {rate(0, 4*tier.MiB-1), low}},
	} {
		var j judge
		for i, s := range steps {
			own := stalls{there: s.p.HasPSI, some10: s.p.Some10, full10: s.p.Full10}
			if j = j.next(time.Unix(int64(i), 0), s.p, signs{scope: "host", reclaiming: true, own: own}); j.level != s.want {
				t.Errorf("%s, step %d: %v, want %v", name, i, j.level, s.want)
			}
		}
	}
}

func TestJudge_RatesWithPSI_DoNotCount(t *testing.T) {
	p := tier.Pressure{HasPSI: true, Refault: tier.GiB, SwapOut: tier.GiB, Stalls: 100}
	if j := (judge{}).next(time.Unix(0, 0), p, signs{reclaiming: true}); j.level != tier.PressureLow {
		t.Errorf("level %v", j.level)
	}
}

// The machine's stalls are those of every neighbour at a limit of its own as well.
func TestMemory_StallsOfTheMachine_CountWithAShortageThatIsSeenHere(t *testing.T) {
	const none, low = "", "MemTotal: 16777216 kB\nMemAvailable: 1048575 kB\n"
	page := tier.Bytes(os.Getpagesize())
	second := func(b tier.Bytes) string { return strconv.Itoa(int(b / page * 4)) } // in four seconds
	zram := "Filename Type Size Used Priority\n/dev/zram0 partition 8388608 4194304 100\n"
	for _, c := range []struct {
		name                  string
		meminfo, vmstat, stat string
		swap                  string // of our own group, after four seconds
		swaps                 string
		want                  tier.PressureLevel
		reading               bool
	}{
		{name: "none", want: tier.PressureLow},
		{name: "a neighbour reads its files again", vmstat: "workingset_refault_file " + second(900*tier.MiB) + "\n", want: tier.PressureLow},
		{name: "a neighbour swaps at its limit", vmstat: "pswpout " + second(90*tier.MiB) + "\n", want: tier.PressureLow},
		{name: "little is available", meminfo: low, want: tier.PressureHigh},
		{name: "swap-out", vmstat: "pswpout " + second(8*tier.MiB) + "\npgscan_direct 99\n", want: tier.PressureHigh},
		{name: "swap-out to zram", vmstat: "pswpout " + second(8*tier.MiB) + "\npgscan_direct 99\n", swaps: zram, want: tier.PressureHigh},
		{name: "direct reclaim", vmstat: "allocstall_normal 4\n", want: tier.PressureHigh, reading: true},
		{name: "direct reclaim now and then", vmstat: "allocstall_normal 3\n", want: tier.PressureLow},
		{name: "our files are read again", stat: second(32 * tier.MiB), want: tier.PressureHigh, reading: true},
		{name: "few of our files are read again", stat: second(31 * tier.MiB), want: tier.PressureLow},
		{name: "our own group swaps at its limit", swap: strconv.Itoa(32 << 20), want: tier.PressureHigh},
	} {
		for _, version := range []string{"v1", "v2"} {
			t.Run(c.name+", "+version, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tr := newTree(t, machine(), map[string]string{
						"proc/pressure/memory": "some avg10=40.00 avg60=9.00 avg300=0.00 total=0\nfull avg10=30.00 avg60=0.00 avg300=0.00 total=0\n",
					})
					writeAll := func(all ...map[string]string) {
						for _, files := range all {
							for name, text := range files {
								tr.write(name, text)
							}
						}
					}
					group := func(refaults, swap string) map[string]string {
						if version == "v1" {
							return v1("sys/fs/cgroup/memory/a", "", gib, "memory.stat", "total_workingset_refault_file "+refaults+"\ntotal_swap "+swap+"\n")
						}
						return v2("sys/fs/cgroup/a", "", gib, "memory.stat", "workingset_refault_file "+refaults+"\n", "memory.swap.current", swap+"\n",
							"memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
					}
					if version == "v1" {
						writeAll(cgroups("4:memory:/a\n0::/\n", v1Mount+v2Mount), group("0", "0"))
					} else {
						writeAll(cgroups("0::/a\n", v2Mount), group("0", "0"))
					}
					p := tr.probe()
					if m := mustRead(t, p); m.Pressure.Level != tier.PressureLow || m.Pressure.Stalled != tier.PressureHigh {
						t.Fatalf("at first: %+v", m.Pressure)
					}
					time.Sleep(4 * time.Second)
					for name, text := range map[string]string{"proc/meminfo": c.meminfo, "proc/vmstat": c.vmstat, "proc/swaps": c.swaps} {
						if text != none {
							tr.write(name, text)
						}
					}
					writeAll(group(orZero(c.stat), orZero(c.swap)))
					if m := mustRead(t, p); m.Pressure.Level != c.want || m.Pressure.Reading != c.reading || m.Pressure.Stalled != tier.PressureHigh {
						t.Errorf("%+v, want %v", m.Pressure, c.want)
					}
				})
			})
		}
	}
}

func orZero(number string) string { return cmp.Or(number, "0") }

func TestMemory_StallsOfOwnGroup_InHybridTooAndNeverTheRootsOwn(t *testing.T) {
	const high = "some avg10=40.00 avg60=9.00 avg300=0.00 total=0\nfull avg10=30.00 avg60=0.00 avg300=0.00 total=0\n"
	mounts := v1Mount + "37 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	const root = "sys/fs/cgroup/unified"
	for _, c := range []struct {
		name, self string
		files      map[string]string
		want       tier.PressureLevel
		of         string
	}{
		{"hybrid", "4:memory:/a\n0::/s\n", map[string]string{root + "/s/memory.pressure": high}, tier.PressureHigh, "/sys/fs/cgroup/unified/s"},
		{"hybrid, in the root", "4:memory:/a\n0::/\n", map[string]string{root + "/memory.pressure": high}, tier.PressureLow, "host"},
		{"hybrid, in a namespace", "4:memory:/a\n0::/\n", map[string]string{root + "/memory.pressure": high, root + "/cgroup.type": "domain\n"}, tier.PressureHigh, "/sys/fs/cgroup/unified"},
		{"hybrid, switched off", "4:memory:/a\n0::/s\n", map[string]string{root + "/s/cgroup.procs": ""}, tier.PressureLow, "host"},
		{"outside of its namespace", "4:memory:/a\n0::/../s\n", map[string]string{root + "/memory.pressure": high, root + "/cgroup.type": "domain\n"}, tier.PressureLow, "host"},
	} {
		tr := newTree(t, machine(), cgroups(c.self, mounts), v1("sys/fs/cgroup/memory/a", "", gib), c.files,
			map[string]string{"proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"})
		p := tr.probe()
		if m := mustRead(t, p); m.Pressure.Level != c.want {
			t.Errorf("%s: %+v", c.name, m.Pressure)
		}
		if s := p.Status(); s.StallsOf != c.of {
			t.Errorf("%s: stalls are those of %q, want %q", c.name, s.StallsOf, c.of)
		}
	}
}

func TestJudge_AnotherScopesCount_IsNoKill(t *testing.T) {
	j := (judge{}).next(time.Unix(0, 0), tier.Pressure{OOMKills: 1}, signs{scope: "host"})
	j = j.next(time.Unix(1, 0), tier.Pressure{OOMKills: 9}, signs{scope: "/a", failures: 5})
	if j.level != tier.PressureLow {
		t.Errorf("level %v", j.level)
	}
	if j = j.next(time.Unix(2, 0), tier.Pressure{OOMKills: 10}, signs{scope: "/a", failures: 5}); j.level != tier.PressureHigh {
		t.Errorf("level %v", j.level)
	}
}

func TestMemory_NoPSI_RatesOverTwoSecondsJudge(t *testing.T) {
	page := tier.Bytes(os.Getpagesize())
	perSecond := func(b tier.Bytes, seconds int) int { return int(b/page) * seconds }
	vmstat := func(refault, out, stalls int) string {
		return "workingset_refault_file " + strconv.Itoa(refault) + "\npswpout " + strconv.Itoa(out) + "\nallocstall_dma 1\nallocstall_movable " + strconv.Itoa(stalls) + "\noom_kill 0\n"
	}
	for _, c := range []struct {
		name                 string
		refault, out, stalls int // over four seconds
		want                 tier.PressureLevel
	}{
		{"quiet", 0, 0, 0, tier.PressureLow},
		{"stalls alone", 0, 0, 1000, tier.PressureLow},
		{"swap-out alone", 0, perSecond(100*tier.MiB, 4), 0, tier.PressureLow},
		{"swap-out with stalls", 0, perSecond(8*tier.MiB, 4), 4, tier.PressureHigh},
		{"less swap-out with stalls", 0, perSecond(7*tier.MiB, 4), 4, tier.PressureLow},
		{"refaults", perSecond(32*tier.MiB, 4), 0, 0, tier.PressureMedium},
		{"fewer refaults", perSecond(31*tier.MiB, 4), 0, 0, tier.PressureLow},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newTree(t, machine())
				p := tr.probe()
				tr.write("proc/vmstat", vmstat(7, 7, 7))
				if m := mustRead(t, p); m.Pressure.Level != tier.PressureLow {
					t.Fatalf("high after the first reading: %+v", m.Pressure)
				}
				tr.write("proc/vmstat", vmstat(7+c.refault, 7+c.out, 7+c.stalls))
				time.Sleep(time.Second)
				if m := mustRead(t, p); m.Pressure.Refault != 0 || m.Pressure.SwapOut != 0 {
					t.Fatalf("rates before the window has passed: %+v", m.Pressure)
				}
				time.Sleep(3 * time.Second)
				m := mustRead(t, p)
				if m.Pressure.Level != c.want {
					t.Errorf("level %v, want %v: %+v", m.Pressure.Level, c.want, m.Pressure)
				}
				if want := tier.Bytes(c.refault) * page / 4; m.Pressure.Refault != want {
					t.Errorf("refault %v, want %v", m.Pressure.Refault, want)
				}
				if want := float64(c.stalls) / 4; m.Pressure.Stalls != want {
					t.Errorf("stalls %v, want %v", m.Pressure.Stalls, want)
				}
				time.Sleep(4 * time.Second)
				if m := mustRead(t, p); m.Pressure.Level != tier.PressureLow {
					t.Errorf("still %v though nothing happened", m.Pressure.Level)
				}
			})
		})
	}
}

func TestMemory_CounterFalls_RateIsZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTree(t, machine())
		tr.write("proc/vmstat", "pswpout 18446744073709551615\nallocstall_normal 5\n")
		p := tr.probe()
		mustRead(t, p)
		time.Sleep(5 * time.Second)
		tr.write("proc/vmstat", "pswpout 3\nallocstall_normal 2\n")
		if m := mustRead(t, p); m.Pressure.SwapOut != 0 || m.Pressure.Stalls != 0 {
			t.Errorf("%+v", m.Pressure)
		}
		time.Sleep(5 * time.Second)
		tr.write("proc/vmstat", "pswpout 18446744073709551615\n")
		if m := mustRead(t, p); m.Pressure.SwapOut <= 0 {
			t.Errorf("%+v", m.Pressure)
		}
	})
}

func TestMemory_PSI_OfMachineReported(t *testing.T) {
	tr := newTree(t, machine(), map[string]string{
		"proc/pressure/memory": "some avg10=4.96 avg60=2.96 avg300=1.62 total=30473380\nfull avg10=1.25 avg60=0.50 avg300=0.00 total=0\n",
	})
	p := tr.read().Pressure
	want := tier.Pressure{HasPSI: true, Some10: 4.96, Some60: 2.96, Full10: 1.25, Full60: 0.5}
	if p != want {
		t.Errorf("got %+v, want %+v", p, want)
	}
}

func TestMemory_KillOnTheMachine_HighForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTree(t, machine())
		p := tr.probe()
		tr.write("proc/vmstat", "oom_kill 3\n")
		if m := mustRead(t, p); m.Pressure.Level != tier.PressureLow || m.Pressure.OOMKills != 3 {
			t.Fatalf("kills before our time count: %+v", m.Pressure)
		}
		tr.write("proc/vmstat", "oom_kill 4\n") // at a neighbour's limit
		if m := mustRead(t, p); m.Pressure.Level != tier.PressureLow || m.Pressure.OOMKills != 4 {
			t.Fatalf("a kill without direct reclaim counts: %+v", m.Pressure)
		}
		tr.write("proc/vmstat", "allocstall_normal 1\noom_kill 5\n")
		if m := mustRead(t, p); m.Pressure.Level != tier.PressureHigh || m.Pressure.OOMKills != 5 {
			t.Errorf("after a kill: %+v", m.Pressure)
		}
		time.Sleep(59 * time.Second)
		if m := mustRead(t, p); m.Pressure.Level != tier.PressureHigh {
			t.Errorf("after 59 s: %+v", m.Pressure)
		}
		time.Sleep(2 * time.Second)
		if m := mustRead(t, p); m.Pressure.Level != tier.PressureLow {
			t.Errorf("after 61 s: %+v", m.Pressure)
		}
	})
}
