package modeltier_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// plenty is a machine that is never short of memory.
var plenty = tier.Memory{Total: 64 * tier.GiB, Available: 60 * tier.GiB}

func model(name string, gb float64) tier.Model {
	size, err := tier.FromGB(gb)
	if err != nil {
		panic(err)
	}
	return tier.Model{Name: name, Size: size, Capabilities: []string{"text-generation"}}
}

// pinned returns the model so.
func pinned(m tier.Model) tier.Model { m.Pinned = true; return m }

// rig is a Manager on fakes, in a synctest bubble.
type rig struct {
	*modeltier.Manager
	t     *testing.T
	mover *tiertest.Mover
	probe *tiertest.Probe
}

// get acquires the model by name.
func (r *rig) get(name string) *modeltier.Lease {
	r.t.Helper()
	l, err := r.Acquire(r.t.Context(), modeltier.Request{Model: name})
	if err != nil {
		r.t.Fatalf("Acquire(%s): %v", name, err)
	}
	if l.Model().Name != name {
		r.t.Fatalf("Acquire(%s) gave %s", name, l.Model().Name)
	}
	return l
}

// use acquires and releases.
func (r *rig) use(name string) { r.t.Helper(); r.get(name).Release() }

// at returns where the model is resident.
func (r *rig) at(name string) tier.Tier {
	r.t.Helper()
	for m := range r.Models() {
		if m.Name == name {
			return m.Tier
		}
	}
	r.t.Fatalf("%s is not known", name)
	return 0
}

func (r *rig) wantAt(name string, want tier.Tier) {
	r.t.Helper()
	if got := r.at(name); got != want {
		r.t.Errorf("%s is in %v, want %v", name, got, want)
	}
}

// begin sends a request from a goroutine of its own and returns when everything is
// blocked.
func (r *rig) begin(name string) *client { return r.beginWith(modeltier.Request{Model: name}) }

func (r *rig) beginWith(req modeltier.Request) *client {
	r.t.Helper()
	ctx, cancel := context.WithCancelCause(r.t.Context())
	c := &client{r: r, name: req.Model, done: make(chan struct{}), cancel: cancel}
	began := time.Now()
	go func() {
		defer close(c.done)
		c.lease, c.err = r.Acquire(ctx, req)
		c.took = time.Since(began)
	}()
	r.t.Cleanup(func() {
		cancel(errLeft)
		<-c.done
		if c.lease != nil {
			c.lease.Release()
		}
	})
	synctest.Wait()
	return c
}

// wantMoves checks all moves that were begun, as "load a", in order.
func (r *rig) wantMoves(want ...string) {
	r.t.Helper()
	synctest.Wait()
	var got []string
	for _, mv := range r.mover.Moves() {
		got = append(got, mv.Verb()+" "+mv.Model.Name)
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("moves %q, want %q", got, want)
	}
}

// model returns the status of one model.
func (r *rig) model(name string) modeltier.ModelStatus {
	r.t.Helper()
	for _, m := range r.Status().Models {
		if m.Name == name {
			return m
		}
	}
	r.t.Fatalf("%s is not known", name)
	return modeltier.ModelStatus{}
}

// wantUsed checks what the ledger holds in ram.
func (r *rig) wantUsed(want tier.Bytes) {
	r.t.Helper()
	if s := r.Status(); s.RAM.Used != want {
		r.t.Errorf("%v of ram are used (%v charged, %v reserved), want %v", s.RAM.Used, s.RAM.Charged, s.RAM.Reserved, want)
	}
}

// memory sets what the probe reports and waits until the Manager has read it.
func (r *rig) memory(total, available tier.Bytes) {
	r.probe.Set(tier.Memory{Total: total, Available: available}, nil)
	time.Sleep(time.Second)
	synctest.Wait()
}

// newRig starts a Manager with 5 GiB of ram and 10 of swap unless cfg says
// otherwise. The test's cleanup closes it and checks that nothing is left.
func newRig(t *testing.T, cfg modeltier.Config) *rig {
	t.Helper()
	leavesNothing(t)
	r := &rig{t: t, mover: &tiertest.Mover{}, probe: tiertest.NewProbe(plenty)}
	if cfg.Mover == nil {
		cfg.Mover = r.mover
	} else if m, ok := cfg.Mover.(*tiertest.Mover); ok {
		r.mover = m
	}
	if cfg.Probe == nil {
		cfg.Probe = r.probe
	}
	m, err := modeltier.New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	r.Manager = m
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		for _, f := range r.mover.Faults() {
			t.Errorf("the mover was told wrong: %s", f)
		}
	})
	return r
}

