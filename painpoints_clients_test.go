package modeltier_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// onlyRAM is a world without a middle: models are whole in ram or in storage, a
// load takes 1.5 s for a GB, and to leave takes no time.
func onlyRAM(models ...tier.Model) modeltier.Config {
	return modeltier.Config{
		Models: models, Mover: &tiertest.Mover{OnlyRAM: true}, Limits: tier.Limits{Swap: tier.None},
		Fairness: 3 * time.Second, OptimizeEvery: -1,
	}
}

// pinned returns the model so.
func pinned(m tier.Model) tier.Model { m.Pinned = true; return m }

// errLeft is why a client of these tests goes away.
var errLeft = errors.New("the client left")

// client is one request on its way.
type client struct {
	r      *rig
	name   string
	lease  *modeltier.Lease
	err    error
	took   time.Duration
	done   chan struct{}
	cancel context.CancelCauseFunc
}

// begin asks for the model in the background and returns when nothing more
// happens without time.
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

// leave ends the client's wait.
func (c *client) leave() {
	c.cancel(errLeft)
	synctest.Wait()
}

// served waits for the lease, and checks that it came after just that time.
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

// refused waits for an error of that kind, and checks that it came after just
// that time.
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

// wantMoves checks all moves that were ever begun, as "load a", in order.
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

// scale is a mover that knows what its models weigh in memory, from the moment
// that a load begins until an unload has ended.
type scale struct {
	*tiertest.Mover
	// weigh is what a model takes of memory; nil: its size and runtime bytes.
	weigh func(m tier.Model) tier.Bytes
	// lingers is how much of a model stays in memory after it has left it; nil:
	// nothing.
	lingers func(mv tier.Move) tier.Bytes
	// machine, if not nil, is a probe that shows it all at once.
	machine *tiertest.Probe

	mu        sync.Mutex // guards the rest
	now, peak tier.Bytes
	at        map[string]tier.Bytes
}

func (s *scale) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	m := mv.Model
	most := m.Size + m.Runtime
	if s.weigh != nil {
		most = s.weigh(m)
	}
	was := s.put(m.Name, -1)
	if mv.To == tier.RAM {
		s.put(m.Name, most)
	}
	err := s.Mover.Move(ctx, mv, progress)
	switch {
	case err != nil:
		s.put(m.Name, was)
	case mv.To != tier.RAM && s.lingers != nil:
		s.put(m.Name, mv.Keep+s.lingers(mv))
	case mv.To != tier.RAM:
		s.put(m.Name, mv.Keep)
	}
	return err
}

// put says what a model weighs from now on, where b is not negative, and returns
// what it weighed.
func (s *scale) put(name string, b tier.Bytes) tier.Bytes {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.at[name]
	if b < 0 {
		return was
	}
	if s.at == nil {
		s.at = make(map[string]tier.Bytes)
	}
	s.at[name] = b
	s.now += b - was
	s.peak = max(s.peak, s.now)
	if s.machine != nil {
		m, _ := s.machine.Memory(context.Background())
		m.Available -= b - was
		s.machine.Set(m, nil)
	}
	return was
}

// most returns the most that was ever in memory at once.
func (s *scale) most() tier.Bytes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak
}

// newScaleRig is newRig with a scale under its mover.
func newScaleRig(t *testing.T, cfg modeltier.Config) (*rig, *scale) {
	t.Helper()
	s := &scale{Mover: cfg.Mover.(*tiertest.Mover)}
	cfg.Mover = s
	r := newRig(t, cfg)
	r.mover = s.Mover
	return r, s
}

// observer is a scale that can be asked what is present.
type observer struct {
	*scale
	mapped bool // what is present counts as available
}

// Resident implements tier.Resident.
func (o *observer) Resident(_ context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	present = o.put(model, -1)
	if o.mapped {
		reclaimable = present
	}
	return present, reclaimable, nil
}

// newObserverRig is newRig with an observer over its mover.
func newObserverRig(t *testing.T, cfg modeltier.Config, mapped bool) (*rig, *scale) {
	t.Helper()
	s := &scale{Mover: cfg.Mover.(*tiertest.Mover)}
	cfg.Mover = &observer{s, mapped}
	r := newRig(t, cfg)
	r.mover = s.Mover
	return r, s
}

// memory makes the machine have that, once the Manager has looked again.
func (r *rig) memory(total, available tier.Bytes) {
	r.probe.Set(tier.Memory{Total: total, Available: available}, nil)
	time.Sleep(time.Second)
	synctest.Wait()
}

// scenario runs one scenario in virtual time, under the name that it has where it
// was met.
func scenario(t *testing.T, name string, fn func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, fn) })
}

// doomed makes moves of the named models fail.
func doomed(cfg modeltier.Config, faults map[string]error) modeltier.Config {
	cfg.Mover.(*tiertest.Mover).Fault = func(mv tier.Move) error { return faults[mv.Model.Name] }
	return cfg
}
