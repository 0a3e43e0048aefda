package benchmarks

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// library makes n models; every tenth can do something that the others cannot.
func library(n int) []tier.Model {
	models := make([]tier.Model, n)
	for i := range models {
		models[i] = tier.Model{
			Name: fmt.Sprintf("model-%06d", i), Size: tier.Bytes(1+i%64) * 64 * tier.MiB,
			Capabilities: []string{"text-generation", [...]string{"chat", "code-generation", "fast"}[i%3]},
		}
		if i%10 == 0 {
			models[i].Capabilities = append(models[i].Capabilities, "embeddings")
		}
	}
	return models
}

// manager starts a Manager on a mover that takes no time.
func manager(b *testing.B, models []tier.Model) *modeltier.Manager {
	b.Helper()
	m, err := modeltier.New(modeltier.Config{
		Models: models,
		Limits: tier.Limits{RAM: 1 << 50, Swap: 1 << 50, MaxModel: tier.Unlimited},
		Mover:  &tiertest.Mover{Time: func(tier.Move) time.Duration { return 0 }},
		Probe:  tiertest.NewProbe(tier.Memory{Total: 1 << 51, Available: 1 << 51}),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := m.Close(); err != nil {
			b.Error(err)
		}
	})
	return m
}

var sizes = []int{6, 200, 10_000, 100_000}

// BenchmarkSelect is the time to select, by how the model is asked for and by the size of
// the library.
func BenchmarkSelect(b *testing.B) {
	managers := make([]*modeltier.Manager, len(sizes))
	for i, n := range sizes {
		managers[i] = manager(b, library(n))
	}
	for _, mode := range []struct {
		name string
		req  func(models int) modeltier.Request
	}{
		{"manual", func(n int) modeltier.Request { return modeltier.Request{Model: fmt.Sprintf("model-%06d", n/2)} }},
		{"auto", func(int) modeltier.Request { return modeltier.Request{} }},
		{"auto-two", func(int) modeltier.Request {
			return modeltier.Request{Capabilities: []string{"embeddings", "chat"}, Priority: modeltier.Quality}
		}},
	} {
		for i, n := range sizes {
			b.Run(fmt.Sprintf("%s/models=%d", mode.name, n), func(b *testing.B) {
				req := mode.req(n)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := managers[i].Select(req); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkAcquire is a resident model, leased and released, by one goroutine
// and by two at once.
func BenchmarkAcquire(b *testing.B) {
	ctx := context.Background()
	models := library(200)
	m := manager(b, models)
	req := modeltier.Request{Model: models[7].Name}
	use := func(b *testing.B, req modeltier.Request) {
		l, err := m.Acquire(ctx, req)
		if err != nil {
			b.Error(err)
			return
		}
		l.Release()
	}
	use(b, req)
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			use(b, req)
		}
	})
	// The same number of operations by one goroutine and then by two, in turn, so
	// that the ratio is of one run.
	b.Run("two-over-one", func(b *testing.B) {
		const batch = 50_000
		var one, two time.Duration
		run := func(workers int) time.Duration {
			var wg sync.WaitGroup
			began := time.Now()
			for range workers {
				wg.Go(func() {
					for range batch {
						use(b, req)
					}
				})
			}
			wg.Wait()
			return time.Since(began)
		}
		for b.Loop() {
			one += run(1)
			two += run(2)
		}
		b.ReportMetric(2*float64(one)/float64(two), "x-throughput")
		b.ReportMetric(float64(one.Nanoseconds())/float64(b.N)/batch, "ns/acquire")
	})
}

// BenchmarkAcquireAll takes leases on three resident models in one call, and one by one.
func BenchmarkAcquireAll(b *testing.B) {
	ctx := context.Background()
	models := library(200)
	m := manager(b, models)
	reqs := []modeltier.Request{{Model: models[7].Name}, {Model: models[11].Name}, {Model: models[13].Name}}
	together := func() {
		leases, err := m.AcquireAll(ctx, reqs...)
		if err != nil {
			b.Fatal(err)
		}
		for _, l := range leases {
			l.Release()
		}
	}
	together()
	b.Run("together", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			together()
		}
	})
	b.Run("one-by-one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var leases [3]*modeltier.Lease
			for i := range reqs {
				var err error
				if leases[i], err = m.Acquire(ctx, reqs[i]); err != nil {
					b.Fatal(err)
				}
			}
			for _, l := range leases {
				l.Release()
			}
		}
	})
}

