package tiertest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// MoverOptions tell [TestMover] what it has to know about a Mover. New and Models are
// required.
type MoverOptions struct {
	// New returns a new Mover. If it is a tier.Closer, the suite closes it.
	New func(t testing.TB) tier.Mover
	// Models returns at least two models that the Mover can take to any tier. Size
	// is set and right, and no other test uses their files. They are in storage, with
	// no bytes in memory.
	Models func(t testing.TB) []tier.Model
	// Bad returns models that no Mover can load, such as one without a file. One that
	// serves nothing from swap may take them there, as it loads nothing before they come to
	// ram. Nil: there are none.
	Bad func(t testing.TB) []tier.Model
	// Patience is how long a cancelled move may take to return. The contract says
	// tens of milliseconds; a busy test machine needs more. Zero: 5 s.
	Patience time.Duration
}

// granule is how much smaller than asked a kept part may be: the largest page of any
// machine. A larger one would be more than was reserved for it.
const granule = 64 * tier.KiB

// TestMover checks that a Mover keeps the contract of tier.Mover and of each of the
// optional interfaces that it has (package tier lists them). Run it with the race
// detector too.
func TestMover(t *testing.T, opts MoverOptions) {
	if opts.New == nil || opts.Models == nil {
		t.Fatal("MoverOptions.New and MoverOptions.Models must both be functions: they are what is tested")
	}
	opts.Patience = cmp.Or(opts.Patience, 5*time.Second)
	for _, c := range moverChecks {
		t.Run(c.name, func(t *testing.T) {
			if err := c.run(t, opts); err != nil {
				t.Error(err)
			}
		})
	}
}

// moverCheck is one rule of the contract. Its error says how the rule was broken.
type moverCheck struct {
	name  string
	check func(s *moverSuite) error
}

var moverChecks = []moverCheck{
	{"EveryMove_Arrives", (*moverSuite).everyMove},
	{"Progress_NeverFallsNorPassesTheSize", (*moverSuite).progress},
	{"CancelledBefore_ReturnsTheCauseAndStays", (*moverSuite).cancelledBefore},
	{"CancelledHalfWay_ReturnsTheCauseInTimeAndStays", (*moverSuite).cancelledHalfWay},
	{"DifferentModels_MoveAtOnce", (*moverSuite).atOnce},
	{"BadModel_IsATypedErrorAndLeavesNothing", (*moverSuite).refuses},
	{"Resident_TellsWhatIsThere", (*moverSuite).resident},
	{"Footprint_IsNothingInStorageAndNoMoreThanItsPeak", (*moverSuite).footprint},
	{"Cached_IsNotPresentAndIsDroppedOnDemand", (*moverSuite).cacher},
	{"Instance_IsThereWhereTheModelIsServed", (*moverSuite).instance},
	{"Keep_IsKept", (*moverSuite).keep},
	{"Leave_IsKeptToo", (*moverSuite).leave},
	{"OptionalAnswers_DoNotChange", (*moverSuite).answers},
	{"CheckModel_AcceptsWhatMoves", (*moverSuite).checker},
	{"PartStatus_MarshalsDuringMoves", (*moverSuite).status},
	{"Close_LeavesNoGoroutine", (*moverSuite).closing},
}

// moverSuite is one Mover under one check.
type moverSuite struct {
	MoverOptions
	t      testing.TB
	mover  tier.Mover
	models []tier.Model
	bad    []tier.Model
}

func (c moverCheck) run(t testing.TB, opts MoverOptions) (err error) {
	defer func() {
		if r := recover(); r != nil { // such as the call of a progress that is nil
			err = fmt.Errorf("panic: %v; a progress that is nil is not to be called\n%s", r, debug.Stack())
		}
	}()
	s := &moverSuite{MoverOptions: opts, t: t, mover: opts.New(t), models: opts.Models(t)}
	if opts.Bad != nil {
		s.bad = opts.Bad(t)
	}
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
	mover := s.mover
	s.mover = nil
	return closePart(mover)
}

// closePart closes a part that is a tier.Closer.
func closePart(part any) error {
	if c, ok := part.(tier.Closer); ok {
		return c.Close()
	}
	return nil
}

