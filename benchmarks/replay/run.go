package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/benchmarks/policies"
	"github.com/modeltier/modeltier/tier"
)

// capacity is a machine, in GB of 10^9 bytes.
type capacity struct{ ram, swap float64 }

func (c capacity) String() string { return fmt.Sprintf("%g/%g", c.ram, c.swap) }

// run is one trace on one machine under one policy.
type run struct {
	trace    *trace
	capacity capacity
	policy   string
	make     func() tier.Placement
	real     bool    // the clock
	hints    float64 // share of requests that are announced
	cached   float64 // GB beside the limit of ram that the page cache may take
}

// figures are what a run comes to.
type figures struct {
	Mean, P50, P99 float64 // seconds that a request waited
	Moved          float64 // GB read from a colder place, by request
	Warm           float64 // share of the bytes asked for that were in ram, or cached
	Took           time.Duration
}

// play plays the run. It is called in a bubble of virtual time.
func (r *run) play(ctx context.Context) (figures, error) {
	mv := &mover{real: r.real, at: make(map[string]where)}
	const endless = 1 << 60
	probe := func(context.Context) (tier.Memory, error) {
		return tier.Memory{Total: endless, Available: endless}, nil
	}
	var moves tier.Mover = mv
	if r.cached > 0 {
		mv.room = tier.Bytes((r.capacity.ram + r.cached) * 1e9)
		probe, moves = mv.memory, cacher{mv}
	}
	m, err := modeltier.New(modeltier.Config{
		Models:    slices.Clone(r.trace.library(r.capacity.ram)),
		Limits:    tier.Limits{RAM: tier.Bytes(r.capacity.ram * 1e9), Swap: tier.Bytes(r.capacity.swap * 1e9), MaxModel: tier.Unlimited},
		Mover:     moves,
		Placement: r.make(),
		Probe:     tier.MemoryProbeFunc(probe),
		MaxWait:   24 * time.Hour, MaxQueue: 1 << 20, MaxQueueModel: 1 << 20, // no request gives up
		ProbeEvery: 30 * time.Second,
	})
	if err != nil {
		return figures{}, err
	}
	defer m.Close()
	if r.real {
		return r.playReal(ctx, m, mv)
	}
	return r.playTrace(ctx, m, mv)
}

// playTrace serves one request after the other while trace time stands still:
// moves take no time, and a request waits for what the place of its model's bytes
// costs.
func (r *run) playTrace(ctx context.Context, m *modeltier.Manager, mv *mover) (figures, error) {
	models := r.trace.library(r.capacity.ram)
	start := time.Now()
	var tally tally
	announce := r.announcer(m, mv)
	for i, who := range r.trace.who {
		time.Sleep(time.Until(start.Add(seconds(r.trace.at[i]))))
		model := &models[who]
		wait, warm := mv.where(model.Name).cost(model.Size)
		tally.add(wait, warm, model.Size)
		lease, err := m.Acquire(ctx, modeltier.Request{Model: model.Name})
		if err != nil {
			return figures{}, fmt.Errorf("request %d for %s: %w", i, model.Name, err)
		}
		mv.use(model)
		lease.Release()
		announce(i)
		synctest.Wait() // what can be done at this moment is
	}
	return tally.figures(mv.read()), nil
}

