package tiertest

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// TestPlacement checks a Placement against the contract of tier.Placement, on
// made-up machines with whole and divisible models, leases, waiters, pinned models,
// moves under way, less memory than the limits say, and no limits. Every step of a
// plan starts in the model's tier and fits when it starts, whatever came before it;
// no model is moved that may not be; after a plan its need is met; a need that could
// be met is not refused, and refusals say why with the errors of package tier. Equal
// views and an equal history give equal plans, and neither view nor need is changed.
//
// Each optional interface that the placement has is checked: a tier.Learner, Reporter
// or Hinter is told what happens, sense and nonsense; a tier.Valuer puts a number on
// each model; a tier.Predictor's bounds are in order; a
// tier.Expecter expects a number of requests for each model; an encoding.BinaryMarshaler's
// bytes are taken by a fresh one, and damaged ones do not make it panic; a
// tier.PartStatuser's status marshals to JSON at any time.
//
// fresh returns a placement that has learned nothing yet; two of them are compared.
func TestPlacement(t *testing.T, fresh func() tier.Placement) {
	const stages = 60
	for seed := range uint64(stages) {
		if err := checkPlacement(fresh, seed); err != nil {
			t.Errorf("seed %d: %v", seed, err)
			return
		}
	}
}

// checkPlacement plays a hundred scenes on one made-up machine.
func checkPlacement(fresh func() tier.Placement, seed uint64) error {
	const scenes = 100
	s := newStage(rand.New(rand.NewPCG(seed, 1)))
	one, two := fresh(), fresh()
	for scene := range scenes {
		s.change()
		need := s.need()
		for _, p := range []tier.Placement{one, two} {
			s.tell(p)
		}
		plan, err := s.ask(one, two, need)
		if err == nil {
			err = cmp.Or(s.act(plan, need), s.predict(one), s.expect(one, two), checkStatus(one))
		}
		if err != nil {
			return fmt.Errorf("scene %d, need %+v: %w", scene, need, err)
		}
	}
	return s.persist(one, fresh)
}

// stage is a made-up machine that carries plans out.
type stage struct {
	dice *rand.Rand
	view tier.View
	// uses and moves are what a learner is told before the next plan.
	uses  []tier.Access
	moves []tier.Moved
}

// unknownModel is the name of a model that no library has.
const unknownModel = "unknown"

// The machine is small, so that its tiers are full most of the time.
const (
	stageUnit = 16 * tier.MiB
	stageRAM  = 20
	stageSwap = 30
)

func newStage(dice *rand.Rand) *stage {
	models := make([]tier.Model, 1+dice.IntN(14))
	for i := range models {
		m := tier.Model{
			Name: fmt.Sprint("m", i), Path: "m", Home: tier.Tier(dice.IntN(tier.Count)),
			Size: tier.Bytes(dice.IntN(16))*stageUnit + tier.Bytes(dice.Int64N(int64(stageUnit))),
		}
		if dice.IntN(3) == 0 {
			m.Runtime = tier.Bytes(dice.Int64N(3 * int64(stageUnit)))
		}
		m.Pinned = dice.IntN(12) == 0
		if dice.IntN(10) == 0 {
			m.Size += stageRAM * stageUnit // larger than ram
		}
		models[i] = m
	}
	lib, err := tier.NewLibrary(models)
	if err != nil {
		panic(err) // the models above are valid
	}
	s := &stage{dice: dice, view: tier.View{
		Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Library: lib, States: make([]tier.State, lib.Len()),
		Limits:     tier.Limits{RAM: stageRAM * stageUnit, Swap: stageSwap * stageUnit, Reserved: stageUnit, MaxModel: tier.Unlimited},
		Protection: tier.Protection{}.OrDefault(),
	}}
	if dice.IntN(6) == 0 {
		s.view.Limits.Swap = tier.Unlimited
	}
	if dice.IntN(12) == 0 {
		s.view.Limits.RAM = tier.Unlimited
	}
	whole := dice.IntN(3) == 0
	for i := range s.view.States {
		s.view.States[i].Divisible = !whole && dice.IntN(5) > 0
		s.view.States[i].Leaves = s.view.States[i].Divisible && dice.IntN(2) > 0
		s.view.States[i].InPlace = dice.IntN(4) > 0
	}
	s.account(0)
	return s
}