// onlyRAM is a configuration without the swap tier: models are in ram or in storage,
// a load takes 1.5 s per GB, and an unload takes no time.
func onlyRAM(models ...tier.Model) modeltier.Config {
	return modeltier.Config{
		Models: models, Mover: &tiertest.Mover{OnlyRAM: true}, Limits: tier.Limits{Swap: tier.None},
		Fairness: 3 * time.Second, OptimizeEvery: -1,
	}
}

// slowUnload makes each unload take d.
func slowUnload(cfg modeltier.Config, d time.Duration) modeltier.Config {
	cfg.Mover.(*tiertest.Mover).Time = func(mv tier.Move) time.Duration {
		if mv.To == tier.Storage {
			return d
		}
		return time.Duration(1.5 * mv.Model.Size.GB() * float64(time.Second))
	}
	return cfg
}

// doomed makes moves of the named models fail.
func doomed(cfg modeltier.Config, faults map[string]error) modeltier.Config {
	cfg.Mover.(*tiertest.Mover).Fault = func(mv tier.Move) error { return faults[mv.Model.Name] }
	return cfg
}

// order returns the job of an order that must be accepted.
func order(t *testing.T) func(*modeltier.Job, error) *modeltier.Job {
	return func(j *modeltier.Job, err error) *modeltier.Job {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
}

// errLeft is the cause with which a client of these tests leaves.
var errLeft = errors.New("the client left")

// client is one request in flight.
type client struct {
	r      *rig
	name   string
	lease  *modeltier.Lease
	err    error
	took   time.Duration
	done   chan struct{}
	cancel context.CancelCauseFunc
}

// waits reports whether the client has no answer yet.
func (c *client) waits() bool {
	synctest.Wait()
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// leave cancels the client's request.
func (c *client) leave() {
	c.cancel(errLeft)
	synctest.Wait()
}

// served waits for the lease and checks that it came after exactly that time.
func (c *client) served(after time.Duration) *modeltier.Lease {
	c.r.t.Helper()
	<-c.done
	switch {
	case c.err != nil:
		c.r.t.Fatalf("the request for %q got an error after %v: %v", c.name, c.took, c.err)
	case c.took != after:
		c.r.t.Errorf("%q was served after %v, want %v", c.lease.Model().Name, c.took, after)
	}
	return c.lease
}

// refused waits for an error of that kind and checks that it came after exactly that
// time.
func (c *client) refused(kind error, after time.Duration) error {
	c.r.t.Helper()
	<-c.done
	switch {
	case !errors.Is(c.err, kind):
		c.r.t.Fatalf("the request for %q got %v, want the error %q", c.name, c.err, kind)
	case c.took != after:
		c.r.t.Errorf("the request for %q was refused after %v, want %v: %v", c.name, c.took, after, c.err)
	}
	return c.err
}

// newScaleRig is newRig with a scale under its mover.
func newScaleRig(t *testing.T, cfg modeltier.Config) (*rig, *tiertest.Scale) {
	t.Helper()
	s := &tiertest.Scale{Mover: cfg.Mover.(*tiertest.Mover)}
	cfg.Mover = s
	r := newRig(t, cfg)
	r.mover = s.Mover
	return r, s
}

// observer is a scale that implements tier.Resident.
type observer struct {
	*tiertest.Scale
	mapped bool // what is present counts as available
}

// Resident implements tier.Resident.
func (o *observer) Resident(_ context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	present = o.Taken(model)
	if o.mapped {
		reclaimable = present
	}
	return present, reclaimable, nil
}

// newObserverRig is newRig with an observer over its mover.
func newObserverRig(t *testing.T, cfg modeltier.Config, mapped bool) (*rig, *tiertest.Scale) {
	t.Helper()
	s := &tiertest.Scale{Mover: cfg.Mover.(*tiertest.Mover)}
	cfg.Mover = &observer{s, mapped}
	r := newRig(t, cfg)
	r.mover = s.Mover
	return r, s
}

// appetite is what models are seen to take in ram.
type appetite struct {
	mu    sync.Mutex
	takes map[string]tier.Bytes
}

func (a *appetite) set(model string, gb float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.takes[model] = tier.Bytes(gb * float64(tier.GiB))
}

// newHungryRig is a rig whose models are indivisible, served from ram only, and take
// the memory that appetite says.
func newHungryRig(t *testing.T, models ...tier.Model) (*rig, *appetite) {
	fake, eats := &tiertest.Mover{OnlyRAM: true}, &appetite{takes: make(map[string]tier.Bytes)}
	most := make(map[string]tier.Bytes)
	r := newRig(t, modeltier.Config{Models: models, Mover: hungryMover{fake, func(model string) (now, peak tier.Bytes, ok bool) {
		eats.mu.Lock()
		defer eats.mu.Unlock()
		if fake.At(model) == tier.RAM {
			now = eats.takes[model]
		}
		most[model] = max(most[model], now)
		return now, most[model], true
	}}})
	r.mover = fake
	return r, eats
}

// closing is a mover that counts how often it is closed.
type closing struct {
	tier.Mover
	closed *int
}

// InPlace implements tier.InPlacer.
func (*closing) InPlace(*tier.Model) bool { return false }

// Close implements tier.Closer.
func (c *closing) Close() error { *c.closed++; return nil }

// scenario runs one scenario in virtual time, named after the project and the test
// in which it was met. Those, and the pain points whose numbers stand beside some
// tests, are listed in the field's pain points, from which this library began.
func scenario(t *testing.T, name string, fn func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, fn) })
}