func (s *moverSuite) move(m tier.Model, from, to tier.Tier, keep tier.Bytes) error {
	mv := tier.Move{Model: m, From: from, To: to, Keep: keep}
	if err := s.mover.Move(context.Background(), mv, nil); err != nil {
		return fmt.Errorf("%s of %q from %v to %v, keep %v, failed; the models of MoverOptions.Models have to reach every tier: %w", mv.Verb(), m.Name, from, to, keep, err)
	}
	return nil
}

// within puts before an error where it was seen; nil stays nil.
func within(where string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	return nil
}

// tour visits the tiers so that it takes every step from tier to tier.
var tour = []tier.Tier{
	tier.Storage, tier.Swap, tier.RAM, tier.Swap, tier.Swap, tier.Storage,
	tier.RAM, tier.Storage,
}

// walk takes a model through the tour, and has check called, if it is not nil, in each
// tier.
func (s *moverSuite) walk(m tier.Model, keep tier.Bytes, check func(in tier.Tier) error) error {
	for i := 1; i < len(tour); i++ {
		err := s.move(m, tour[i-1], tour[i], keep)
		if err == nil && check != nil {
			err = check(tour[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *moverSuite) everyMove() error {
	for _, m := range s.models {
		for range 2 { // what is left behind shows the second time
			if err := s.walk(m, 0, nil); err != nil {
				return err
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
				fault = cmp.Or(fault, fmt.Errorf("from %v to %v: progress was called after Move had returned; end what calls it first", mv.From, mv.To))
			case done < last:
				fault = cmp.Or(fault, fmt.Errorf("from %v to %v: progress fell from %d to %d; report the bytes done so far, and not those of a step", mv.From, mv.To, last, done))
			case done > m.Size:
				fault = cmp.Or(fault, fmt.Errorf("from %v to %v: progress says %d of %d bytes; report bytes of the weights, Size at most", mv.From, mv.To, done, m.Size))
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

func (s *moverSuite) cancelledBefore() error {
	cause := errors.New("the suite's cause")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	for _, to := range []tier.Tier{tier.RAM, tier.Swap} {
		err := s.mover.Move(ctx, tier.Move{Model: s.models[0], From: tier.Storage, To: to}, nil)
		if !errors.Is(err, cause) {
			return fmt.Errorf("a move to %v under a cancelled context returned %v, want the cause of the context: return context.Cause(ctx) before anything is begun", to, err)
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
		case err == nil: // too fast to be caught half-way
			if err := s.move(m, tier.RAM, from, 0); err != nil {
				return err
			}
		case at.IsZero():
			return err
		case !errors.Is(err, cause):
			return fmt.Errorf("a move from %v that was cancelled half-way returned %v, want its cause: return context.Cause(ctx), as it is or wrapped", from, err)
		case took > s.Patience:
			return fmt.Errorf("a move from %v that was cancelled half-way took %v to return; look at the context more often, as Move has tens of milliseconds and here %v", from, took, s.Patience)
		default:
			if err := s.seen(m, 0, before); err != nil {
				return fmt.Errorf("after a move from %v that was cancelled half-way, which is to be undone before Move returns: %w", from, err)
			}
		}
		err = within("after a move that was cancelled half-way", s.move(m, from, tier.RAM, 0))
		if err == nil {
			err = s.move(m, tier.RAM, tier.Storage, 0)
		}
		if err != nil {
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
			errs[i] = s.walk(m, m.Size/2, nil)
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (s *moverSuite) refuses() error {
	for _, m := range s.bad {
		for _, to := range []tier.Tier{tier.RAM, tier.Swap} {
			err := s.mover.Move(context.Background(), tier.Move{Model: m, From: tier.Storage, To: to}, nil)
			if err == nil && to == tier.Swap && !s.inPlace(m) {
				continue
			}
			if err == nil {
				return fmt.Errorf("the bad model %q (%s) was moved to %v; return an error that says what is wrong with it", m.Name, m.Path, to)
			}
			if code := tier.Code(err); code == "internal" {
				return fmt.Errorf("the bad model %q gave an error without a code; return a *tier.InvalidError, or wrap an error of package tier: %w", m.Name, err)
			}
			if err := s.seen(m, 0, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// inPlace reports whether the Mover says that it serves a model from swap.
func (s *moverSuite) inPlace(m tier.Model) bool {
	p, ok := s.mover.(tier.InPlacer)
	return ok && p.InPlace(&m)
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
			return fmt.Errorf("goroutines are left after Close, which has to end them and wait for them: those labelled %q:\n%s", value, profile.String())
		}
	}
}

// The rules of the optional interfaces. An error names the interface, so that its
// doc, which is the rule, is one look away.

// seen checks what the Mover sees of a model, if it can see.
func (s *moverSuite) seen(m tier.Model, least, most tier.Bytes) error {
	r, ok := s.mover.(tier.Resident)
	if !ok {
		return nil
	}
	present, reclaimable, err := r.Resident(context.Background(), m.Name)
	switch {
	case err != nil:
		return fmt.Errorf("tier.Resident: Resident(%q) failed: %w", m.Name, err)
	case present < least || present > most:
		return fmt.Errorf("tier.Resident: Resident(%q) says that %d bytes are present, want %d to %d", m.Name, present, least, most)
	case reclaimable < 0 || reclaimable > present:
		return fmt.Errorf("tier.Resident: Resident(%q) says that %d bytes are reclaimable of the %d that are present; it is a part of these", m.Name, reclaimable, present)
	}
	return nil
}

func (s *moverSuite) resident() error {
	if err := s.seen(tier.Model{Name: "a model that the Mover never moved"}, 0, 0); err != nil {
		return err
	}
	m := s.models[0]
	return s.walk(m, 0, func(in tier.Tier) error {
		least, most := tier.Bytes(0), m.Size
		switch in {
		case tier.RAM:
			least = m.Size
		case tier.Storage:
			most = 0
		}
		return within(fmt.Sprint("in ", in), s.seen(m, least, most))
	})
}

func (s *moverSuite) footprint() error {
	f, ok := s.mover.(tier.Footprinter)
	if !ok {
		return nil
	}
	const unknown = "a model that the Mover never moved"
	if now, peak, ok := f.Footprint(unknown); ok || now != 0 || peak != 0 {
		return fmt.Errorf("tier.Footprinter: Footprint(%q) is %d, %d, %v; want 0, 0, false", unknown, now, peak, ok)
	}
	m, most := s.models[0], tier.Bytes(0)
	return s.walk(m, 0, func(in tier.Tier) error {
		now, peak, _ := f.Footprint(m.Name)
		switch {
		case now < 0 || now > peak:
			return fmt.Errorf("tier.Footprinter: in %v Footprint(%q) says %d bytes now, which is not from 0 to its peak of %d", in, m.Name, now, peak)
		case in == tier.Storage && now != 0:
			return fmt.Errorf("tier.Footprinter: in storage Footprint(%q) still says %d bytes now; forget what was there when the model is unloaded", m.Name, now)
		case peak < most:
			return fmt.Errorf("tier.Footprinter: in %v the peak of Footprint(%q) fell from %d to %d bytes; it is the most that was ever seen", in, m.Name, most, peak)
		}
		most = peak
		return nil
	})
}

// cacher checks what a Mover that leaves pages of models in the page cache says of
// them, and that they are dropped on demand.
func (s *moverSuite) cacher() error {
	c, ok := s.mover.(tier.Cacher)
	if !ok {
		return nil
	}
	ctx, m := context.Background(), s.models[0]
	const unknown = "a model that the Mover never moved"
	if n, err := c.Cached(ctx, unknown); n != 0 || err != nil {
		return fmt.Errorf("tier.Cacher: Cached(%q) is %d, %v; want 0 and no error", unknown, n, err)
	}
	if err := c.Uncache(ctx, unknown, tier.Unlimited); err != nil {
		return fmt.Errorf("tier.Cacher: Uncache(%q) failed, though there is nothing to drop: %w", unknown, err)
	}
	for i := 1; i < len(tour); i++ {
		if err := s.move(m, tour[i-1], tour[i], 0); err != nil {
			return err
		}
		before, err := c.Cached(ctx, m.Name)
		if err != nil {
			return fmt.Errorf("tier.Cacher: in %v Cached(%q) failed: %w", tour[i], m.Name, err)
		}
		most := m.Size - before
		if d, ok := s.mover.(tier.Divider); tour[i] == tier.Swap && !(ok && d.Divisible(&m)) {
			most = tier.Unlimited // an engine in swap may keep memory of its own
		}
		if err := s.seen(m, 0, most); err != nil {
			return fmt.Errorf("tier.Cacher: in %v Cached(%q) says that %d of %d bytes are cached; such bytes are not present as well: %w", tour[i], m.Name, before, m.Size, err)
		}
		if err := c.Uncache(ctx, m.Name, tier.Unlimited); err != nil {
			return fmt.Errorf("tier.Cacher: in %v Uncache(%q) failed: %w", tour[i], m.Name, err)
		}
		switch after, err := c.Cached(ctx, m.Name); {
		case err != nil:
			return fmt.Errorf("tier.Cacher: in %v Cached(%q) failed: %w", tour[i], m.Name, err)
		case after > before/2: // the kernel may keep a few pages
			return fmt.Errorf("tier.Cacher: in %v Uncache(%q) was to drop all that is cached; Cached said %d bytes before and says %d after", tour[i], m.Name, before, after)
		}
		if tour[i] == tier.RAM {
			if err := s.seen(m, m.Size, m.Size); err != nil {
				return fmt.Errorf("tier.Cacher: after Uncache(%q) in ram, where nothing is cached: %w", m.Name, err)
			}
		}
	}
	return s.uncacheGivesWay(c)
}

// uncacheGivesWay has the model moved while its cached bytes are being dropped, often
// enough that a move comes while Uncache is under way.
func (s *moverSuite) uncacheGivesWay(c tier.Cacher) error {
	m := s.models[0]
	for range 5 {
		for i, to := range []tier.Tier{tier.RAM, tier.Storage} {
			ctx, cancel := context.WithCancel(context.Background())
			calling, ended := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(ended)
				close(calling)
				_ = c.Uncache(ctx, m.Name, tier.Unlimited) // that it was ended may be an error
			}()
			<-calling
			err := s.move(m, [...]tier.Tier{tier.Storage, tier.RAM}[i], to, 0)
			late := time.AfterFunc(s.Patience, cancel)
			<-ended
			inTime := late.Stop()
			cancel()
			switch {
			case err != nil:
				return fmt.Errorf("tier.Cacher: a move was not carried out while Uncache(%q) was under way; a move goes first: %w", m.Name, err)
			case !inTime:
				return fmt.Errorf("tier.Cacher: Uncache(%q) went on for %v after a move of the model, which ends it", m.Name, s.Patience)
			}
		}
	}
	return nil
}

// instance checks that a model has an instance where leases on it can be granted, and
// nowhere else.
func (s *moverSuite) instance() error {
	i, ok := s.mover.(tier.Instancer)
	if !ok {
		return nil
	}
	const unknown = "a model that the Mover never moved"
	if v := i.Instance(unknown); v != nil {
		return fmt.Errorf("tier.Instancer: Instance(%q) is a %T, want nil", unknown, v)
	}
	m := s.models[0]
	return s.walk(m, 0, func(in tier.Tier) error {
		served := in == tier.RAM || in == tier.Swap && s.inPlace(m)
		switch v := i.Instance(m.Name); {
		case served && v == nil:
			return fmt.Errorf("tier.Instancer: in %v, where the model is served, Instance(%q) is nil", in, m.Name)
		case !served && v != nil:
			return fmt.Errorf("tier.Instancer: in %v, where the model is not served, Instance(%q) is a %T, want nil", in, m.Name, v)
		}
		return nil
	})
}

// part is one move to Swap that leaves parts of the model elsewhere.
type part struct{ keep, leave tier.Bytes }

// parts moves the first model to Swap in those parts, one after the other, and to
// RAM and back.
func (s *moverSuite) parts(all ...part) error {
	m, from := s.models[0], tier.Storage
	swap := func(p part) error {
		mv := tier.Move{Model: m, From: from, To: tier.Swap, Keep: p.keep, Leave: p.leave}
		err := s.mover.Move(context.Background(), mv, nil)
		if err == nil {
			err = s.seen(m, max(p.keep-granule+1, 0), p.keep)
		}
		return within(fmt.Sprintf("from %v to swap, keep %d, leave %d", from, p.keep, p.leave), err)
	}
	for _, p := range all {
		if err := swap(p); err != nil {
			return err
		}
		from = tier.Swap
	}
	if err := s.move(m, tier.Swap, tier.RAM, 0); err != nil {
		return err
	}
	from = tier.RAM
	if err := cmp.Or(within("from swap to ram", s.seen(m, m.Size, m.Size)), swap(all[0])); err != nil {
		return err
	}
	return s.move(m, tier.Swap, tier.Storage, 0)
}

func (s *moverSuite) divisible(m tier.Model) bool {
	d, ok := s.mover.(tier.Divider)
	return ok && d.Divisible(&m)
}

func (s *moverSuite) keep() error {
	m := s.models[0]
	if !s.divisible(m) {
		return nil
	}
	err := s.parts(part{keep: m.Size / 2}, part{keep: m.Size / 3}, part{}, part{keep: m.Size}, part{keep: m.Size / 2}, part{keep: 1})
	return within(fmt.Sprintf("tier.Divider: %q is divisible", m.Name), err)
}

func (s *moverSuite) leave() error {
	m := s.models[0]
	l, ok := s.mover.(tier.Leaver)
	if !ok || !l.Leaves(&m) {
		return nil
	}
	if !s.divisible(m) {
		return fmt.Errorf("tier.Leaver: Leaves(%q) is true, but the model is not divisible (tier.Divider)", m.Name)
	}
	err := s.parts(part{m.Size / 3, m.Size / 3}, part{leave: m.Size}, part{leave: m.Size / 2}, part{keep: m.Size / 2, leave: m.Size - m.Size/2}, part{keep: 1, leave: 1})
	return within(fmt.Sprintf("tier.Leaver: %q can have a part in storage", m.Name), err)
}

// answers asks what does not depend on where a model is, also while it moves.
func (s *moverSuite) answers() error {
	ask := func() map[string]bool {
		all := make(map[string]bool)
		for _, m := range s.models {
			if d, ok := s.mover.(tier.Divider); ok {
				all[fmt.Sprintf("tier.Divider: Divisible(%q)", m.Name)] = d.Divisible(&m)
			}
			if l, ok := s.mover.(tier.Leaver); ok {
				all[fmt.Sprintf("tier.Leaver: Leaves(%q)", m.Name)] = l.Leaves(&m)
			}
			if p, ok := s.mover.(tier.InPlacer); ok {
				all[fmt.Sprintf("tier.InPlacer: InPlace(%q)", m.Name)] = p.InPlace(&m)
			}
		}
		if b, ok := s.mover.(tier.FileBacker); ok {
			all["tier.FileBacker: FileBacked()"] = b.FileBacked()
		}
		return all
	}
	before := ask()
	return s.asking(func(when string) error {
		for name, now := range ask() {
			if now != before[name] {
				return fmt.Errorf("%s is %v %s and was %v before; the answer must not change", name, now, when, before[name])
			}
		}
		return nil
	})
}

// asking has ask called during and after every step of the tour.
func (s *moverSuite) asking(ask func(when string) error) error {
	for i := 1; i < len(tour); i++ {
		done := make(chan error, 1)
		go func() { done <- s.move(s.models[0], tour[i-1], tour[i], 0) }()
		during := ask("during a move")
		if err := errors.Join(<-done, during, ask(fmt.Sprint("in ", tour[i]))); err != nil {
			return err
		}
	}
	return nil
}

// checker has the Mover check models that it can move, and that it cannot.
func (s *moverSuite) checker() error {
	c, ok := s.mover.(tier.ModelChecker)
	if !ok {
		return nil
	}
	for _, m := range s.models {
		if err := c.CheckModel(&m); err != nil {
			return fmt.Errorf("tier.ModelChecker: CheckModel(%q) refuses a model of MoverOptions.Models: %w", m.Name, err)
		}
	}
	for _, m := range s.bad {
		if err := c.CheckModel(&m); err != nil && tier.Code(err) == "internal" {
			return fmt.Errorf("tier.ModelChecker: CheckModel(%q) gave an error without a code, want an *tier.InvalidError that names the field and the rule: %w", m.Name, err)
		}
	}
	return nil
}

func (s *moverSuite) status() error {
	return s.asking(func(string) error { return checkStatus(s.mover) })
}

// checkStatus checks what a part says about itself, if it says anything.
func checkStatus(part any) error {
	p, ok := part.(tier.PartStatuser)
	if !ok {
		return nil
	}
	if _, err := json.Marshal(p.PartStatus()); err != nil {
		return fmt.Errorf("tier.PartStatuser: what PartStatus returns does not marshal to JSON: %w", err)
	}
	return nil
}