// account brings the view's sums up to date. scarce is how much less the machine has
// than the ledger would give.
func (s *stage) account(scarce tier.Bytes) {
	v := &s.view
	v.Charged, v.Reserved = tier.Footprint{}, tier.Footprint{}
	for i := range v.States {
		v.Charged = v.Charged.Plus(v.Footprint(i))
		if st := &v.States[i]; st.Moving {
			after := v.Library.At(i).Footprint(st.To, 0, false)
			v.Reserved = v.Reserved.Plus(after.Beyond(v.Footprint(i)))
		}
	}
	limits := tier.Footprint{tier.Swap: v.Limits.Swap, tier.RAM: v.Limits.RAM}
	v.Room = limits.Minus(v.Charged).Minus(v.Reserved)
	v.Room[tier.RAM] = max(min(v.Room[tier.RAM], v.Room[tier.RAM]-scarce), min(v.Room[tier.RAM], 0))
}

// change lets time pass: leases begin and end, a move begins or ends, memory becomes
// scarce.
func (s *stage) change() {
	v := &s.view
	v.Now = v.Now.Add(time.Duration(s.dice.ExpFloat64() * float64(time.Minute)))
	if s.dice.IntN(50) == 0 {
		v.Now = v.Now.Add(-time.Hour) // the clock was set
	}
	for i := range v.States {
		st, m := &v.States[i], v.Library.At(i)
		if st.Moving { // it has arrived
			st.Moving, st.Serving, st.Kept, st.Left = false, false, 0, 0
			st.Tier, st.Since = st.To, v.Now
		}
		st.Leases, st.Waiters, st.Held = 0, 0, false
		if st.Tier == tier.Storage {
			continue
		}
		switch s.dice.IntN(8) {
		case 0:
			st.Leases = 1 + s.dice.Int32N(3)
			st.LastUse = v.Now
		case 1:
			st.Waiters = 1
		case 2:
			st.Held = true
		case 3:
			s.account(0)
			to := tier.Tier(s.dice.IntN(tier.Count))
			if more := m.Footprint(to, 0, false).Beyond(v.Footprint(i)); to != st.Tier && !m.Pinned && more.Within(v.Room) {
				st.Moving, st.To = true, to
			}
		case 4:
			st.Serving = false
		}
	}
	scarce := tier.Bytes(0)
	if s.dice.IntN(4) == 0 {
		scarce = tier.Bytes(s.dice.Int64N(stageRAM * int64(stageUnit)))
	}
	s.account(scarce)
}

// need makes up a need, or none.
func (s *stage) need() *tier.Need {
	v := &s.view
	var idle []int
	for i := range v.States {
		if st := &v.States[i]; !st.Moving && st.Leases == 0 && st.Tier != tier.RAM {
			idle = append(idle, i)
		}
	}
	n := &tier.Need{Model: tier.NoModel, Waiters: 1, Patient: s.dice.IntN(3) == 0}
	switch roll := s.dice.IntN(10); {
	case roll == 0:
		return nil
	case roll == 1 || len(idle) == 0:
		n.Waiters = 0
		n.Room[tier.RAM] = tier.Bytes(s.dice.Int64N(stageRAM * int64(stageUnit)))
		n.Room[tier.Swap] = tier.Bytes(s.dice.Int64N(stageSwap * int64(stageUnit)))
		return n
	default:
		n.Model = idle[s.dice.IntN(len(idle))]
		switch {
		case roll == 2:
			n.To = tier.RAM
		case roll == 3 && v.States[n.Model].Tier == tier.Storage:
			n.To, n.Waiters = tier.Swap, 0
		}
	}
	v.States[n.Model].Waiters = int32(n.Waiters)
	s.uses = append(s.uses, tier.Access{Model: v.Library.At(n.Model).Name, At: v.Now})
	return n
}