// playReal serves requests as they come: loads take their time, requests overlap,
// and each holds its lease for as long as using the bytes where they are takes.
func (r *run) playReal(ctx context.Context, m *modeltier.Manager, mv *mover) (figures, error) {
	models := r.trace.library(r.capacity.ram)
	start := time.Now()
	var (
		mu    sync.Mutex // guards tally and first
		tally tally
		first error
		all   sync.WaitGroup
	)
	announce := r.announcer(m, mv)
	for i, who := range r.trace.who {
		time.Sleep(time.Until(start.Add(seconds(r.trace.at[i]))))
		model := &models[who]
		all.Go(func() {
			came := time.Now()
			_, warm := mv.where(model.Name).cost(model.Size)
			lease, err := m.Acquire(ctx, modeltier.Request{Model: model.Name})
			if err == nil {
				use, _ := mv.where(model.Name).cost(model.Size)
				time.Sleep(use)
				mv.use(model)
				lease.Release()
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil && first == nil {
				first = fmt.Errorf("request %d for %s: %w", i, model.Name, err)
			}
			tally.add(time.Since(came), warm, model.Size)
		})
		announce(i)
	}
	all.Wait()
	return tally.figures(mv.read()), first
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// announcer returns what announces the request behind i, where the dice say so.
func (r *run) announcer(m *modeltier.Manager, mv *mover) func(i int) {
	if r.hints <= 0 {
		return func(int) {}
	}
	dice := rand.New(rand.NewPCG(1, 2))
	models := r.trace.library(r.capacity.ram)
	return func(i int) {
		next := i + 1
		if next >= len(r.trace.who) || dice.Float64() >= r.hints {
			mv.announce("")
			return
		}
		name := models[r.trace.who[next]].Name
		mv.announce(name)
		m.Hint(name, 1, max(seconds(r.trace.at[next]-r.trace.at[i]), time.Second))
	}
}

// tally sums waits up.
type tally struct {
	waits       []time.Duration
	warm, asked tier.Bytes
}

func (t *tally) add(wait time.Duration, warm, size tier.Bytes) {
	t.waits = append(t.waits, wait)
	t.warm += warm
	t.asked += size
}

func (t *tally) figures(moved tier.Bytes) figures {
	slices.Sort(t.waits)
	n := len(t.waits)
	var sum time.Duration
	for _, w := range t.waits {
		sum += w
	}
	return figures{
		Mean: sum.Seconds() / float64(n), P50: t.waits[n/2].Seconds(), P99: t.waits[min(n*99/100, n-1)].Seconds(),
		Moved: gb(moved) / float64(n), Warm: float64(t.warm) / float64(t.asked),
	}
}

// Seconds that a GB costs the request that finds it there: the recorded figures
// for ram and swap, and a single NVMe stream for storage.
const (
	secondsRAM     = 0.1
	secondsSwap    = 0.5
	secondsStorage = 1.5
)

// where is the place of a model's bytes: what is in ram, and in swap. The rest is
// in storage. What of those two is cached costs what ram does; it is taken to be in
// swap first.
type where struct{ ram, swap, cached tier.Bytes }

// paid returns the place that costs the same without cached bytes.
func (w where) paid() where { return where{ram: w.ram + w.cached, swap: max(w.swap-w.cached, 0)} }

// at returns the place of a model that a move has brought.
func at(mv *tier.Move) where {
	switch mv.To {
	case tier.RAM:
		return where{ram: mv.Model.Size}
	case tier.Swap:
		return where{ram: mv.Keep, swap: mv.Model.Size - mv.Keep - mv.Leave}
	}
	return where{}
}

// cost is what a request pays for a model in that place.
func (w where) cost(size tier.Bytes) (wait time.Duration, warm tier.Bytes) {
	w = w.paid()
	return seconds(secondsRAM*gb(w.ram) + secondsSwap*gb(w.swap) + secondsStorage*gb(size-w.ram-w.swap)), w.ram
}

func gb(b tier.Bytes) float64 { return float64(b) / 1e9 }

// mover keeps the account of bytes that a real one would move. With a clock that
// runs it takes their time; with one that stands still, only idle moves of models
// that were not announced do.
type mover struct {
	real bool
	room tier.Bytes // of the page cache and ram together; 0: what gives way is not cached

	mu        sync.Mutex // guards the rest
	at        map[string]where
	touched   []string   // models that have cached bytes, longest untouched first
	announced string     // the model that is asked for next, if that was said
	moved     tier.Bytes // read from a colder place
}

// Move implements tier.Mover.
func (m *mover) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	name := mv.Model.Name
	m.mu.Lock()
	_, took := transfer(m.at[name], m.after(m.at[name], &mv))
	announced := m.announced == name
	m.mu.Unlock()
	if took > 0 && (m.real || !announced && tier.InBackground(ctx)()) {
		t := time.NewTimer(took)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	to := m.after(m.at[name], &mv)
	bytes, _ := transfer(m.at[name], to)
	m.moved += bytes
	m.put(name, to)
	return nil
}

// after returns the place of a model after a move. What leaves ram stays cached.
func (m *mover) after(from where, mv *tier.Move) where {
	to := at(mv)
	if m.room > 0 {
		to.cached = max(from.ram+from.cached-to.ram, 0)
	}
	return to
}

// use has a model used in its place: its bytes pass through the page cache.
func (m *mover) use(model *tier.Model) {
	if m.room == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.at[model.Name]
	w.cached = model.Size - w.ram
	m.put(model.Name, w)
}

// put records the place of a model. For what the page cache has no room for then, the
// kernel takes what was not touched for longest. m.mu is held.
func (m *mover) put(name string, w where) {
	m.at[name] = w
	if m.room == 0 {
		return
	}
	m.touched = slices.DeleteFunc(m.touched, func(other string) bool { return other == name })
	if w.cached > 0 {
		m.touched = append(m.touched, name)
	}
	var over tier.Bytes = -m.room
	for _, w := range m.at {
		over += w.ram + w.cached
	}
	for _, name := range m.touched {
		if over <= 0 {
			break
		}
		w := m.at[name]
		n := min(over, w.cached)
		w.cached -= n
		over -= n
		m.at[name] = w
	}
}

// transfer returns the bytes that a move reads, and how long that takes. Together
// with what the request pays to use the model in its new place, that is what the
// place it was found in costs.
func transfer(from, to where) (bytes tier.Bytes, took time.Duration) {
	from, to = from.paid(), to.paid()
	out := max(to.ram+to.swap-from.ram-from.swap, 0) // of storage
	up := max(to.ram-from.ram, 0)                    // into ram
	through := max(up-from.swap, 0)                  // both at once
	return out + up - through, seconds((secondsStorage-secondsSwap)*gb(out) + (secondsSwap-secondsRAM)*gb(up))
}

// memory implements tier.MemoryProbe: cached bytes are available.
func (m *mover) memory(context.Context) (tier.Memory, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	free := m.room
	for _, w := range m.at {
		free -= w.ram
	}
	return tier.Memory{Total: m.room, Available: free}, nil
}

// cacher is a mover that leaves what gives way in the page cache.
type cacher struct{ *mover }

// Cached implements tier.Cacher.
func (m cacher) Cached(_ context.Context, model string) (tier.Bytes, error) {
	return m.where(model).cached, nil
}

// Resident implements tier.Residenter.
func (m cacher) Resident(_ context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	return m.where(model).ram, 0, nil
}

// Uncache implements tier.Cacher.
func (m cacher) Uncache(_ context.Context, model string, n tier.Bytes) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.at[model]
	w.cached = max(w.cached-n, 0)
	m.at[model] = w
	return nil
}

// Divisible implements tier.Divider.
func (m *mover) Divisible(*tier.Model) bool { return true }

// Leaves implements tier.Leaver.
func (m *mover) Leaves(*tier.Model) bool { return true }

// InPlace implements tier.InPlacer: a request pays for the bytes where they are.
func (m *mover) InPlace(*tier.Model) bool { return true }

// FileBacked implements tier.FileBacker.
func (m *mover) FileBacked() bool { return true }

// announce tells which model is asked for next; empty: that was not said.
func (m *mover) announce(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.announced = name
}

func (m *mover) where(name string) where {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at[name]
}

// read returns the bytes that were read from a colder place until now.
func (m *mover) read() tier.Bytes {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.moved
}

// bound plays a trace on a machine as if the future were known, byte by byte and
// moving nothing up that is not asked for. What a request waits for does not
// depend on the clock: the bound knows no queues.
// Cached bytes cost what ram does: they are room in it.
func bound(t *trace, c capacity, cached float64) figures {
	began := time.Now()
	models := t.library(c.ram)
	sizes := make([]tier.Bytes, len(models))
	for i := range models {
		sizes[i] = models[i].Size
	}
	var tally tally
	var moved tier.Bytes
	k := 0
	for f := range policies.Belady(sizes, t.who, tier.Bytes((c.ram+cached)*1e9), tier.Bytes(c.swap*1e9)) {
		wait := f.Wait(secondsRAM/1e9, secondsSwap/1e9, secondsStorage/1e9)
		tally.add(seconds(wait), f.RAM, sizes[t.who[k]])
		moved += f.Swap + f.Storage // all of it is read for use
		k++
	}
	f := tally.figures(moved)
	f.Took = time.Since(began)
	return f
}
