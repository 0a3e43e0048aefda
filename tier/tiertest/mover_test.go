package tiertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// honest is a Mover of nothing that keeps the contract. Its faults are for the
// suite to find.
type honest struct {
	faults

	mu     sync.Mutex
	there  map[string]tier.Bytes
	most   map[string]tier.Bytes
	size   map[string]tier.Bytes // of those that were moved
	gone   map[string]tier.Bytes // dropped from the page cache
	inTier map[string]tier.Tier
	drops  bool // Uncache is under way
	late   sync.WaitGroup
	quit   chan struct{}
}

// faults are ways to break the contract.
type faults struct {
	fallingProgress, hugeProgress, lateProgress, blindProgress bool
	ignoresContext, ownError, leavesHalf, slowToReturn         bool
	takesBad, plainError                                       bool
	hidesPresent, reclaimsMore, ignoresKeep                    bool
	takesInStorage, forgetsPeak, takesBeyondPeak, knowsAll     bool
	changesMind, leaksGoroutine, failsClose, failsReturn       bool
	dividesNone, failsLeaving, dropsInRAM                      bool
	refusesGood, refusesPlainly, saysChannel                   bool
	cachesUnknown, failsUnknown, countsTwice, keepsCached      bool
	dropsHot, refusesMoves, dropsOn, hidesCached               bool
	dropsAByte                                                 bool
	instanceOfAll, hidesInstance, instanceInStorage            bool
}

func (h *honest) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	if mv.Model.Path == "bad" && !h.takesBad {
		if h.plainError {
			return errors.New("bad")
		}
		return &tier.InvalidError{Model: mv.Model.Name, Field: "path", Value: "bad", Rule: "must be good"}
	}
	h.mu.Lock()
	refused := h.refusesMoves && h.drops
	h.mu.Unlock()
	if refused {
		return &tier.InUseError{Model: mv.Model.Name, Reason: "its cached bytes are being dropped"}
	}
	if h.failsReturn && mv.From == tier.RAM && mv.To == tier.Swap {
		return &tier.MoveError{Model: mv.Model.Name, From: mv.From, To: mv.To, Err: tier.ErrInvalid}
	}
	if h.failsLeaving && mv.Leave > 0 {
		return &tier.MoveError{Model: mv.Model.Name, From: mv.From, To: mv.To, Err: tier.ErrInvalid}
	}
	want := mv.Keep
	switch {
	case mv.To == tier.Storage:
		want = 0
	case mv.To == tier.RAM && mv.From == tier.Swap && h.dropsInRAM:
		want = mv.Model.Size - 1
	case mv.To == tier.RAM:
		want = mv.Model.Size
	case h.ignoresKeep:
		want = mv.Model.Size
	}
	const steps = 4
	for i := tier.Bytes(1); i <= steps; i++ {
		if ctx.Err() != nil && !h.ignoresContext {
			if h.leavesHalf {
				h.put(mv.Model.Name, mv.Model.Size/2)
			}
			if h.slowToReturn {
				time.Sleep(100 * time.Millisecond)
			}
			if h.ownError {
				return tier.ErrMove
			}
			return context.Cause(ctx)
		}
		done := mv.Model.Size * i / steps
		switch {
		case h.fallingProgress:
			done = mv.Model.Size - done
		case h.hugeProgress:
			done++
		}
		if progress != nil || h.blindProgress {
			progress(done)
		}
	}
	if h.lateProgress && progress != nil {
		h.late.Go(func() { <-h.quit; progress(mv.Model.Size) })
	}
	h.put(mv.Model.Name, want)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.size[mv.Model.Name], h.inTier[mv.Model.Name] = mv.Model.Size, mv.To
	if mv.To == tier.RAM {
		h.gone[mv.Model.Name] = 0
	}
	return nil
}

// Cached says that what is not present is cached, unless it was dropped.
func (h *honest) Cached(_ context.Context, name string) (tier.Bytes, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := max(h.size[name]-h.there[name]-h.gone[name], 0)
	switch {
	case h.cachesUnknown && h.size[name] == 0:
		n = 1
	case h.countsTwice:
		n = h.size[name]
	case h.hidesCached && h.size[name] > 0:
		return 0, errors.New("will not tell")
	}
	return n, nil
}

