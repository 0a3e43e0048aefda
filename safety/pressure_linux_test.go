package safety

import (
	"testing"
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