// tell lets a learner know what happened since the last plan.
func (s *stage) tell(p tier.Placement) {
	if l, ok := p.(tier.Learner); ok {
		l.Accessed(s.uses)
		l.Moved(s.moves)
		if len(s.uses) > 0 && len(s.uses)%7 == 0 {
			l.Accessed([]tier.Access{{Model: unknownModel, At: s.view.Now}, {Model: "", At: time.Time{}}})
			l.Moved([]tier.Moved{{Move: tier.Move{Model: tier.Model{Name: unknownModel}}, Bytes: -1, Took: -1}})
		}
	}
	if r, ok := p.(tier.Reporter); ok {
		r.Reported([]tier.Outcome{{Model: unknownModel, Waited: -1, Latency: math.MaxInt64, Score: math.NaN(), Scored: true}})
	}
	if h, ok := p.(tier.Hinter); ok {
		h.Hint(unknownModel, -1, -1, s.view.Now)
		if n := len(s.uses); n > 0 {
			h.Hint(s.uses[n-1].Model, 0.5, time.Minute, s.view.Now)
		}
	}
}

// predict checks the predictions of a tier.Predictor, for moves that happen and for
// amounts that do not.
func (s *stage) predict(p tier.Placement) error {
	pr, ok := p.(tier.Predictor)
	if !ok {
		return nil
	}
	m := s.view.Library.At(s.dice.IntN(s.view.Library.Len()))
	from, to := tier.Tier(s.dice.IntN(tier.Count)), tier.Tier(s.dice.IntN(tier.Count))
	for _, bytes := range []tier.Bytes{0, 1, m.Size, -1, tier.Unlimited} {
		if took, low, high := pr.Predict(m, from, to, bytes); low < 0 || took < low || high < took {
			return fmt.Errorf("tier.Predictor: Predict of %d bytes of %s from %v to %v is %v, from %v to %v; want 0 ≤ low ≤ took ≤ high", bytes, m.Name, from, to, took, low, high)
		}
	}
	return nil
}

// expect asks an expecter what it expects.
func (s *stage) expect(one, two tier.Placement) error {
	e, ok := one.(tier.Expecter)
	if !ok {
		return nil
	}
	within := time.Duration(s.dice.Int64N(int64(24 * time.Hour)))
	all, same := e.Expect(&s.view, within), two.(tier.Expecter).Expect(&s.view, within)
	if len(all) != s.view.Library.Len() {
		return fmt.Errorf("tier.Expecter: Expect is of %d models, the library has %d; return one for each, by its index", len(all), s.view.Library.Len())
	}
	if !slices.Equal(all, same) { // nor where one is not a number
		return fmt.Errorf("tier.Expecter: equal views and histories gave %v and %v", all, same)
	}
	for i, x := range all {
		if !(x.Announced >= 0 && x.Announced <= x.Requests && x.Requests <= math.MaxFloat64) {
			return fmt.Errorf("tier.Expecter: %+v is expected of %s; want 0 ≤ Announced ≤ Requests, and a finite number", x, s.view.Library.At(i).Name)
		}
	}
	return nil
}

// persist has a fresh placement take up what p has learned, and damaged copies.
func (s *stage) persist(p tier.Placement, fresh func() tier.Placement) error {
	from, ok := p.(encoding.BinaryMarshaler)
	if !ok {
		return nil
	}
	to, ok := fresh().(encoding.BinaryUnmarshaler)
	if !ok {
		return errors.New("encoding.BinaryMarshaler: the placement is not a BinaryUnmarshaler, so that what it learned is of no use")
	}
	data, err := from.MarshalBinary()
	if err != nil {
		return fmt.Errorf("encoding.BinaryMarshaler: %w", err)
	}
	if err := to.UnmarshalBinary(slices.Clone(data)); err != nil {
		return fmt.Errorf("encoding.BinaryUnmarshaler: a fresh placement refuses what another wrote: %w", err)
	}
	for range 20 {
		damaged := slices.Clone(data[:s.dice.IntN(len(data)+1)])
		if len(damaged) > 0 {
			damaged[s.dice.IntN(len(damaged))] ^= byte(1 + s.dice.IntN(255))
		}
		_ = fresh().(encoding.BinaryUnmarshaler).UnmarshalBinary(damaged) // with or without an error
	}
	return nil
}

