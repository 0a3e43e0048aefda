package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/selector"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// misdeed is what a hostile method does instead of its job.
type misdeed string

const (
	behaves   misdeed = ""
	blocks    misdeed = "blocks"
	panics    misdeed = "panics"
	exits     misdeed = "exits"
	lies      misdeed = "lies"
	callsBack misdeed = "calls back"
)

var misdeeds = []misdeed{blocks, panics, exits, lies, callsBack}

// villain decides what each method of each part does.
type villain struct {
	misdeed func(method string) misdeed
	free    chan struct{} // closed to end the methods that block
	m       atomic.Pointer[modeltier.Manager]
	inside  atomic.Bool // a call back is under way
	backs   atomic.Int32
	calls   sync.Map // of method: it was called
}

// act carries out the method's misdeed and reports whether it is to lie.
func (v *villain) act(method string) (lie bool) {
	v.calls.Store(method, true)
	switch v.misdeed(method) {
	case blocks:
		<-v.free
	case panics:
		panic(errText{method})
	case exits:
		runtime.Goexit()
	case lies:
		return true
	case callsBack:
		if m := v.m.Load(); m != nil && v.backs.Add(1) < 100 && !v.inside.Swap(true) { // bounded: what it calls may call it
			defer v.inside.Store(false)
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			if l, err := m.Acquire(ctx, modeltier.Request{Model: "b"}); err == nil {
				l.Release()
			}
			m.Status()
			m.Optimize(ctx)
			m.Hint("a", 0.5, time.Minute)
			m.ReportCrash("c", nil)
			m.MoveTier(ctx, "a", tier.Storage)
			m.UpdateLimits(ctx, tier.Limits{RAM: 6 * tier.GiB})
		}
	}
	return false
}

// errText is an error whose text panics, and whose Is blocks, as those of foreign
// code may.
type errText struct{ method string }

func (e errText) Is(target error) bool {
	if strings.Contains(e.method, "crash") {
		panic("asked")
	}
	return false
}

func (e errText) Error() string {
	if strings.Contains(e.method, "Move") {
		panic("no text")
	}
	return "hostile " + e.method
}

const vast = tier.Bytes(math.MaxInt64 - 1)

type hostileMover struct {
	*tiertest.Mover
	v *villain
}

func (h hostileMover) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	if h.v.act("mover.Move") {
		progress(vast)
		progress(math.MinInt64)
		return &tier.MoveError{Lost: true, Err: errText{"mover.Move"}}
	}
	return h.Mover.Move(ctx, mv, progress)
}
func (h hostileMover) Divisible(m *tier.Model) bool {
	return h.v.act("mover.Divisible") != h.Mover.Divisible(m)
}
func (h hostileMover) Leaves(m *tier.Model) bool {
	return h.v.act("mover.Leaves") != h.Mover.Leaves(m)
}
func (h hostileMover) InPlace(m *tier.Model) bool {
	return h.v.act("mover.InPlace") != h.Mover.InPlace(m)
}
func (h hostileMover) FileBacked() bool { return h.v.act("mover.FileBacked") != h.Mover.FileBacked() }
func (h hostileMover) CheckModel(m *tier.Model) error {
	if h.v.act("mover.CheckModel") {
		return errText{"mover.CheckModel"}
	}
	return nil
}
func (h hostileMover) Resident(_ context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	if h.v.act("mover.Resident") {
		return vast, vast, nil
	}
	if h.At(model) == tier.RAM {
		return 0, 0, nil
	}
	return 0, 0, nil
}
func (h hostileMover) Footprint(model string) (now, peak tier.Bytes, ok bool) {
	if h.v.act("mover.Footprint") {
		return vast, vast, true
	}
	return 0, 0, false
}
func (h hostileMover) Cached(_ context.Context, model string) (tier.Bytes, error) {
	if h.v.act("mover.Cached") {
		return vast, nil
	}
	if h.At(model) == tier.RAM {
		return 0, nil
	}
	return tier.GiB, nil
}
func (h hostileMover) Uncache(context.Context, string, tier.Bytes) error {
	if h.v.act("mover.Uncache") {
		return errText{"mover.Uncache"}
	}
	return nil
}
func (h hostileMover) Forecast(*tier.Model) (takes, seen tier.Bytes) {
	if h.v.act("mover.Forecast") {
		return vast, vast
	}
	return 0, 0
}
func (h hostileMover) Instance(string) any {
	if h.v.act("mover.Instance") {
		return h.v.act // which cannot be compared
	}
	return nil
}
func (h hostileMover) PartStatus() any { return h.v.status("mover") }
func (h hostileMover) Close() error    { return h.v.close("mover") }

