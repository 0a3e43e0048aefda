package process

import (
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// BenchmarkStandby measures a tour of an engine with 1 GB of mapped weights: a
// start, freezes, and thaws with the weights still cached and dropped.
func BenchmarkStandby(b *testing.B) {
	const size = 1060 << 20
	for _, way := range []struct {
		name string
		sys  *system
	}{
		{"Cgroup", newSystem()},
		{"Session", withoutCgroups()},
	} {
		b.Run(way.name, func(b *testing.B) {
			r := newRig(b, way.sys, Options{Engine: fake{Touch: true}.engine()})
			m := modelOf(b, "m", size)
			took := make(map[string]time.Duration)
			move := func(name string, from, to tier.Tier) {
				began := time.Now()
				r.move(m, from, to)
				took[name] += time.Since(began)
			}
			for b.Loop() {
				move("start-cold", tier.Storage, tier.RAM)
				move("freeze", tier.RAM, tier.Swap)
				move("thaw-kept", tier.Swap, tier.RAM)
				move("freeze-again", tier.RAM, tier.Swap)
				began := time.Now()
				r.uncache(m)
				took["uncache"] += time.Since(began)
				move("thaw-cold", tier.Swap, tier.RAM)
				began = time.Now()
				r.get("m", "/sum")
				took["touch-all"] += time.Since(began)
				move("stop", tier.RAM, tier.Storage)
				move("start-warm", tier.Storage, tier.RAM)
				move("stop", tier.RAM, tier.Storage)
				r.uncache(m)
			}
			b.ReportMetric(0, "ns/op")
			for name, d := range took {
				n := b.N
				if name == "stop" {
					n *= 2
				}
				b.ReportMetric(float64(d.Microseconds())/1000/float64(n), name+"-ms")
			}
		})
	}
}

// BenchmarkLook measures what Footprint costs, with a cgroup to list the
// processes of the engine and without.
func BenchmarkLook(b *testing.B) {
	for name, sys := range map[string]*system{"Cgroup": newSystem(), "Session": withoutCgroups()} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, sys, Options{Engine: fake{}.engine()})
			r.move(modelOf(b, "m", 64<<20), tier.Storage, tier.RAM)
			b.ReportAllocs()
			for b.Loop() {
				r.Footprint("m")
			}
		})
	}
}