// ask gets the plan of both placements, which have to agree, and checks that they
// did not change the view.
func (s *stage) ask(one, two tier.Placement, need *tier.Need) (tier.Plan, error) {
	before := s.view
	before.States = slices.Clone(s.view.States)
	var want tier.Need
	if need != nil {
		want = *need
	}
	worth, same := s.worth(one), s.worth(two)
	plan := one.Plan(&s.view, need)
	again := two.Plan(&s.view, need)
	switch {
	case len(worth) != len(same) || len(worth) != 0 && len(worth) != len(s.view.States):
		return plan, fmt.Errorf("%d and %d models have a worth, of %d", len(worth), len(same), len(s.view.States))
	case !slices.Equal(worth, same): // nor where one is not a number
		return plan, fmt.Errorf("equal views and histories gave different worths:\n%v\n%v", worth, same)
	case !reflect.DeepEqual(before, s.view):
		return plan, errors.New("the view was changed")
	case need != nil && *need != want:
		return plan, errors.New("the need was changed")
	case !reflect.DeepEqual(plan, again):
		return plan, fmt.Errorf("equal views and histories gave different plans:\n%+v\n%+v", plan, again)
	}
	s.uses, s.moves = s.uses[:0], s.moves[:0]
	return plan, nil
}

// worth asks a valuer now and then, also before its first plan.
func (s *stage) worth(p tier.Placement) []float64 {
	if v, ok := p.(tier.Valuer); ok && len(s.uses)%3 == 0 {
		return v.Worth(&s.view)
	}
	return nil
}

// act carries a plan out and checks that it keeps the contract.
func (s *stage) act(p tier.Plan, need *tier.Need) error {
	if p.Err != nil {
		if len(p.Steps) > 0 {
			return fmt.Errorf("steps beside the error %w", p.Err)
		}
		return s.refused(p.Err, need)
	}
	room := s.view.Room
	for k := range p.Steps {
		if err := s.step(&p.Steps[k], need, &room); err != nil {
			st := &p.Steps[k]
			return fmt.Errorf("step %d of %d, %s %v to %v keep %v: %w", k, len(p.Steps), st.Model.Name, st.From, st.To, st.Keep, err)
		}
	}
	return s.met(need, room)
}

func (s *stage) step(p *tier.Step, need *tier.Need, room *tier.Footprint) error {
	v := &s.view
	i, ok := v.Library.Find(p.Model.Name)
	if !ok {
		return errors.New("the model is not in the library")
	}
	st, m := &v.States[i], v.Library.At(i)
	wanted := need != nil && i == need.Model
	switch {
	case p.From != st.Tier:
		return fmt.Errorf("the model is in %v", st.Tier)
	case !p.To.Valid():
		return errors.New("there is no such tier")
	case p.Why == "":
		return errors.New("it does not say why")
	case strings.ContainsFunc(string(p.Reason), func(r rune) bool { return r != '-' && r != '_' && !('a' <= r && r <= 'z') }):
		return fmt.Errorf("tier.Reason: %q is not one lower-case word; names and numbers belong in Why", p.Reason)
	case st.Moving || st.Stuck:
		return errors.New("the model is in a move, or stuck")
	case p.To == tier.Swap && (p.Keep < 0 || p.Leave < 0 || p.Keep.Plus(p.Leave) > m.Size):
		return fmt.Errorf("keep and leave do not fit the %v of the model", m.Size)
	case p.To == tier.Swap && !st.Divisible && (p.Keep > 0 || p.Leave > 0):
		return errors.New("the model cannot be divided")
	case p.To == tier.Swap && !st.Leaves && p.Leave > 0:
		return errors.New("no part of the model can be left in storage")
	case p.From == p.To && (p.To != tier.Swap || p.Keep == st.Kept && p.Leave == st.Left):
		return errors.New("it moves nothing")
	case wanted:
	case need != nil && need.Patient && !v.Drainable(i), (need == nil || !need.Patient) && st.Tier != tier.Storage && !v.Evictable(i):
		return fmt.Errorf("it may not be moved: %+v, pinned %v", *st, m.Pinned)
	}
	before := v.Footprint(i)
	after := p.Footprint(false)
	for t, more := range after.Beyond(before) {
		if more > 0 && more > room[t] {
			return fmt.Errorf("it takes %v more of %v, and %v are free", more, tier.Tier(t), room[t])
		}
	}
	*room = room.Plus(before).Minus(after)
	s.moves = append(s.moves, tier.Moved{Move: p.Move, Bytes: m.Size, Took: time.Second})
	st.Tier, st.Kept, st.Left, st.Serving, st.Since = p.To, 0, 0, false, v.Now
	if p.To == tier.Swap {
		st.Kept, st.Left = p.Keep, p.Leave
	}
	return nil
}