func (v *villain) status(part string) any {
	if v.act(part + ".PartStatus") {
		return math.NaN() // which JSON cannot represent
	}
	return part
}

func (v *villain) close(part string) error {
	if v.act(part + ".Close") {
		return errText{part + ".Close"}
	}
	return nil
}

type hostileProbe struct{ v *villain }

func (h hostileProbe) Memory(context.Context) (tier.Memory, error) {
	if h.v.act("probe.Memory") {
		return tier.Memory{Total: vast, Available: vast, SwapTotal: math.MinInt64, SwapFree: vast}, nil
	}
	return plenty, nil
}
func (h hostileProbe) Over(tier.MemoryProbe) bool { return h.v.act("probe.Over") }
func (h hostileProbe) PartStatus() any            { return h.v.status("probe") }
func (h hostileProbe) Close() error               { return h.v.close("probe") }

type hostileSelector struct {
	tier.Selector
	v *villain
}

func (h hostileSelector) Select(req *tier.Request, view *tier.View) (tier.Choice, error) {
	if h.v.act("selector.Select") {
		return tier.Choice{Index: math.MaxInt, Model: "no such model"}, nil
	}
	return h.Selector.Select(req, view)
}
func (h hostileSelector) Accessed([]tier.Access)  { h.v.act("selector.Accessed") }
func (h hostileSelector) Moved([]tier.Moved)      { h.v.act("selector.Moved") }
func (h hostileSelector) Reported([]tier.Outcome) { h.v.act("selector.Reported") }
func (h hostileSelector) PartStatus() any         { return h.v.status("selector") }
func (h hostileSelector) Close() error            { return h.v.close("selector") }

type hostilePlacement struct {
	*optimizer.Learned
	v *villain
}

func (h hostilePlacement) Plan(view *tier.View, need *tier.Need) tier.Plan {
	if h.v.act("placement.Plan") {
		var p tier.Plan
		for i, m := range view.Library.All() {
			p.Steps = append(p.Steps, tier.Step{Move: tier.Move{Model: *m, To: tier.Tier(i % 4), Keep: vast, Leave: vast}, Gain: math.NaN()})
		}
		if need == nil {
			return p
		}
		switch need.Model % 3 {
		case 0:
			return tier.Plan{Err: errText{"placement.Plan"}}
		case 1:
			m := *view.Library.At(need.Model)
			m.Size, m.Runtime, m.Path = vast, vast, "/elsewhere"
			return tier.Plan{Steps: []tier.Step{{Move: tier.Move{Model: m, From: tier.RAM, To: tier.Swap}}}}
		}
		return p
	}
	return h.Learned.Plan(view, need)
}
func (h hostilePlacement) Accessed(uses []tier.Access) {
	h.v.act("placement.Accessed")
	h.Learned.Accessed(uses)
}
func (h hostilePlacement) Moved(moves []tier.Moved) {
	h.v.act("placement.Moved")
	h.Learned.Moved(moves)
}
func (h hostilePlacement) Reported([]tier.Outcome) { h.v.act("placement.Reported") }
func (h hostilePlacement) Hint(model string, p float64, within time.Duration, now time.Time) {
	h.v.act("placement.Hint")
	h.Learned.Hint(model, p, within, now)
}
func (h hostilePlacement) Worth(view *tier.View) []float64 {
	if h.v.act("placement.Worth") {
		return []float64{math.NaN()}
	}
	return h.Learned.Worth(view)
}
func (h hostilePlacement) Predict(m *tier.Model, from, to tier.Tier, b tier.Bytes) (d, low, high time.Duration) {
	if h.v.act("placement.Predict") {
		return math.MinInt64, math.MaxInt64, math.MinInt64
	}
	return h.Learned.Predict(m, from, to, b)
}
func (h hostilePlacement) MarshalBinary() ([]byte, error) {
	if h.v.act("placement.MarshalBinary") {
		return nil, errText{"placement.MarshalBinary"}
	}
	return h.Learned.MarshalBinary()
}
func (h hostilePlacement) UnmarshalBinary(b []byte) error {
	if h.v.act("placement.UnmarshalBinary") {
		return errText{"placement.UnmarshalBinary"}
	}
	return h.Learned.UnmarshalBinary(b)
}
func (h hostilePlacement) PartStatus() any { return h.v.status("placement") }
func (h hostilePlacement) Close() error    { return h.v.close("placement") }

