package tiertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// MoverOptions say what [TestMover] has to know of a Mover.
type MoverOptions struct {
	// New returns a new Mover. If it is a tier.Closer, the suite closes it.
	New func(t testing.TB) tier.Mover
	// Models returns at least two models that the Mover can take to any tier. Size
	// is set and right, and nobody else uses what they are made of. They are in
	// storage, with nothing in memory.
	Models func(t testing.TB) []tier.Model
	// Bad returns models that no Mover can load, such as one without a file. Nil:
	// there are none.
	Bad func(t testing.TB) []tier.Model
	// Patience is how long a cancelled move may take to return. The contract says
	// tens of milliseconds; a busy test machine needs more. Zero: 5 s.
	Patience time.Duration
}

// granule is how much less than asked a kept part may be: the largest page of any
// machine. More than asked would be more than was set aside for it.
const granule = 64 * tier.KiB

// TestMover checks that a Mover keeps the contract of tier.Mover and of the
// optional interfaces that it offers.
func TestMover(t *testing.T, opts MoverOptions) {
	opts.Patience = cmp.Or(opts.Patience, 5*time.Second)
	for _, c := range moverChecks {
		t.Run(c.name, func(t *testing.T) {
			if err := c.run(t, opts); err != nil {
				t.Error(err)
			}
		})
	}
}

// moverCheck is one rule of the contract. Its error says how it was broken.
type moverCheck struct {
	name  string
	check func(s *moverSuite) error
}

var moverChecks = []moverCheck{
	{"EveryMove_Arrives", (*moverSuite).everyMove},
	{"Progress_NeverFallsNorPassesTheSize", (*moverSuite).progress},
	{"NilProgress_IsNotCalled", (*moverSuite).nilProgress},
	{"CancelledBefore_ReturnsTheCauseAndStays", (*moverSuite).cancelledBefore},
	{"CancelledHalfWay_ReturnsTheCauseInTimeAndStays", (*moverSuite).cancelledHalfWay},
	{"DifferentModels_MoveAtOnce", (*moverSuite).atOnce},
	{"BadModel_IsATypedErrorAndLeavesNothing", (*moverSuite).bad},
	{"Resident_TellsWhatIsThere", (*moverSuite).resident},
	{"Footprint_IsNothingInStorageAndNoMoreThanItsPeak", (*moverSuite).footprint},
	{"Keep_IsKept", (*moverSuite).keep},
	{"OptionalAnswers_DoNotChange", (*moverSuite).answers},
	{"Close_LeavesNoGoroutine", (*moverSuite).closing},
}

// moverSuite is one Mover under one check.
type moverSuite struct {
	MoverOptions
	t      testing.TB
	mover  tier.Mover
	models []tier.Model
}

func (c moverCheck) run(t testing.TB, opts MoverOptions) (err error) {
	s := &moverSuite{MoverOptions: opts, t: t, mover: opts.New(t), models: opts.Models(t)}
	if len(s.models) < 2 {
		return errors.New("MoverOptions.Models must return two models or more")
	}
	err = c.check(s)
	if e := s.close(); e != nil {
		err = errors.Join(err, fmt.Errorf("Close: %w", e))
	}
	return err
}

// close closes the Mover, once.
func (s *moverSuite) close() error {
	c, ok := s.mover.(tier.Closer)
	s.mover = nil
	if !ok {
		return nil
	}
	return c.Close()
}

func (s *moverSuite) move(m tier.Model, from, to tier.Tier, keep tier.Bytes) error {
	mv := tier.Move{Model: m, From: from, To: to, Keep: keep}
	if err := s.mover.Move(context.Background(), mv, nil); err != nil {
		return fmt.Errorf("%s of %q from %v to %v, keep %v: %w", mv.Verb(), m.Name, from, to, keep, err)
	}
	return nil
}

// tour is a way through the tiers that takes every step from tier to tier.
var tour = []tier.Tier{
	tier.Storage, tier.Swap, tier.RAM, tier.Swap, tier.Swap, tier.Storage,
	tier.RAM, tier.Storage,
}

func (s *moverSuite) everyMove() error {
	for _, m := range s.models {
		for range 2 { // what is left behind shows the second time
			for i := 1; i < len(tour); i++ {
				if err := s.move(m, tour[i-1], tour[i], 0); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (s *moverSuite) progress() error {
	var (
		mu       sync.Mutex
		last     tier.Bytes
		returned bool
		fault    error
	)
	m := s.models[0]
	for i := 1; i < len(tour); i++ {
		mv := tier.Move{Model: m, From: tour[i-1], To: tour[i], Keep: m.Size / 2}
		last, returned = 0, false
		err := s.mover.Move(context.Background(), mv, func(done tier.Bytes) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case returned:
				fault = cmp.Or(fault, fmt.Errorf("from %v to %v: progress was called after Move had returned", mv.From, mv.To))
			case done < last:
				fault = cmp.Or(fault, fmt.Errorf("from %v to %v: progress fell from %d to %d", mv.From, mv.To, last, done))
			case done > m.Size:
				fault = cmp.Or(fault, fmt.Errorf("from %v to %v: progress says %d of %d bytes", mv.From, mv.To, done, m.Size))
			}
			last = max(last, done)
		})
		mu.Lock()
		returned = true
		mu.Unlock()
		if err != nil {
			return err
		}
	}
	if err := s.close(); err != nil { // a late call comes by then
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	return fault
}

func (s *moverSuite) nilProgress() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("a move without progress panicked: %v", r)
		}
	}()
	return errors.Join(s.move(s.models[0], tier.Storage, tier.RAM, 0), s.move(s.models[0], tier.RAM, tier.Storage, 0))
}