// met returns how a plan that was carried out fails to meet a need.
func (s *stage) met(need *tier.Need, room tier.Footprint) error {
	v := &s.view
	if need == nil {
		return nil
	}
	if need.Model >= 0 {
		st, m := &v.States[need.Model], v.Library.At(need.Model)
		switch {
		case need.To != tier.Storage && st.Tier != need.To:
			return fmt.Errorf("the wanted model is in %v", st.Tier)
		case st.Tier == tier.Storage || st.Tier == tier.Swap && need.To == tier.Storage && !st.InPlace:
			return fmt.Errorf("the wanted model cannot be served from %v", st.Tier)
		case st.Tier == tier.Swap && need.To == tier.Storage && !st.Serving:
			if room[tier.RAM] -= m.Runtime; m.Runtime > 0 && room[tier.RAM] < 0 {
				return errors.New("the wanted model lacks room to be served in swap")
			}
			st.Serving = true
		}
	}
	for t := range room {
		if need.Room[t] > max(room[t], 0) {
			return fmt.Errorf("%v are free in %v when the plan is done", room[t], tier.Tier(t))
		}
	}
	return nil
}

// refused checks that a need could not have been met in the simplest way: by
// evicting every model that may be evicted.
func (s *stage) refused(err error, need *tier.Need) error {
	if need == nil {
		return fmt.Errorf("an error where nothing was needed: %w", err)
	}
	v := &s.view
	room, limits := v.Room, tier.Footprint{tier.Swap: v.Limits.Swap, tier.RAM: v.Limits.RAM}
	for i := range v.States {
		if i == need.Model && v.States[i].Tier != tier.Storage || v.Evictable(i) || need.Patient && v.Drainable(i) {
			room = room.Plus(v.Footprint(i))
		}
	}
	fits := func(room tier.Footprint) bool {
		room = room.Minus(need.Room)
		if need.Model < 0 {
			return room[tier.RAM] >= 0 && room[tier.Swap] >= 0
		}
		m, st := v.Library.At(need.Model), &v.States[need.Model]
		if need.To != tier.Swap && m.Size+m.Runtime <= room[tier.RAM] && room[tier.Swap] >= 0 {
			return true
		}
		if need.To == tier.RAM || need.To == tier.Storage && !st.InPlace {
			return false
		}
		if need.To == tier.Storage {
			room[tier.RAM] -= m.Runtime
		}
		if room[tier.RAM] < 0 || room[tier.Swap] < 0 {
			return false
		}
		return m.Size <= room[tier.Swap] || st.Divisible && m.Size <= room[tier.Swap].Plus(room[tier.RAM])
	}
	capacity, ok := errors.AsType[*tier.CapacityError](err)
	switch {
	case !errors.Is(err, tier.ErrTooLarge) && !errors.Is(err, tier.ErrNoCapacity):
		return fmt.Errorf("the error is neither tier.ErrTooLarge nor tier.ErrNoCapacity: %w", err)
	case fits(room):
		return fmt.Errorf("refused, though it could be met: %w", err)
	case ok && capacity.Never == fits(limits):
		return fmt.Errorf("the limits %v and the error disagree on whether it ever fits: %w", limits, err)
	}
	return nil
}