type hostileHandler struct{ v *villain }

func (h hostileHandler) Enabled(context.Context, slog.Level) bool {
	return !h.v.act("logger.Enabled")
}
func (h hostileHandler) Handle(context.Context, slog.Record) error {
	h.v.act("logger.Handle")
	return nil
}
func (h hostileHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h hostileHandler) WithGroup(string) slog.Handler      { return h }

// hostileMethods lists every method that a Manager may call.
var hostileMethods = []string{
	"mover.Move", "mover.Divisible", "mover.Leaves", "mover.InPlace", "mover.FileBacked", "mover.CheckModel", "mover.Resident",
	"mover.Footprint", "mover.Cached", "mover.Uncache", "mover.Forecast", "mover.Instance", "mover.PartStatus", "mover.Close",
	"probe.Memory", "probe.Over", "probe.PartStatus", "probe.Close",
	"selector.Select", "selector.Accessed", "selector.Moved", "selector.Reported", "selector.PartStatus", "selector.Close",
	"placement.Plan", "placement.Accessed", "placement.Moved", "placement.Reported", "placement.Hint", "placement.Worth",
	"placement.Predict", "placement.MarshalBinary", "placement.UnmarshalBinary", "placement.PartStatus", "placement.Close",
	"logger.Enabled", "logger.Handle",
	"event.MoveStarted", "event.MoveEnded", "event.Granted", "event.Released", "event.JobEnded", "event.Evicted", "event.Refused",
	"event.LimitsChanged", "event.PressureChanged", "request.Progress",
}

// hostileConfig configures six models with parts that do what v decides.
func hostileConfig(v *villain, stateDir string) modeltier.Config {
	act := func(method string) { v.act("event." + method) }
	return modeltier.Config{
		Models: []tier.Model{
			{Name: "a", Size: tier.GiB, Capabilities: []string{"text-generation"}, Home: tier.RAM}, {Name: "b", Size: 2 * tier.GiB, Capabilities: []string{"text-generation"}},
			{Name: "c", Size: 3 * tier.GiB, Capabilities: []string{"chat"}}, {Name: "d", Size: 4 * tier.GiB},
		},
		Limits: tier.Limits{RAM: 5 * tier.GiB, Swap: 10 * tier.GiB},
		Mover:  hostileMover{&tiertest.Mover{Parts: true, Files: true}, v}, Probe: hostileProbe{v},
		Selector: hostileSelector{selector.New(), v}, Placement: hostilePlacement{optimizer.New(), v},
		Logger: slog.New(hostileHandler{v}), StateDir: stateDir,
		MaxWait: 30 * time.Second, Fairness: time.Second, StallAfter: 20 * time.Second, StuckAfter: 5 * time.Second, OptimizeEvery: 2 * time.Second,
		Events: modeltier.Events{
			MoveStarted: func(modeltier.MoveEvent) { act("MoveStarted") }, MoveEnded: func(modeltier.MoveEvent) { act("MoveEnded") },
			Granted: func(modeltier.GrantEvent) { act("Granted") }, Released: func(modeltier.ReleaseEvent) { act("Released") },
			JobEnded: func(modeltier.JobEvent) { act("JobEnded") }, Evicted: func(modeltier.EvictEvent) { act("Evicted") },
			Refused:       func(modeltier.RefuseEvent) { act("Refused") },
			LimitsChanged: func(_, _ tier.Limits) { act("LimitsChanged") }, PressureChanged: func(_, _ tier.PressureLevel) { act("PressureChanged") },
		},
	}
}

