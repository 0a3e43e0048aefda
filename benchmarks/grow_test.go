package benchmarks

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

const (
	growClients = 32
	growModels  = 1000 // half of them come as files, half by hot load
	growServed  = 16   // models that are there and asked for
)

// growing is a server of a few models whose library grows under its clients.
type growing struct {
	*modeltier.Manager
	dir string

	auto  bool         // one request in eight is for any model
	phase atomic.Int32 // index into the latencies that requests count to
	stop  atomic.Bool
	done  sync.WaitGroup

	mu     sync.Mutex // guards the rest
	waits  [3][]time.Duration
	failed []error
}

// tiny writes a model of that name.
func (g *growing) tiny(tb testing.TB, name string) {
	header := fmt.Sprintf(`{"x":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"__metadata__":{"n":%q}}`, name)
	b := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
	if err := os.WriteFile(filepath.Join(g.dir, name+".safetensors"), append(b, "12345678"...), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func newGrowing(tb testing.TB, auto bool) *growing {
	g := &growing{dir: tb.TempDir(), auto: auto}
	for i := range growServed {
		g.tiny(tb, fmt.Sprint("served", i))
	}
	m, err := modeltier.New(modeltier.Config{
		ModelDir: g.dir, WatchModelDir: true, StateDir: tb.TempDir(),
		Limits: tier.Limits{RAM: 1 << 40, Swap: 1 << 40, MaxModel: tier.Unlimited},
		Mover:  &tiertest.Mover{Time: func(tier.Move) time.Duration { return 0 }},
		Probe:  tiertest.NewProbe(tier.Memory{Total: 1 << 41, Available: 1 << 41}),
	})
	if err != nil {
		tb.Fatal(err)
	}
	g.Manager = m
	for i := range growClients {
		g.done.Go(func() { g.client(uint64(i)) })
	}
	tb.Cleanup(func() {
		g.stop.Store(true)
		g.done.Wait()
		if err := errors.Join(append(g.failed, m.Close())...); err != nil {
			tb.Error(err)
		}
	})
	return g
}

// client asks for models, by name or by what they can do, and holds each for a moment.
func (g *growing) client(seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	for !g.stop.Load() {
		req := modeltier.Request{Model: fmt.Sprint("served", rng.IntN(growServed))}
		if g.auto && rng.IntN(8) == 0 {
			req = modeltier.Request{Priority: modeltier.Speed}
		}
		phase, began := g.phase.Load(), time.Now()
		l, err := g.Acquire(context.Background(), req)
		took := time.Since(began)
		g.mu.Lock()
		if err != nil {
			g.failed = append(g.failed, err)
		}
		g.waits[phase] = append(g.waits[phase], took)
		g.mu.Unlock()
		if err != nil {
			return
		}
		time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond)
		l.Release()
		time.Sleep(time.Duration(rng.IntN(4000)) * time.Microsecond)
	}
}

// grow adds models until all are known.
func (g *growing) grow(tb testing.TB, round int) {
	before := 0
	for range g.Models() {
		before++
	}
	for i := range growModels / 2 {
		g.tiny(tb, fmt.Sprintf("file%d-%d", round, i))
		job, err := g.HotLoad(context.Background(), tier.Model{Name: fmt.Sprintf("hot%d-%d", round, i), Size: tier.MiB, Home: tier.RAM})
		if err == nil {
			err = job.Wait(context.Background())
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	for limit := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		n := 0
		for range g.Models() {
			n++
		}
		if n == before+growModels {
			return
		}
		if time.Now().After(limit) {
			tb.Fatalf("%d models are there, want %d", n, before+growModels)
		}
	}
}

// p99 returns that of a phase.
func (g *growing) p99(phase int) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	slices.Sort(g.waits[phase])
	return g.waits[phase][len(g.waits[phase])*99/100]
}

// BenchmarkGrow compares what requests wait while a thousand models come with what they
// wait before and after that.
func BenchmarkGrow(b *testing.B) {
	b.Run("named", func(b *testing.B) { benchmarkGrow(b, false) })
	b.Run("auto", func(b *testing.B) { benchmarkGrow(b, true) })
}

func benchmarkGrow(b *testing.B, auto bool) {
	g := newGrowing(b, auto)
	for round := 0; b.Loop(); round++ {
		const quiet = 3 * time.Second
		time.Sleep(quiet)
		g.phase.Store(1)
		began := time.Now()
		g.grow(b, round)
		b.ReportMetric(time.Since(began).Seconds(), "grow-s")
		g.phase.Store(2)
		time.Sleep(quiet)
		g.phase.Store(0)
	}
	still, after, growing := g.p99(0), g.p99(2), g.p99(1)
	b.ReportMetric(float64(still.Nanoseconds())/1e3, "p99-before-µs")
	b.ReportMetric(float64(after.Nanoseconds())/1e3, "p99-after-µs")
	b.ReportMetric(float64(growing.Nanoseconds())/1e3, "p99-growing-µs")
	b.ReportMetric(2*float64(growing)/float64(still+after), "ratio")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkReconfigure replaces every model of the library: four times as many cost four
// times as much.
func BenchmarkReconfigure(b *testing.B) {
	for _, n := range []int{2500, 10_000} {
		b.Run(fmt.Sprintf("models=%d", n), func(b *testing.B) {
			models := library(n)
			m := manager(b, slices.Clone(models))
			for b.Loop() {
				for i := range models {
					models[i].Size += tier.MiB
				}
				r, err := m.Reconfigure(b.Context(), models, tier.Limits{RAM: 1 << 50, Swap: 1 << 50, MaxModel: tier.Unlimited})
				if err != nil || len(r.Replaced) != n {
					b.Fatal(len(r.Replaced), err)
				}
			}
		})
	}
}

// The bound is far above what is measured: it is for what blocks requests.
func TestGrow_ThousandModelsUnderClients_NoRequestFailsOrWaitsLong(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	g := newGrowing(t, true)
	g.phase.Store(1)
	g.grow(t, 0)
	if p99 := g.p99(1); p99 > time.Second {
		t.Errorf("p99 %v", p99)
	}
}