func (s *moverSuite) cancelledBefore() error {
	cause := errors.New("the suite's cause")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	for _, to := range []tier.Tier{tier.RAM, tier.Swap} {
		err := s.mover.Move(ctx, tier.Move{Model: s.models[0], From: tier.Storage, To: to}, nil)
		if !errors.Is(err, cause) {
			return fmt.Errorf("a move to %v under a cancelled context returned %v, want its cause", to, err)
		}
	}
	if err := s.seen(s.models[0], 0, 0); err != nil {
		return err
	}
	return s.move(s.models[0], tier.Storage, tier.RAM, 0)
}

func (s *moverSuite) cancelledHalfWay() error {
	m := s.models[0]
	cause := errors.New("the suite's cause")
	for _, from := range []tier.Tier{tier.Storage, tier.Swap} {
		var before tier.Bytes // an engine in swap may keep memory of its own
		if from == tier.Swap {
			if err := s.move(m, tier.Storage, tier.Swap, 0); err != nil {
				return err
			}
			if r, ok := s.mover.(tier.Resident); ok {
				var err error
				if before, _, err = r.Resident(context.Background(), m.Name); err != nil {
					return err
				}
			}
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		var at time.Time
		err := s.mover.Move(ctx, tier.Move{Model: m, From: from, To: tier.RAM}, func(tier.Bytes) {
			if at.IsZero() {
				at = time.Now()
				cancel(cause)
			}
		})
		took := time.Since(at)
		cancel(nil)
		switch {
		case at.IsZero(), err == nil: // too fast to be caught half-way
			if err != nil {
				return err
			}
			if err := s.move(m, tier.RAM, from, 0); err != nil {
				return err
			}
		case !errors.Is(err, cause):
			return fmt.Errorf("a move from %v that was cancelled half-way returned %v, want its cause", from, err)
		case took > s.Patience:
			return fmt.Errorf("a move from %v that was cancelled half-way took %v to return", from, took)
		default:
			if err := s.seen(m, 0, before); err != nil {
				return fmt.Errorf("after a move from %v that was cancelled half-way: %w", from, err)
			}
		}
		if err := s.move(m, from, tier.RAM, 0); err != nil {
			return fmt.Errorf("after a move that was cancelled half-way: %w", err)
		}
		if err := s.move(m, tier.RAM, tier.Storage, 0); err != nil {
			return err
		}
	}
	return nil
}

func (s *moverSuite) atOnce() error {
	errs := make([]error, len(s.models))
	var group sync.WaitGroup
	for i, m := range s.models {
		group.Go(func() {
			for j := 1; j < len(tour) && errs[i] == nil; j++ {
				errs[i] = s.move(m, tour[j-1], tour[j], m.Size/2)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (s *moverSuite) bad() error {
	if s.Bad == nil {
		return nil
	}
	for _, m := range s.Bad(s.t) {
		for _, to := range []tier.Tier{tier.RAM, tier.Swap} {
			err := s.mover.Move(context.Background(), tier.Move{Model: m, From: tier.Storage, To: to}, nil)
			if err == nil {
				return fmt.Errorf("the bad model %q (%s) was moved to %v", m.Name, m.Path, to)
			}
			if code := tier.Code(err); code == "internal" {
				return fmt.Errorf("the bad model %q gave an error without a code: %w", m.Name, err)
			}
			if err := s.seen(m, 0, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// closing labels the goroutine that uses the Mover. Goroutines inherit labels, so
// that the profile afterwards shows whose they are.
func (s *moverSuite) closing() error {
	if err := s.close(); err != nil {
		return err
	}
	const key = "tiertest"
	value := fmt.Sprintf("closing %p", s)
	var err error
	pprof.Do(context.Background(), pprof.Labels(key, value), func(context.Context) {
		s.mover = s.New(s.t)
		err = cmp.Or(
			s.move(s.models[0], tier.Storage, tier.RAM, 0),
			s.move(s.models[1], tier.Storage, tier.Swap, 0),
		)
		if _, ok := s.mover.(tier.Closer); ok {
			err = cmp.Or(err, s.close())
		}
	})
	if err != nil || s.mover != nil { // one that is never closed may keep what it has
		return err
	}
	for limit := time.Now().Add(s.Patience); ; runtime.Gosched() { // they may be on their way out
		var profile strings.Builder
		if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
			return err
		}
		if !strings.Contains(profile.String(), value) {
			return nil
		}
		if time.Now().After(limit) {
			return fmt.Errorf("goroutines are left after Close, those labelled %q:\n%s", value, profile.String())
		}
	}
}