// Bounds under hostile parts. A wait ends within MaxWait and the time after which a
// part counts as stuck; Close waits StuckAfter for running moves and for each part's
// Close.
const (
	hostileWait  = 30*time.Second + 45*time.Second
	hostileClose = 40 * time.Second
)

// abuse drives a Manager with hostile parts and checks that everything ends.
func abuse(t *testing.T, v *villain, stateDir string) {
	v.free = make(chan struct{})
	bounded := func(what string, limit time.Duration, fn func()) {
		done := make(chan struct{})
		go func() {
			defer close(done) // even if a selector ends the goroutine
			fn()
		}()
		select {
		case <-done:
		case <-time.After(limit):
			t.Errorf("%s has not ended after %v", what, limit)
			<-done
		}
	}
	var m *modeltier.Manager
	var err error
	bounded("New", time.Minute, func() { m, err = modeltier.New(hostileConfig(v, stateDir)) })
	if err != nil { // it may refuse such parts with an error
		close(v.free)
		if m != nil {
			t.Error("New returns a Manager and an error")
		}
		time.Sleep(time.Minute)
		return
	}
	v.m.Store(m)
	var clients sync.WaitGroup
	client := func(what string, limit time.Duration, fn func(ctx context.Context)) {
		clients.Go(func() {
			if v.misdeed("selector.Select") == blocks {
				limit = time.Hour // on the caller's own goroutine
			}
			bounded(what, limit, func() { fn(context.Background()) })
		})
	}
	for i := range 8 {
		client("Acquire", 3*hostileWait, func(ctx context.Context) {
			for j := range 3 {
				l, err := m.Acquire(ctx, modeltier.Request{
					Model: string("abcd"[(i+j)%4]), Background: i%3 == 0, Progress: func(tier.Waiting) { v.act("request.Progress") },
				})
				if err == nil {
					l.Report(tier.Outcome{Scored: true, Score: math.NaN()})
					if _, ok := modeltier.Instance[int](l); ok {
						t.Error("a lease has an instance that no mover made")
					}
					time.Sleep(time.Duration(100*i) * time.Millisecond)
				} else if tier.Code(err) == "internal" && !errors.Is(err, tier.ErrPanic) {
					t.Errorf("an error without a code: %v", err)
				}
				l.Release()
			}
		})
	}
	client("HotLoad", 4*hostileWait, func(ctx context.Context) {
		if j, err := m.HotLoad(ctx, tier.Model{Name: "h", Size: tier.GiB, Home: tier.RAM}); err == nil {
			j.Wait(ctx)
		}
	})
	client("orders", 3*hostileWait, func(ctx context.Context) {
		time.Sleep(5 * time.Second)
		if j, err := m.MoveTier(ctx, "b", tier.RAM); err == nil {
			j.Wait(ctx)
		}
		m.Hint("c", 1, time.Minute)
		m.Optimize(ctx)
		m.ReportCrash("a", errText{"crash"})
		m.UpdateLimits(ctx, tier.Limits{RAM: 4 * tier.GiB})
		models := hostileConfig(v, "").Models
		models[1].Size += tier.GiB
		m.Reconfigure(ctx, models[:3], tier.Limits{})
		if j, err := m.Remove(ctx, "h"); err == nil {
			j.Wait(ctx)
		}
	})
	client("Status", time.Minute, func(context.Context) {
		for range 3 {
			time.Sleep(2 * time.Second)
			if s := m.Status(); s.RAM.Used > s.RAM.Limit || s.RAM.Used < 0 {
				t.Errorf("ram holds %v of %v", s.RAM.Used, s.RAM.Limit)
			}
			if m.Check() != nil {
				// A request that finds a gate closed was counted for a moment (gate.enter). Once
				// time goes on in the bubble, none is between the two.
				time.Sleep(time.Millisecond)
			}
			if err := m.Check(); err != nil {
				t.Errorf("invariants: %v", err)
			}
		}
	})
	if v.misdeed("selector.Select") == blocks {
		time.Sleep(time.Minute)
	} else {
		clients.Wait()
	}
	if s := m.Status(); s.Stale {
		t.Error("the loop does not answer")
	}
	bounded("Close", hostileClose, func() { m.Close() })
	close(v.free)
	clients.Wait()
	time.Sleep(time.Minute) // until the blocked methods have ended: a bubble cannot end before its goroutines
}

