package safety

import (
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
			if j = j.next(time.Unix(int64(i), 0), s.p, signs{scope: "host", reclaiming: true}); j.level != s.want {
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
		tr.write("proc/vmstat", "oom_kill 4\n")
		if m := mustRead(t, p); m.Pressure.Level != tier.PressureHigh || m.Pressure.OOMKills != 4 {
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