// leavesNothing checks after the test, and after the cleanups added later, that they
// left no goroutine, mapping or file handle. A test calls it before it makes a
// Manager; newRig does.
func leavesNothing(t *testing.T) {
	t.Helper()
	before := lookAround(t.Name())
	t.Cleanup(func() {
		for _, trace := range before.left() {
			t.Errorf("left behind: %s", trace)
		}
	})
}

// surroundings is what a process holds at one moment. Without /proc only goroutines
// are compared.
type surroundings struct {
	label   string
	handles map[string]int // by what they are of
	mapped  map[string]int // by file
}

// left describes what is there now and was not there before.
func (s *surroundings) left() (traces []string) {
	pprof.SetGoroutineLabels(context.Background())
	if !inBubble() { // a bubble that ends with goroutines in it fails by itself
		if left := s.goroutines(); left != "" {
			traces = append(traces, "goroutines:\n"+left)
		}
	}
	for file, n := range mappings() {
		if n > s.mapped[file] {
			traces = append(traces, fmt.Sprintf("%d mappings of %s", n-s.mapped[file], file))
		}
	}
	for file, n := range handles() {
		if n > s.handles[file] {
			traces = append(traces, fmt.Sprintf("%d handles of %s", n-s.handles[file], file))
		}
	}
	return traces
}

// goroutines returns the stacks of goroutines with the label, after some time for
// them to end.
func (s *surroundings) goroutines() string {
	for limit := time.Now().Add(2 * time.Second); ; runtime.Gosched() {
		var profile bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
			return err.Error()
		}
		var left []string
		for block := range strings.SplitSeq(profile.String(), "\n\n") {
			if strings.Contains(block, s.label) {
				left = append(left, block)
			}
		}
		if len(left) == 0 || time.Now().After(limit) {
			return strings.Join(left, "\n\n")
		}
	}
}

const leakLabel = "modeltier-test"

// lookAround records what there is and labels the calling goroutine; goroutines that
// it starts inherit the label.
func lookAround(name string) *surroundings {
	s := &surroundings{handles: handles(), mapped: mappings()}
	s.label = fmt.Sprintf("%s %p", name, s)
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(leakLabel, s.label)))
	return s
}

// inBubble reports whether time is virtual here: a bubble begins in the year 2000.
func inBubble() bool { return time.Now().Year() < 2020 }

// handles counts open files. It leaves out sockets, of which HTTP clients keep some,
// and what the runtime polls with.
func handles() map[string]int {
	open := make(map[string]int)
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		of, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err == nil && !strings.HasPrefix(of, "socket:") && !strings.HasPrefix(of, "anon_inode:[event") && !strings.HasPrefix(of, "/proc/") {
			open[of]++
		}
	}
	return open
}

// mappings counts the files that are mapped.
func mappings() map[string]int {
	mapped := make(map[string]int)
	maps, _ := os.ReadFile("/proc/self/maps")
	for line := range strings.Lines(string(maps)) {
		if i := strings.IndexByte(line, '/'); i >= 0 {
			mapped[strings.TrimSpace(line[i:])]++
		}
	}
	return mapped
}

// weights writes a model's file with varying bytes.
func weights(t *testing.T, name string, size tier.Bytes) tier.Model {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	line := []byte(name + " 0123456789abcdef")
	if err := os.WriteFile(path, bytes.Repeat(line, int(size)/len(line)+1)[:size], 0o644); err != nil {
		t.Fatal(err)
	}
	return tier.Model{Name: name, Path: path, Size: size, Capabilities: []string{"text-generation"}}
}

func TestLeavesNothing_SomethingIsLeft_IsSeen(t *testing.T) {
	s := lookAround(t.Name())
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { <-stop; close(stopped) }()
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	traces := strings.Join(s.left(), "\n")
	if !strings.Contains(traces, "TestLeavesNothing") {
		t.Errorf("the goroutine is not seen: %q", traces)
	}
	if _, err := os.Stat("/proc/self/fd"); err == nil && !strings.Contains(traces, f.Name()) {
		t.Errorf("the handle is not seen: %q", traces)
	}
	close(stop)
	<-stopped
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if traces := s.left(); len(traces) > 0 {
		t.Errorf("nothing is left, yet it says: %q", traces)
	}
}