// TestHostile_EachMethodInTurn_EverythingEnds has each method of each part do each
// misdeed, for good.
func TestHostile_EachMethodInTurn_EverythingEnds(t *testing.T) {
	called := make(map[string]bool)
	for _, method := range hostileMethods {
		for _, d := range misdeeds {
			t.Run(method+" "+string(d), func(t *testing.T) {
				dir := t.TempDir()
				for range 2 { // without stored state, and with that of the first
					synctest.Test(t, func(t *testing.T) {
						v := &villain{misdeed: func(m string) misdeed {
							if m == method {
								return d
							}
							return behaves
						}}
						abuse(t, v, dir)
						v.calls.Range(func(m, _ any) bool { called[m.(string)] = true; return true })
					})
				}
			})
		}
	}
	for _, method := range hostileMethods {
		if !called[method] && !slices.Contains([]string{"placement.Worth", "event.PressureChanged"}, method) {
			t.Errorf("%s was never called", method)
		}
	}
}

// TestHostile_AnyMethodAtRandom_EverythingEnds has all methods do misdeeds at random.
func TestHostile_AnyMethodAtRandom_EverythingEnds(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				dice := rand.New(rand.NewPCG(seed, 1))
				often := dice.Float64() / 2
				v := &villain{misdeed: func(m string) misdeed {
					mu.Lock()
					defer mu.Unlock()
					if dice.Float64() > often || m == "selector.Select" {
						return behaves
					}
					return misdeeds[dice.IntN(len(misdeeds))]
				}}
				abuse(t, v, "")
			})
		})
	}
}

// Each misdeed of a progress function harms its own reports alone.
func TestHostile_ProgressFunction_OthersAreServedAndTold(t *testing.T) {
	for _, d := range []misdeed{blocks, panics, exits, callsBack} {
		t.Run(string(d), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, mover := newStarterRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 1), model("c", 1)}})
				const odd = 7 * time.Millisecond // so that no wait ends at a report
				mover.fixed += odd
				v := &villain{misdeed: func(string) misdeed { return d }, free: make(chan struct{})}
				v.m.Store(r.Manager)
				defer close(v.free)
				calls := 0
				var l audience
				good := r.beginWith(modeltier.Request{Model: "a", Progress: l.hear})
				bad := r.beginWith(modeltier.Request{Model: "a", Progress: func(tier.Waiting) { calls++; v.act("progress") }})
				left := r.beginWith(modeltier.Request{Model: "a", Progress: func(tier.Waiting) { v.act("progress") }})
				time.Sleep(3*time.Second + odd)
				left.leave()
				left.refused(errLeft, 3*time.Second+odd)
				good.served(5*time.Second + odd).Release()
				bad.served(5*time.Second + odd).Release()
				truthful(t, l.told(), time.Now())
				if n := len(l.told()); n < 40 {
					t.Errorf("the other request was told %d times", n)
				}
				if calls == 0 || calls > 1 && d != callsBack {
					t.Errorf("it was called %d times", calls)
				}
				began := time.Now()
				if err := r.Close(); err != nil || time.Since(began) > time.Second {
					t.Errorf("Close took %v: %v", time.Since(began), err)
				}
			})
		})
	}
}

