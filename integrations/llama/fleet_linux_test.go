package llama_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/integrations/llama/internal/llamatest"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/process"
)

// perModel is what an engine with a context of 256 takes beside its weights.
const perModel = 64 * tier.MiB

// fleet writes n models of about the same size into dir, and takes them up if they
// are there.
func fleet(t testing.TB, dir string, n int, shape demo.Llama) (models []tier.Model) {
	t.Helper()
	for i := range n {
		shape.Name = fmt.Sprintf("m%02d", i)
		path := filepath.Join(dir, fmt.Sprintf("%s-%d-%d-%d.gguf", shape.Name, shape.Width, shape.Inner, shape.Layers))
		if info, err := os.Stat(path); err != nil || tier.Bytes(info.Size()) != shape.Size() {
			llamatest.Write(t, shape, path)
		}
		m := sized(t, path)
		m.Name, m.Runtime = shape.Name, perModel
		models = append(models, m)
	}
	return models
}

// serving starts a Manager over real engines that keeps those which give way as
// standby says. If keep is false, nothing stays in the page cache.
func serving(t testing.TB, engine process.Engine, ram tier.Bytes, models []tier.Model, way fleetWay) (*modeltier.Manager, *process.Mover) {
	t.Helper()
	engine.Standby = way.standby
	mover, err := process.New(process.Options{Engine: engine})
	if err != nil {
		t.Fatal(err)
	}
	cfg := modeltier.Config{
		Models: models, Mover: mover, Placement: way.placement,
		Limits: tier.Limits{RAM: ram, Swap: 32 * tier.GiB, Reserved: tier.MiB},
	}
	if way.drop {
		cfg.Mover = dropping{mover}
	}
	m, err := modeltier.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m, mover
}

// fleetWay is a way to serve more engines than fit.
type fleetWay struct {
	name      string
	standby   process.Standby
	drop      bool           // what gives way leaves nothing in the page cache
	placement tier.Placement // nil: the default
}

// dropping is a Mover that drops the pages of what gives way at once.
type dropping struct{ *process.Mover }

func (d dropping) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	err := d.Mover.Move(ctx, mv, progress)
	if err == nil && mv.To < tier.RAM {
		err = d.Uncache(ctx, mv.Model.Name, tier.Unlimited)
	}
	return err
}

// diskReads returns the bytes that the machine has read from its disks.
func diskReads(b *testing.B) tier.Bytes {
	b.Helper()
	text, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\npgpgin ")
	var kib tier.Bytes
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		b.Fatal(err)
	}
	return kib * tier.KiB
}

// first asks a model for one token, and returns how long it took from the asking to
// the lease and to the token.
func first(t testing.TB, m *modeltier.Manager, mover *process.Mover, model string) (ready, token time.Duration) {
	t.Helper()
	began := time.Now()
	lease, err := m.Acquire(t.Context(), modeltier.Request{Model: model})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	ready = time.Since(began)
	url, ok := mover.URL(model)
	if !ok {
		t.Fatalf("%s has no URL under a lease", model)
	}
	said(t, url, 1)
	return ready, time.Since(began)
}

// summary reports mean and quantiles.
func summary(b *testing.B, name string, took []time.Duration) {
	var sum time.Duration
	for _, d := range took {
		sum += d
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(sum)/float64(len(took)), name+"-mean-ms")
	b.ReportMetric(ms(took[len(took)/2]), name+"-p50-ms")
	b.ReportMetric(ms(took[(len(took)-1)*99/100]), name+"-p99-ms")
}

// memoryLimit keeps this process and the engines that it starts, with the page cache
// that they fill, within limit until end is called, where there is a memory
// controller of cgroup v1 and we may use it.
func memoryLimit(b *testing.B, limit tier.Bytes) (end func()) {
	const root = "/sys/fs/cgroup/memory"
	dir := filepath.Join(root, fmt.Sprint("modeltier-bench-", os.Getpid()))
	join := func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	_, before, found := strings.Cut(string(own), ":memory:")
	if err == nil && !found {
		err = errors.New("no memory controller of cgroup v1")
	}
	if err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	if err != nil {
		b.Log("the page cache has no bound: ", err)
		return func() {}
	}
	before, _, _ = strings.Cut(before, "\n")
	err = os.WriteFile(filepath.Join(dir, "memory.limit_in_bytes"), []byte(strconv.FormatInt(int64(limit), 10)), 0o644)
	if err == nil {
		err = join(dir)
	}
	if err != nil {
		b.Log("the page cache has no bound: ", err)
	}
	return func() {
		join(filepath.Join(root, before))
		os.WriteFile(filepath.Join(dir, "memory.force_empty"), []byte("0"), 0o644)
		for range 50 { // who has just ended leaves a moment later
			if os.Remove(dir) == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		b.Errorf("the cgroup %s is left", dir)
	}
}

// BenchmarkFleet asks 20 models of 300 MB under a budget of 2 GB for a first token,
// b.N times, by Zipf's law (s = 1.1): of engines that are frozen where they give way,
// with their pages cached until the room is needed and with them dropped at once, by
// the default placement and by LRU, and of engines that are stopped then, and started
// again. All see the same requests, one after the other, each way from an empty page
// cache and within the budget and half a GB for all else. "read" is what the machine
// read from its disks. MODELTIER_FLEET is a folder that keeps the models from run to
// run.
func BenchmarkFleet(b *testing.B) {
	engine := mapping(b)
	dir := os.Getenv("MODELTIER_FLEET")
	if dir == "" {
		dir = b.TempDir()
	}
	const budget = 2_000_000_000
	models := fleet(b, dir, 20, demo.Llama{Width: 1536, Inner: 4608, Layers: 9})
	defer memoryLimit(b, budget+512*tier.MiB)()
	requests := make([]string, b.N)
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, uint64(len(models)-1))
	for i := range requests {
		requests[i] = models[zipf.Uint64()].Name
	}
	for _, way := range []fleetWay{
		{name: "started", standby: process.StandbyStop}, {name: "dropped", drop: true},
		{name: "cached-lru", placement: new(optimizer.LRU)}, {name: "cached"},
	} {
		for _, model := range models {
			chill(b, model.Path)
		}
		read := diskReads(b)
		m, mover := serving(b, engine, budget, models, way)
		var leases, tokens []time.Duration
		for _, name := range requests {
			ready, token := first(b, m, mover, name)
			leases, tokens = append(leases, ready), append(tokens, token)
		}
		s := m.Status()
		b.Logf("%s: %d loads, %d promotes, %d evictions; at most %v of %v used", way.name,
			s.Moved["load"].Succeeded, s.Moved["promote"].Succeeded, s.Evictions, s.RAM.Peak, s.Limits.RAM)
		if err := m.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(diskReads(b)-read)/1e9, way.name+"-read-GB")
		summary(b, way.name+"-lease", leases)
		summary(b, way.name+"-token", tokens)
	}
	b.ReportMetric(float64(models[0].Size)/1e6, "MB")
	b.ReportMetric(0, "ns/op")
}

// chill empties the page cache of a file that is not mapped.
func chill(b *testing.B, path string) {
	b.Helper()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		b.Fatal(err)
	}
}
