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
}

// figures are what a run comes to.
type figures struct {
	Mean, P50, P99 float64 // seconds that a request waited
	Moved          float64 // GB read from a colder place, by request
	Warm           float64 // share of the bytes asked for that were in ram
	Took           time.Duration
}

// play plays the run. It is called in a bubble of virtual time.
func (r *run) play(ctx context.Context) (figures, error) {
	mv := &mover{real: r.real, at: make(map[string]where)}
	const endless = 1 << 60
	m, err := modeltier.New(modeltier.Config{
		Models:    slices.Clone(r.trace.library(r.capacity.ram)),
		Limits:    tier.Limits{RAM: tier.Bytes(r.capacity.ram * 1e9), Swap: tier.Bytes(r.capacity.swap * 1e9), MaxModel: tier.Unlimited},
		Mover:     mv,
		Placement: r.make(),
		Probe: tier.MemoryProbeFunc(func(context.Context) (tier.Memory, error) {
			return tier.Memory{Total: endless, Available: endless}, nil
		}),
		MaxWait: 24 * time.Hour, MaxQueue: 1 << 20, MaxQueueModel: 1 << 20, // no request gives up
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