func BenchmarkHandleRequest(b *testing.B) {
	ctx := context.Background()
	m := manager(b, library(200))
	for name, request := range map[string]string{
		"manual": `{"model": "model-000007"}`,
		"auto":   `{"capabilities": ["embeddings"], "priority": "speed"}`,
	} {
		m.HandleRequest(ctx, []byte(request))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.HandleRequest(ctx, []byte(request))
			}
		})
	}
}

// BenchmarkPlan asks the default placement for room for one model among n, and
// what to move while no request waits.
func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{200, 10_000} {
		b.Run(fmt.Sprintf("models=%d", n), func(b *testing.B) {
			lib, err := tier.NewLibrary(library(n))
			if err != nil {
				b.Fatal(err)
			}
			p := optimizer.New()
			now := time.Unix(1_700_000_000, 0)
			v := &tier.View{Now: now, Library: lib, States: make([]tier.State, n), Limits: tier.Limits{RAM: 8 * tier.GiB, Swap: 16 * tier.GiB, Reserved: tier.GiB, MaxModel: tier.Unlimited}}
			var uses []tier.Access
			for i := range v.States {
				s := &v.States[i]
				*s = tier.State{Divisible: true, InPlace: true, Since: now}
				for _, t := range []tier.Tier{tier.RAM, tier.Swap} {
					if f := lib.At(i).Footprint(t, 0, false); v.Charged[t]+f[t] <= v.Limits.Of(t) {
						s.Tier = t
						v.Charged = v.Charged.Plus(f)
						break
					}
				}
				uses = append(uses, tier.Access{Model: lib.At(i).Name, At: now.Add(time.Duration(i-n) * time.Second)})
			}
			v.Room = tier.Footprint{tier.Swap: v.Limits.Swap - v.Charged[tier.Swap], tier.RAM: v.Limits.RAM - v.Charged[tier.RAM]}
			p.Accessed(uses)
			i := 0
			b.Run("need", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					i = (i + 7919) % n
					v.Now = v.Now.Add(time.Second)
					p.Plan(v, &tier.Need{Model: i, Waiters: 1})
				}
			})
			b.Run("idle", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					v.Now = v.Now.Add(time.Second)
					p.Plan(v, nil)
				}
			})
		})
	}
}

// BenchmarkAtRest reports the memory of a Manager's model and how often a
// Manager wakes while nothing happens, which is when memory was read.
func BenchmarkAtRest(b *testing.B) {
	const n = 10_000
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	for b.Loop() {
		models := library(n)
		before := heap()
		m := manager(b, models)
		b.ReportMetric(float64(heap()-before)/n, "B/model")
		m.Close()
		runtime.KeepAlive(models)
	}
	var reads atomic.Int64
	probe := tier.MemoryProbeFunc(func(context.Context) (tier.Memory, error) {
		reads.Add(1)
		return tier.Memory{Total: 1 << 51, Available: 1 << 51}, nil
	})
	m, err := modeltier.New(modeltier.Config{Models: library(6), Probe: probe, Mover: &tiertest.Mover{}})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	time.Sleep(1500 * time.Millisecond) // to count from between two readings
	from := reads.Load()
	time.Sleep(5 * time.Second)
	b.ReportMetric(float64(reads.Load()-from)/5, "wakes/s")
}