func (h *honest) Uncache(ctx context.Context, name string, n tier.Bytes) error {
	h.mu.Lock()
	if h.failsUnknown && h.size[name] == 0 {
		h.mu.Unlock()
		return tier.ErrNotFound
	}
	if h.dropsAByte {
		n = 1
	}
	if !h.keepsCached {
		h.gone[name] = min(h.gone[name].Plus(n), h.size[name]-h.there[name])
	}
	if h.dropsHot {
		h.there[name] = 0
	}
	waits := (h.refusesMoves || h.dropsOn) && ctx.Done() != nil
	h.drops = waits
	h.mu.Unlock()
	if waits {
		<-ctx.Done()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drops = false
	return nil
}

func (h *honest) put(name string, n tier.Bytes) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.there[name] = n
	h.most[name] = max(h.most[name], 2*n)
	if h.forgetsPeak {
		h.most[name] = 2 * n
	}
}

// Footprint says that a model takes twice its size.
func (h *honest) Footprint(name string) (now, peak tier.Bytes, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now, peak = 2*h.there[name], h.most[name]
	if h.takesInStorage && peak > 0 {
		now = max(now, 1)
	}
	if h.takesBeyondPeak {
		peak /= 2
	}
	return now, peak, peak > 0 || h.knowsAll
}

func (h *honest) Resident(_ context.Context, name string) (present, reclaimable tier.Bytes, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	present = h.there[name]
	reclaimable = present / 2
	if h.hidesPresent {
		present, reclaimable = 0, 0
	}
	if h.reclaimsMore {
		reclaimable++
	}
	return present, reclaimable, nil
}

// Instance says that what serves a model is its name.
func (h *honest) Instance(name string) any {
	h.mu.Lock()
	defer h.mu.Unlock()
	serves := h.inTier[name] > tier.Storage || h.instanceInStorage && h.size[name] > 0 || h.instanceOfAll
	if serves && !h.hidesInstance {
		return name
	}
	return nil
}

func (h *honest) Divisible(*tier.Model) bool { return !h.dividesNone }
func (h *honest) Leaves(*tier.Model) bool    { return true }
func (h *honest) FileBacked() bool           { return true }

func (h *honest) CheckModel(m *tier.Model) error {
	switch {
	case m.Path == "bad" && h.refusesPlainly:
		return errors.New("bad")
	case m.Path == "bad" || h.refusesGood:
		return &tier.InvalidError{Model: m.Name, Field: "path", Value: m.Path, Rule: "must be good"}
	}
	return nil
}

func (h *honest) PartStatus() any {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.saysChannel && h.there["a"] > 0 {
		return h.quit
	}
	return maps.Clone(h.there)
}

func (h *honest) InPlace(m *tier.Model) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.changesMind || h.there[m.Name] == 0
}

func (h *honest) Close() error {
	if !h.leaksGoroutine {
		close(h.quit)
	}
	h.late.Wait()
	if h.failsClose {
		return errors.New("will not close")
	}
	return nil
}

func honestOptions(f faults) MoverOptions {
	return MoverOptions{
		New: func(t testing.TB) tier.Mover {
			h := &honest{
				faults: f, there: map[string]tier.Bytes{}, most: map[string]tier.Bytes{},
				size: map[string]tier.Bytes{}, gone: map[string]tier.Bytes{}, inTier: map[string]tier.Tier{}, quit: make(chan struct{}),
			}
			if f.leaksGoroutine {
				go func() { <-h.quit }()
				t.Cleanup(func() { close(h.quit) })
			}
			return h
		},
		Models: func(testing.TB) []tier.Model {
			return []tier.Model{{Name: "a", Size: tier.MiB}, {Name: "b", Size: 3 * tier.MiB}}
		},
		Bad: func(testing.TB) []tier.Model { return []tier.Model{{Name: "bad", Path: "bad", Size: 1}} },
	}
}

func TestTestMover_HonestMover_Passes(t *testing.T) {
	TestMover(t, honestOptions(faults{}))
}

// optional is the interface that a check is about; its error names it.
var optional = map[string]string{
	"Resident": "tier.Resident", "Footprint": "tier.Footprinter", "Keep": "tier.Divider", "Leave": "tier.Leaver",
	"OptionalAnswers": "tier.InPlacer", "CheckModel": "tier.ModelChecker", "PartStatus": "tier.PartStatuser", "Cached": "tier.Cacher",
	"Instance": "tier.Instancer",
}