// takesLeased is a placement that names a model in use as a victim, patient or not.
type takesLeased struct{}

func (takesLeased) Plan(v *tier.View, need *tier.Need) (p tier.Plan) {
	if need == nil || need.Model < 0 {
		return p
	}
	if me := v.Library.At(need.Model); me.Name != "a" {
		p.Steps = append(p.Steps, tier.Step{Move: tier.Move{Model: *v.Library.At(0), To: tier.Storage}})
	}
	p.Steps = append(p.Steps, tier.Step{Move: tier.Move{Model: *v.Library.At(need.Model), To: tier.RAM}})
	return p
}

func TestAcquire_PlacementNamesWhatIsLeased_LoopGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 3), model("b", 3)}, Placement: takesLeased{}})
		l, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"})
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() {
			l, err := r.Acquire(context.Background(), modeltier.Request{Model: "b"})
			if err == nil {
				l.Release()
			}
			served <- err
		}()
		time.Sleep(time.Second)
		if r.Status().Stale {
			t.Error("the loop does not answer")
		}
		l.Release()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// told is a placement with a part of Status.
type told struct{ takesLeased }

func (told) PartStatus() any { return "here" }

// pondering is a placement whose prediction blocks until it is released.
type pondering struct {
	takesLeased
	let chan struct{}
}

func (p pondering) Predict(*tier.Model, tier.Tier, tier.Tier, tier.Bytes) (d, low, high time.Duration) {
	<-p.let
	return
}

func TestAcquire_PredictionThatNeverComes_LoopGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pondering{let: make(chan struct{})}
		defer close(p.let)
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Placement: p})
		l, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"})
		if err != nil {
			t.Fatal(err)
		}
		l.Release()
	})
}

// speechless is a mover whose Resident blocks, whatever its context says, until it is
// released.
type speechless struct {
	*tiertest.Mover
	let chan struct{}
}

func (s speechless) Resident(context.Context, string) (present, reclaimable tier.Bytes, err error) {
	<-s.let
	return 0, 0, nil
}

func TestResident_DoesNotReturn_HoldsUpNeitherMovesNorStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mover := speechless{&tiertest.Mover{}, make(chan struct{})}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1), model("b", 1)}, Mover: mover})
		r.mover = mover.Mover
		defer close(mover.let)
		r.begin("a").served(1500*time.Millisecond + 10*time.Second).Release()
		r.use("b")
		for range 50 {
			began := time.Now()
			if s := r.Status(); s.Stale || s.Models[0].Present != -1 || s.Models[1].Present != -1 {
				t.Errorf("%+v", s.Models)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Fatalf("Status took %v", took)
			}
		}
		// The number of calls is bounded.
		began := time.Now()
		if r.Status(); time.Since(began) > 0 {
			t.Errorf("it is still asked, for %v", time.Since(began))
		}
	})
}

func TestResident_ReturnsAfterAll_IsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mover := speechless{&tiertest.Mover{}, make(chan struct{})}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Mover: mover})
		r.mover = mover.Mover
		r.use("a")
		for range 50 {
			r.Status()
		}
		close(mover.let)
		synctest.Wait()
		if a := r.Status().Models[0]; a.Present != 0 {
			t.Errorf("%v are present, the mover says 0", a.Present)
		}
	})
}