// Each fault is found, and by the check that is meant to find it.
func TestTestMover_BrokenMover_IsFound(t *testing.T) {
	for _, tt := range []struct {
		name   string
		faults faults
		by     string
	}{
		{"a move fails", faults{failsReturn: true}, "EveryMove"},
		{"progress falls", faults{fallingProgress: true}, "Progress"},
		{"progress passes the size", faults{hugeProgress: true}, "Progress"},
		{"progress comes late", faults{lateProgress: true}, "Progress"},
		{"progress is called though it is nil", faults{blindProgress: true}, "EveryMove"},
		{"the context is ignored", faults{ignoresContext: true}, "CancelledBefore"},
		{"the cause is not returned", faults{ownError: true}, "CancelledHalfWay"},
		{"a cancelled move leaves bytes", faults{leavesHalf: true}, "CancelledHalfWay"},
		{"a cancelled move takes its time", faults{slowToReturn: true}, "CancelledHalfWay"},
		{"a bad model is loaded", faults{takesBad: true}, "BadModel"},
		{"the error has no code", faults{plainError: true}, "BadModel"},
		{"what is present is hidden", faults{hidesPresent: true}, "Resident"},
		{"more is reclaimable than present", faults{reclaimsMore: true}, "Resident"},
		{"a stopped model takes memory", faults{takesInStorage: true}, "Footprint"},
		{"a peak is forgotten", faults{forgetsPeak: true}, "Footprint"},
		{"more is taken than the peak", faults{takesBeyondPeak: true}, "Footprint"},
		{"an unknown model has a footprint", faults{knowsAll: true}, "Footprint"},
		{"an unknown model is cached", faults{cachesUnknown: true}, "Cached"},
		{"an unknown model cannot be dropped", faults{failsUnknown: true}, "Cached"},
		{"what is present is cached as well", faults{countsTwice: true}, "Cached"},
		{"what is cached is not told", faults{hidesCached: true}, "Cached"},
		{"nothing is dropped", faults{keepsCached: true}, "Cached"},
		{"a byte is dropped", faults{dropsAByte: true}, "Cached"},
		{"what is in use is dropped", faults{dropsHot: true}, "Cached"},
		{"a move is refused", faults{refusesMoves: true}, "Cached"},
		{"dropping goes on during a move", faults{dropsOn: true}, "Cached"},
		{"an unknown model has an instance", faults{instanceOfAll: true}, "Instance"},
		{"a served model has no instance", faults{hidesInstance: true}, "Instance"},
		{"a model in storage has an instance", faults{instanceInStorage: true}, "Instance"},
		{"keep is ignored", faults{ignoresKeep: true}, "Keep"},
		{"a part is missing in ram", faults{dropsInRAM: true}, "Keep"},
		{"what leaves is not divisible", faults{dividesNone: true}, "Leave"},
		{"a move that leaves a part fails", faults{failsLeaving: true}, "Leave"},
		{"keep is ignored with a part in storage", faults{ignoresKeep: true}, "Leave"},
		{"a good model is refused", faults{refusesGood: true}, "CheckModel"},
		{"a model is refused without a code", faults{refusesPlainly: true}, "CheckModel"},
		{"the status is no JSON", faults{saysChannel: true}, "PartStatus"},
		{"an answer changes", faults{changesMind: true}, "OptionalAnswers"},
		{"a goroutine is left", faults{leaksGoroutine: true}, "Close"},
		{"close fails", faults{failsClose: true}, "Close"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := honestOptions(tt.faults)
			opts.Patience = 50 * time.Millisecond
			for _, c := range moverChecks {
				if !strings.HasPrefix(c.name, tt.by) {
					continue
				}
				err := c.run(t, opts)
				if err == nil {
					t.Error("not found by", c.name)
				}
				if what := optional[tt.by]; err != nil && !strings.Contains(err.Error(), what) {
					t.Errorf("the error does not name %s: %v", what, err)
				}
			}
		})
	}
}

func TestMover_ModelOfAnySize_ProgressRisesAndTimePasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, size := range []tier.Bytes{tier.KiB, tier.GiB, 1<<62 + 5, tier.Unlimited} {
			m := tier.Model{Name: fmt.Sprint(int64(size)), Size: size}
			var last tier.Bytes
			began := time.Now()
			err := (&Mover{}).Move(t.Context(), tier.Move{Model: m, To: tier.RAM}, func(done tier.Bytes) {
				if done < last {
					t.Errorf("progress fell from %d to %d of %d", last, done, size)
				}
				last = done
			})
			if took := time.Since(began); err != nil || last != size || took <= 0 {
				t.Errorf("%d bytes: %v after %v, %d done", size, err, took, last)
			}
		}
	})
}
