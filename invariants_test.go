package modeltier_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
	"pgregory.net/rapid"
)

// world drives a Manager at random and checks its invariants with a simple model of
// its own.
type world struct {
	t     *rapid.T
	m     *modeltier.Manager
	cfg   modeltier.Config
	probe *tiertest.Probe

	fake   *tiertest.Mover
	sticky *tiertest.Sticky // over fake; nil: present bytes are not observed
	second *tiertest.Sticky // the mover of some models; nil: there is one mover

	mu     sync.Mutex
	moods  [2]mood // of the movers
	leases []*modeltier.Lease
	rooms  map[string]room // reservations that were given and not released, by ID
	held   map[string]int  // leases by model
	faults []string
	waits  sync.WaitGroup
	linger time.Duration         // how long bytes stay after an unload
	lie    string                // how Resident lies
	hungry bool                  // models take more memory than declared
	eats   map[string]tier.Bytes // beyond their size
	cached map[string]tier.Bytes // of hungry models that gave way

	instant time.Time // of the last move, and how many moves it had
	moves   int

	memoir  memoir           // acknowledged state
	jobs    []*modeltier.Job // that run
	open    map[string]int   // changes in flight, by model
	deeds   int              // changes ordered so far
	latest  map[string]int   // the last acknowledged change, by model
	unclear bool             // a change of limits was cancelled: either value may hold
}

// mood is what a mover does wrong, and what it waits for if it hangs.
type mood struct {
	mode string
	hang chan struct{}
}

func (w *world) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// move is a mover's Fault: it checks I3 and I2 when a move starts and then does what
// its mode says.
func (w *world) move(mv tier.Move) error { return w.moveBy(0, mv) }

func (w *world) moveBy(mover int, mv tier.Move) error {
	w.mu.Lock()
	if mine := mv.Model.Mover == secondMover; mine != (mover == 1) {
		w.faults = append(w.faults, fmt.Sprintf("%s of mover %q is moved by mover %d", mv.Model.Name, mv.Model.Mover, mover))
	}
	if n := w.held[mv.Model.Name]; n > 0 {
		w.faults = append(w.faults, fmt.Sprintf("%s moves from %v to %v under %d leases", mv.Model.Name, mv.From, mv.To, n))
	}
	if now := time.Now(); now.Equal(w.instant) {
		w.moves++
	} else {
		w.instant, w.moves = now, 0
	}
	busy := w.moves > 1000
	if busy {
		w.faults = append(w.faults, fmt.Sprintf("1000 moves in no time, the last of %s from %v to %v, keep %v", mv.Model.Name, mv.From, mv.To, mv.Keep))
	}
	switch {
	case mv.To == tier.RAM:
		w.cached[mv.Model.Name] = 0
	case mv.From == tier.RAM:
		w.cached[mv.Model.Name] = mv.Model.Size
	}
	mode, hang := w.moods[mover].mode, w.moods[mover].hang
	w.mu.Unlock()
	if busy {
		time.Sleep(time.Second) // else the step never ends
	}
	switch mode {
	case "error":
		return errors.New("the disk said no")
	case "lost":
		if mv.From != tier.Storage {
			return nil // tiertest.Mover cannot crash a model
		}
		return &tier.MoveError{Model: mv.Model.Name, From: mv.From, To: mv.To, Lost: true, Err: errors.New("gone")}
	case "short":
		if mv.To == tier.RAM || mv.Keep > 0 {
			return &tier.CapacityError{Model: mv.Model.Name, Tier: mv.To, Reason: "less than was promised"}
		}
	case "slow":
		time.Sleep(4 * time.Second) // it ignores its context, but is not stuck yet
	case "panic":
		panic("boom")
	case "goexit":
		runtime.Goexit()
	case "hang":
		<-hang
		return errors.New("it came back")
	}
	return nil
}

// sticks is the mover's Linger.
func (w *world) sticks(tier.Move) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.linger
}

// lies is the mover's Lie.
func (w *world) lies(_ string, present tier.Bytes) (tier.Bytes, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.lie {
	case "nothing":
		return 0, nil
	case "double":
		return 2*present + tier.GiB, nil
	case "negative":
		return -present - 1, nil
	case "error":
		return 0, errors.New("the kernel said no")
	}
	return present, nil
}

// secondMover is the name of the mover that some models have, in half of the runs.
const secondMover = "second"

// blindable is a mover whose looks block while it hangs.
type blindable struct {
	*tiertest.Sticky
	w *world
}

// Resident implements tier.Resident.
func (b blindable) Resident(ctx context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	b.w.mu.Lock()
	hang := b.w.moods[1].hang
	b.w.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return b.Sticky.Resident(ctx, model)
}

// spread gives models to both movers, if there are two.
func (w *world) spread(models []tier.Model) []tier.Model {
	models = slices.Clone(models)
	for i := range models {
		if m := &models[i]; w.second != nil && (m.Name == "b" || m.Name == "d" || m.Name == "y") {
			m.Mover = secondMover
		}
	}
	return models
}

var worldModels = []tier.Model{
	{Name: "a", Size: 1 * tier.GiB, Capabilities: []string{"text-generation"}, Home: tier.RAM, KeepAlive: 10 * time.Second},
	{Name: "b", Size: 2 * tier.GiB, Capabilities: []string{"text-generation", "chat"}, KeepAlive: tier.AtOnce},
	{Name: "c", Size: 3 * tier.GiB, Runtime: tier.GiB / 2, Capabilities: []string{"embeddings"}, Home: tier.Swap},
	{Name: "d", Size: 4 * tier.GiB, Capabilities: []string{"text-generation", "vision"}, KeepAlive: 50 * time.Millisecond},
	{Name: "e", Size: 7 * tier.GiB, Capabilities: []string{"text-generation"}, KeepAlive: -1},
	{Name: "p", Size: tier.GiB / 2, Capabilities: []string{"text-generation"}, Pinned: true, Home: tier.RAM},
}

func (w *world) start() {
	w.mu.Lock()
	w.leases, w.held, w.rooms = nil, make(map[string]int), make(map[string]room) // before the first move of the new one
	w.mu.Unlock()
	m, err := modeltier.New(w.cfg)
	if err != nil {
		w.t.Fatalf("New: %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.m = m
	if w.memoir.Homes == nil || w.cfg.StateDir == "" {
		w.memoir = memoirOf(m)
	}
}

// restart ends the Manager and starts another on its stored state, with no model in
// memory.
func (w *world) restart() {
	w.behave()
	w.mu.Lock()
	open := maps.Clone(w.open)
	w.mu.Unlock()
	w.close()
	synctest.Wait()
	w.mover()
	w.start()
	if w.cfg.StateDir == "" {
		return
	}
	got := memoirOf(w.m)
	if w.unclear {
		w.memoir.Limits, w.unclear = got.Limits, false
	}
	for name, n := range open {
		if n > 0 { // either value is right
			delete(w.memoir.Homes, name)
			delete(w.memoir.Pinned, name)
			if home, ok := got.Homes[name]; ok {
				w.memoir.Homes[name] = home
			}
			if got.Pinned[name] {
				w.memoir.Pinned[name] = true
			}
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(w.memoir) {
		w.t.Fatalf("remembered: %v, acknowledged: %v", got, w.memoir)
	}
}

func (w *world) close() {
	if err := w.m.Close(); err != nil && !(w.fake.Deaf && errors.Is(err, tier.ErrStuck)) {
		w.t.Fatalf("Close: %v", err)
	}
}

// mover returns a mover like the one before, with no model in memory.
func (w *world) mover() {
	w.fake = &tiertest.Mover{Fault: w.move, OnlyRAM: w.fake.OnlyRAM, Parts: w.fake.Parts, Cold: w.fake.Cold, Files: w.fake.Files, Deaf: w.fake.Deaf}
	w.cfg.Mover = w.fake
	if w.second != nil {
		was := w.second.Mover
		w.second = &tiertest.Sticky{Linger: w.sticks, Lie: w.second.Lie, Mover: &tiertest.Mover{
			Fault: func(mv tier.Move) error { return w.moveBy(1, mv) }, OnlyRAM: was.OnlyRAM, Parts: was.Parts, Cold: was.Cold, Files: was.Files,
		}}
		w.cfg.Movers = map[string]tier.Mover{secondMover: blindable{w.second, w}}
	}
	if w.sticky != nil {
		w.sticky = &tiertest.Sticky{Mover: w.fake, Linger: w.sticks, Lie: w.sticky.Lie}
		w.cfg.Mover = w.sticky
	}
	switch {
	case w.hungry && w.sticky != nil:
		w.cfg.Mover = cachingHungrySticky{w.sticky, hunger{w}}
	case w.hungry:
		w.cfg.Mover = cachingHungryMover{w.fake, hunger{w}}
	}
}

// takes returns what a model is seen to take now, and its peak.
func (w *world) takes(model string) (now, peak tier.Bytes, ok bool) {
	w.mu.Lock()
	extra := w.eats[model]
	w.mu.Unlock()
	for _, m := range worldModels {
		if m.Name == model {
			now = m.Size.Plus(extra)
		}
	}
	switch peak = now.Plus(extra / 2); w.fake.At(model) {
	case tier.Swap:
		now = extra
	case tier.Storage:
		now = 0
	}
	return now, peak, true
}

// hungryMover implements tier.Footprinter.
type hungryMover struct {
	*tiertest.Mover
	takes func(model string) (now, peak tier.Bytes, ok bool)
}

func (h hungryMover) Footprint(model string) (now, peak tier.Bytes, ok bool) { return h.takes(model) }

// cachingHungryMover and cachingHungrySticky move models that take more than was
// declared and leave their pages in the page cache.
type (
	cachingHungryMover struct {
		*tiertest.Mover
		hunger
	}
	cachingHungrySticky struct {
		*tiertest.Sticky
		hunger
	}
)

// hunger implements tier.Footprinter, tier.Forecaster and tier.Cacher.
type hunger struct{ w *world }

func (h hunger) Footprint(model string) (now, peak tier.Bytes, ok bool) { return h.w.takes(model) }

func (h hunger) Forecast(m *tier.Model) (takes, seen tier.Bytes) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if extra := h.w.eats[m.Name]; h.w.deeds%2 == 0 {
		seen = m.Size.Plus(extra / 2)
	}
	return m.Size.Plus(m.Size / 8), seen
}

func (h hunger) Cached(_ context.Context, model string) (tier.Bytes, error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	return h.w.cached[model], nil
}

func (h hunger) Uncache(_ context.Context, model string, n tier.Bytes) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.cached[model] = max(h.w.cached[model]-n, 0)
	return nil
}

// acquire sends a request, or one for a set, from a goroutine of its own and checks the
// answer.
func (w *world) acquire(patience time.Duration, reqs ...modeltier.Request) {
	m := w.m
	w.waits.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		var leases []*modeltier.Lease
		var err error
		if len(reqs) == 1 {
			leases = make([]*modeltier.Lease, 1)
			leases[0], err = m.Acquire(ctx, reqs[0])
		} else {
			leases, err = m.AcquireAll(ctx, reqs...)
		}
		if err != nil {
			if len(reqs) > 1 && len(leases) > 0 {
				w.fault("%d leases with the error %v", len(leases), err)
			}
			if tier.Code(err) == "internal" && !errors.Is(err, tier.ErrPanic) {
				w.fault("an error without a code: %v", err)
			}
			if patience > w.cfg.MaxWait && errors.Is(err, context.DeadlineExceeded) {
				w.fault("a request for %+v had no answer within %v", reqs, patience)
			}
			return
		}
		if len(leases) != len(reqs) {
			w.fault("%d leases for %d requests", len(leases), len(reqs))
		}
		for i, l := range leases {
			model, req := l.Model(), &reqs[i]
			if !model.Can(req.Capabilities) || req.Model != "" && req.Model != "one" && model.Name != req.Model && !strings.HasPrefix(req.Model, model.Name+"@") { // one may be an alias
				w.fault("asked for %+v, got %s", req, model.Name)
			}
			if l.Tier() == tier.Storage {
				w.fault("%s is leased from storage", model.Name)
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, l := range leases {
			if w.m != m { // restarted since
				l.Release()
				continue
			}
			w.leases = append(w.leases, l)
			w.held[l.Model().Name]++
		}
	})
}

// room is a reservation; one that expires may have done so.
type room struct {
	bytes   tier.Bytes
	expires bool
}

// reserve asks for room from a goroutine of its own, in Go or, with a lifetime, on the
// wire.
func (w *world) reserve(b tier.Bytes, patience, lifetime time.Duration) {
	m := w.m
	w.waits.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if lifetime > 0 {
			w.reserved(m, w.ask(ctx, m, map[string]any{"reserve": map[string]any{"gb": b.GB(), "for_s": lifetime.Seconds()}}), room{b, true})
			return
		}
		r, err := m.Reserve(ctx, b, "a game")
		switch {
		case err == nil:
			w.reserved(m, r.ID(), room{b, false})
		case tier.Code(err) == "internal":
			w.fault("an error without a code: %v", err)
		case patience > w.cfg.MaxWait && errors.Is(err, context.DeadlineExceeded):
			w.fault("a reservation of %v had no answer within %v", b, patience)
		}
	})
}

// ask asks on the wire, and returns the reservation of the answer; "": there is none.
func (w *world) ask(ctx context.Context, m *modeltier.Manager, request any) string {
	raw, err := json.Marshal(request)
	if err != nil {
		panic(err)
	}
	var a struct{ Status, Code, Reason, Reservation string }
	if err := json.Unmarshal(m.HandleRequest(ctx, raw), &a); err != nil || a.Code == "internal" || (a.Status == "success") != (a.Reservation != "") {
		w.fault("%s: %+v, %v", raw, a, err)
	}
	return a.Reservation
}

func (w *world) reserved(m *modeltier.Manager, id string, r room) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == m && id != "" {
		w.rooms[id] = r
	}
}

// roomNames returns the IDs of the reservations, in order.
func (w *world) roomNames() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.rooms))
}

// giveBack ends reservations.
func (w *world) giveBack(ids ...string) {
	for _, id := range ids {
		w.mu.Lock()
		delete(w.rooms, id)
		w.mu.Unlock()
		w.ask(context.Background(), w.m, map[string]any{"release": id})
	}
}

// checkRooms holds what is told of reservations against what was given.
func (w *world) checkRooms() {
	s := w.m.Status()
	w.mu.Lock()
	defer w.mu.Unlock()
	var held, untaken tier.Bytes
	told := make(map[string]bool)
	for _, r := range s.Reservations {
		if given, ok := w.rooms[r.ID]; !ok || given.bytes != r.Bytes || given.expires == r.Until.IsZero() {
			w.t.Fatalf("%+v is told, given was %+v", r, given)
		}
		if !r.Until.IsZero() && s.At.After(r.Until) {
			w.t.Fatalf("%+v is told, its time is up", r)
		}
		told[r.ID] = true
		held, untaken = held+r.Bytes, untaken+r.Untaken
	}
	for id, r := range w.rooms {
		if !told[id] && !r.expires {
			w.t.Fatalf("%s of %v is forgotten", id, r.bytes)
		}
	}
	maps.DeleteFunc(w.rooms, func(id string, _ room) bool { return !told[id] })
	if s.RAM.Charged < held || untaken > held || s.RAM.Used > s.RAM.Limit {
		w.t.Fatalf("%v are held, %v of them not taken, %v are charged, %v of %v used", held, untaken, s.RAM.Charged, s.RAM.Used, s.RAM.Limit)
	}
}

func (w *world) release(i int) {
	w.mu.Lock()
	l := w.leases[i]
	w.leases = slices.Delete(w.leases, i, i+1)
	w.held[l.Model().Name]--
	w.mu.Unlock()
	l.Release()
}

func (w *world) setMode(mover int, mode string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := &w.moods[mover]
	if m.hang != nil {
		close(m.hang)
		m.hang = nil
	}
	if mode == "hang" {
		m.hang = make(chan struct{})
	}
	m.mode = mode
}

// behave ends what the movers do wrong.
func (w *world) behave() {
	w.setMode(0, "")
	w.setMode(1, "")
}

// check looks for violations while every goroutine is blocked.
func (w *world) check() {
	synctest.Wait()
	worldSteps.Add(1)
	if err := w.m.Check(); err != nil && !errors.Is(err, modeltier.ErrClosed) {
		w.t.Fatalf("invariants: %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	faults := append(w.faults, w.fake.Faults()...)
	if w.second != nil {
		faults = append(faults, w.second.Faults()...)
	}
	for _, f := range faults {
		w.t.Fatalf("%s", f)
	}
	for s := range w.m.Models() {
		if s.Leases < w.held[s.Name] {
			w.t.Fatalf("%s: the manager counts %d leases, %d are held", s.Name, s.Leases, w.held[s.Name])
		}
	}
	if w.sticky != nil && w.sticky.Lie == nil {
		var present tier.Bytes
		for _, name := range worldNames {
			present += w.sticky.Present(name)
			if w.second != nil && w.second.Lie == nil {
				present += w.second.Present(name)
			}
		}
		for _, r := range w.rooms {
			if !r.expires {
				present += r.bytes
			}
		}
		if used := w.m.Used(); present > used[tier.RAM] {
			w.t.Fatalf("%v are present or given to outsiders, the ledger says %v", present, used[tier.RAM])
		}
	}
}

// worldSteps counts the steps of all runs.
var worldSteps atomic.Int64

// TestManager_AnythingAtAnyTime_KeepsTheInvariants takes at least 20 000 steps, or
// as many as MODELTIER_STEPS says. The long run, of ten million, takes about half
// an hour:
//
//	MODELTIER_STEPS=10000000 go test -run AnythingAtAnyTime -timeout 0 . -rapid.steps 100
func TestManager_AnythingAtAnyTime_KeepsTheInvariants(t *testing.T) {
	leavesNothing(t)
	least := int64(20_000)
	if want := os.Getenv("MODELTIER_STEPS"); want != "" {
		var err error
		if least, err = strconv.ParseInt(want, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for worldSteps.Store(0); worldSteps.Load() < least && !t.Failed(); {
		rapid.Check(t, func(t *rapid.T) { rapid.SyncTest(t, anything) })
	}
	t.Logf("%d steps", worldSteps.Load())
}

var worldNames = []string{"a", "b", "c", "d", "e", "p", "x", "y", "one", "unknown"}

// anyRequest is a request for a model or for a capability.
func anyRequest(t *rapid.T, names []string) modeltier.Request {
	req := modeltier.Request{Background: rapid.Bool().Draw(t, "background")}
	if rapid.IntRange(0, 3).Draw(t, "says for how long") == 3 {
		req.KeepAlive = rapid.SampledFrom([]time.Duration{-1, tier.AtOnce, 10 * time.Millisecond, 5 * time.Second, time.Hour}).Draw(t, "keep alive")
	}
	switch rapid.IntRange(0, 3).Draw(t, "mode") {
	case 0:
		req.Capabilities = []string{rapid.SampledFrom([]string{"text-generation", "chat", "embeddings", "vision", "flying"}).Draw(t, "capability")}
		req.Priority = tier.Priority(rapid.IntRange(0, 2).Draw(t, "priority"))
	default:
		req.Model = rapid.SampledFrom(names).Draw(t, "model")
	}
	return req
}

// patience is how long a request waits.
func patience(t *rapid.T) time.Duration {
	return rapid.SampledFrom([]time.Duration{time.Millisecond, 2 * time.Second, time.Hour}).Draw(t, "patience")
}

func anything(t *rapid.T) {
	w := &world{t: t, probe: tiertest.NewProbe(plenty), open: make(map[string]int), latest: make(map[string]int)}
	w.cfg = modeltier.Config{
		Models: worldModels, Probe: w.probe, Fairness: time.Second, MaxWait: time.Minute,
		StallAfter: 20 * time.Second, StuckAfter: 5 * time.Second, OptimizeEvery: 2 * time.Second,
	}
	dir, err := os.MkdirTemp(memoryDir(), "modeltier-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if rapid.IntRange(0, 3).Draw(t, "keeps state") == 3 {
		w.cfg.StateDir = filepath.Join(dir, "state")
	}
	var contents []string // of b, which becomes another version with another path
	for i := range 6 {
		contents = append(contents, filepath.Join(dir, strconv.Itoa(i)))
		if err := os.WriteFile(contents[i], []byte{byte(i)}, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.cfg.KeepAlive = rapid.SampledFrom([]time.Duration{0, 0, tier.AtOnce, time.Second, time.Minute}).Draw(t, "keep alive")
	w.cfg.StandbyFor = rapid.SampledFrom([]time.Duration{0, 0, tier.AtOnce, 2 * time.Second, time.Minute}).Draw(t, "standby for")
	w.fake = &tiertest.Mover{
		OnlyRAM: rapid.Bool().Draw(t, "only ram"),
		Parts:   rapid.Bool().Draw(t, "divisible"),
		Cold:    rapid.Bool().Draw(t, "cold"),
		Files:   rapid.Bool().Draw(t, "files"),
		Deaf:    rapid.IntRange(0, 7).Draw(t, "deaf") == 7,
	}
	switch rapid.IntRange(0, 2).Draw(t, "sticky") {
	case 1:
		w.sticky = &tiertest.Sticky{}
	case 2:
		w.sticky = &tiertest.Sticky{Lie: w.lies}
	}
	w.hungry, w.eats = rapid.IntRange(0, 2).Draw(t, "hungry") == 2, make(map[string]tier.Bytes)
	w.cached = make(map[string]tier.Bytes)
	if rapid.Bool().Draw(t, "two movers") {
		w.second = &tiertest.Sticky{Mover: &tiertest.Mover{
			OnlyRAM: rapid.Bool().Draw(t, "second only ram"), Parts: rapid.Bool().Draw(t, "second divisible"), Files: rapid.Bool().Draw(t, "second files"),
		}}
		if rapid.Bool().Draw(t, "second lies") {
			w.second.Lie = w.lies
		}
	}
	w.cfg.Models = w.spread(worldModels)
	w.cfg.Models[1].Path = contents[0]
	w.mover()
	w.start()
	defer func() { // even if a check failed: a bubble cannot end before its goroutines
		w.behave()
		w.m.Close()
		w.waits.Wait()
		time.Sleep(time.Minute) // until moves that ignore their context have ended
	}()
	names, grown := worldNames, slices.Clone(w.cfg.Models)
	older := func() (names []string) {
		for s := range w.m.Models() {
			if s.VersionOf != "" {
				names = append(names, s.Name)
			}
		}
		return names
	}
	hour := time.Hour
	t.Repeat(map[string]func(*rapid.T){
		"":        func(*rapid.T) { w.check() },
		"acquire": func(t *rapid.T) { w.acquire(patience(t), anyRequest(t, append(older(), names...))) },
		"acquire all": func(t *rapid.T) {
			reqs := make([]modeltier.Request, rapid.IntRange(2, 4).Draw(t, "models"))
			for i := range reqs {
				reqs[i] = anyRequest(t, append(older(), names...))
			}
			w.acquire(patience(t), reqs...)
		},
		"release": func(t *rapid.T) {
			w.mu.Lock()
			n := len(w.leases)
			w.mu.Unlock()
			if n > 0 {
				w.release(rapid.IntRange(0, n-1).Draw(t, "lease"))
			}
		},
		"time passes": func(t *rapid.T) {
			time.Sleep(rapid.SampledFrom([]time.Duration{time.Millisecond, 100 * time.Millisecond, time.Second, 5 * time.Second, time.Minute}).Draw(t, "for"))
		},
		"move": func(t *rapid.T) {
			name, to := rapid.SampledFrom(names).Draw(t, "model"), tier.Tier(rapid.IntRange(0, 3).Draw(t, "to"))
			j, err := w.m.MoveTier(context.Background(), name, to)
			w.job(deed{Model: name, Home: &to}, j, err, false)
		},
		"hot load": func(t *rapid.T) {
			model := tier.Model{
				Name: rapid.SampledFrom([]string{"x", "y", "a", "b", "c"}).Draw(t, "name"),
				Size: tier.Bytes(rapid.IntRange(0, 12).Draw(t, "GiB")) * tier.GiB,
				Home: tier.Tier(rapid.IntRange(0, 2).Draw(t, "home")),
			}
			if rapid.Bool().Draw(t, "keeps") {
				model.KeepAlive = rapid.SampledFrom([]time.Duration{tier.AtOnce, 3 * time.Second}).Draw(t, "keep alive")
			}
			for i := range grown { // sizes only grow, see "reconfigure"
				if m := &grown[i]; m.Name == model.Name {
					m.Size = max(m.Size, model.Size)
					model.Size = m.Size
				}
			}
			model = w.spread([]tier.Model{model})[0]
			j, err := w.m.HotLoad(context.Background(), model)
			w.job(deed{Model: model.Name, Home: &model.Home}, j, err, true)
		},
		"remove": func(t *rapid.T) {
			name := rapid.SampledFrom(append(older(), "x", "y", "b", "c", "unknown")).Draw(t, "model")
			j, err := w.m.Remove(context.Background(), name)
			w.job(deed{Model: name}, j, err, false)
		},
		"unload": func(t *rapid.T) {
			name := rapid.SampledFrom(names).Draw(t, "model")
			if rapid.Bool().Draw(t, "when idle") {
				j, err := w.m.Unload(context.Background(), name)
				w.job(deed{}, j, err, false) // it changes nothing that is kept
				return
			}
			var a struct{ Code string }
			answer := w.m.HandleRequest(context.Background(), []byte(`{"unload": {"model_name": "`+name+`"}}`))
			if err := json.Unmarshal(answer, &a); err != nil || a.Code == "internal" {
				t.Fatalf("%s: %v", answer, err)
			}
		},
		"pin": func(t *rapid.T) {
			name, pinned := rapid.SampledFrom(names).Draw(t, "model"), rapid.Bool().Draw(t, "pinned")
			err := w.m.SetPinned(context.Background(), name, pinned)
			w.mu.Lock()
			defer w.mu.Unlock()
			switch s, there := w.m.Model(name); {
			case err != nil && tier.Code(err) != "not_found":
				t.Fatal(err)
			case err == nil && there && s.Pinned != pinned:
				t.Fatalf("%s is pinned %v, want %v", name, s.Pinned, pinned)
			case err == nil && there:
				d := deed{Model: s.Name, Pinned: &pinned}
				w.memoir = d.apply(w.memoir)
			}
		},
		"alias": func(t *rapid.T) {
			alias, of := rapid.SampledFrom([]string{"one", "two"}).Draw(t, "alias"), rapid.SampledFrom(append(slices.Clone(names), "")).Draw(t, "model")
			s, _ := w.m.Model(of) // of may be an alias
			err := w.m.SetAlias(context.Background(), alias, of)
			if err != nil && tier.Code(err) == "internal" {
				t.Fatal(err)
			}
			if err == nil {
				w.mu.Lock()
				defer w.mu.Unlock()
				d := deed{Model: s.Name, Alias: alias}
				w.memoir = d.apply(w.memoir)
			}
		},
		"rollback": func(t *rapid.T) {
			name := rapid.SampledFrom(append(older(), "b", "b", "b", "one")).Draw(t, "model")
			version := rapid.SampledFrom([]string{"", "", "", "abcdef"}).Draw(t, "version")
			if _, err := w.m.Rollback(context.Background(), name, version); err != nil && tier.Code(err) == "internal" {
				t.Fatalf("an error without a code: %v", err)
			}
		},
		"crash": func(t *rapid.T) {
			name := rapid.SampledFrom(names).Draw(t, "model")
			if err := w.m.ReportCrash(name, errors.New("signal: killed")); err != nil && tier.Code(err) == "internal" {
				t.Fatalf("an error without a code: %v", err)
			}
		},
		"cancel": func(t *rapid.T) {
			w.mu.Lock()
			jobs := slices.Clone(w.jobs)
			w.mu.Unlock()
			if len(jobs) > 0 {
				jobs[rapid.IntRange(0, len(jobs)-1).Draw(t, "job")].Cancel(errors.New("changed my mind"))
			}
		},
		"limits": func(t *rapid.T) {
			l := tier.Limits{
				RAM:      tier.Bytes(rapid.IntRange(-1, 12).Draw(t, "ram")) * tier.GiB / 2,
				Swap:     tier.Bytes(rapid.IntRange(-1, 12).Draw(t, "swap")) * tier.GiB,
				Reserved: tier.Bytes(rapid.IntRange(0, 4).Draw(t, "reserved")) * tier.GiB / 2,
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, now, err := w.m.UpdateLimits(ctx, l)
			w.mu.Lock()
			defer w.mu.Unlock()
			switch {
			case err == nil:
				w.memoir.Limits, w.unclear = now, false
			case errors.Is(err, context.DeadlineExceeded):
				w.unclear = true
			}
		},
		"reconfigure": func(t *rapid.T) {
			if w.cfg.StateDir != "" {
				return // persistence is checked by another test
			}
			// Sizes only grow: residue of a larger model that outlasts the wait for it cannot
			// be told from the bytes of a smaller one of its name.
			if rapid.Bool().Draw(t, "grows") {
				grown[rapid.IntRange(0, len(grown)-1).Draw(t, "who")].Size += tier.GiB
			}
			b := slices.IndexFunc(grown, func(m tier.Model) bool { return m.Name == "b" })
			grown[b].Path = rapid.SampledFrom(contents).Draw(t, "content")
			models := slices.Clone(grown)
			for range rapid.IntRange(0, 3).Draw(t, "changes") {
				i := rapid.IntRange(0, len(models)-1).Draw(t, "which")
				switch rapid.IntRange(0, 4).Draw(t, "change") {
				case 4:
					if w.second != nil {
						models[i].Mover = rapid.SampledFrom([]string{"", secondMover}).Draw(t, "mover")
					}
				case 3:
					models[i].KeepAlive = rapid.SampledFrom([]time.Duration{0, -1, tier.AtOnce, time.Second}).Draw(t, "keep alive")
				case 0:
					models = slices.Delete(models, i, i+1)
				case 1:
					models[i].Home = tier.Tier(rapid.IntRange(0, 2).Draw(t, "home"))
				case 2:
					models[i].Capabilities = rapid.SampledFrom([][]string{nil, {"embeddings"}, {"text-generation", "embeddings"}}).Draw(t, "capabilities")
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, err := w.m.Reconfigure(ctx, models, w.cfg.Limits)
			if err != nil && tier.Code(err) == "internal" {
				t.Fatalf("an error without a code: %v", err)
			}
		},
		"optimize": func(t *rapid.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			w.m.Optimize(ctx)
		},
		"probe": func(t *rapid.T) {
			m := plenty
			m.Available = tier.Bytes(rapid.IntRange(-1, 60).Draw(t, "available")) * tier.GiB
			m.Pressure.Level = tier.PressureLevel(max(rapid.IntRange(-4, 3).Draw(t, "pressure"), 0))
			m.Pressure.Some10 = float64(rapid.IntRange(0, 100).Draw(t, "some10"))
			var err error
			if rapid.IntRange(0, 9).Draw(t, "fails") == 0 {
				err = errors.New("no /proc today")
			}
			w.probe.Set(m, err)
		},
		"mover": func(t *rapid.T) {
			w.setMode(rapid.IntRange(0, 1).Draw(t, "which"), rapid.SampledFrom([]string{"", "", "", "", "error", "lost", "short", "slow", "panic", "goexit", "hang"}).Draw(t, "mode"))
		},
		"residency": func(t *rapid.T) {
			linger := rapid.SampledFrom([]time.Duration{0, time.Second, 15 * time.Second, hour}).Draw(t, "linger")
			lie := rapid.SampledFrom([]string{"", "", "nothing", "double", "negative", "error"}).Draw(t, "lie")
			w.mu.Lock()
			defer w.mu.Unlock()
			w.linger, w.lie = linger, lie
		},
		"appetite": func(t *rapid.T) {
			model, extra := rapid.SampledFrom(worldNames).Draw(t, "model"), tier.Bytes(rapid.IntRange(-1, 16).Draw(t, "eats"))*tier.GiB/4
			w.mu.Lock()
			defer w.mu.Unlock()
			w.eats[model] = extra
		},
		"restart": func(*rapid.T) { w.restart() },
		"hint": func(t *rapid.T) {
			w.m.Hint(rapid.SampledFrom(names).Draw(t, "model"), rapid.Float64Range(-0.5, 1.5).Draw(t, "probability"), time.Duration(rapid.IntRange(0, 60).Draw(t, "within"))*time.Second)
		},
		"report": func(t *rapid.T) {
			o := tier.Outcome{Scored: true, Score: rapid.Float64Range(-1, 2).Draw(t, "score")}
			if rapid.Bool().Draw(t, "failed") {
				o.Err = errors.New("nonsense")
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.leases) > 0 {
				w.leases[0].Report(o)
			}
		},
		"reserve": func(t *rapid.T) {
			b := tier.Bytes(rapid.IntRange(1, 26).Draw(t, "quarters of a GiB")) * tier.GiB / 4
			w.reserve(b, rapid.SampledFrom([]time.Duration{time.Millisecond, 2 * time.Second, hour}).Draw(t, "patience"),
				rapid.SampledFrom([]time.Duration{0, time.Second, 10 * time.Second, hour}).Draw(t, "lifetime"))
		},
		"give back": func(t *rapid.T) {
			if ids := w.roomNames(); len(ids) > 0 {
				w.giveBack(rapid.SampledFrom(ids).Draw(t, "reservation"))
			}
		},
		"status": func(t *rapid.T) { w.checkRooms() },
	})
	// In the end the faults stop, and every wait must end.
	w.behave()
	w.probe.Set(plenty, nil)
	for w.releaseAll() {
	}
	ended := make(chan struct{})
	go func() { w.waits.Wait(); close(ended) }()
	deadline := time.After(2 * hour)
	for done := false; !done; {
		select {
		case <-ended:
			done = true
		case <-deadline:
			t.Fatal("a wait did not end")
		case <-time.After(time.Second):
			w.releaseAll()
		}
	}
	for w.releaseAll() {
	}
	w.check()
	w.checkRooms()
	w.giveBack(w.roomNames()...)
	w.check()
	s := w.m.Status()
	if s.Waiting != 0 || s.RAM.Reserved < 0 {
		t.Fatalf("at the end %d wait", s.Waiting)
	}
	models := tier.Bytes(0)
	for _, m := range s.Models {
		models += m.ChargedRAM
		if m.Leases != 0 {
			t.Fatalf("at the end %s has %d leases", m.Name, m.Leases)
		}
	}
	if len(s.Leftovers) == 0 && s.RAM.Charged != models || len(s.Reservations) > 0 {
		t.Fatalf("at the end %v of ram are charged, %v of them to models; %+v", s.RAM.Charged, models, s.Reservations)
	}
	w.restart()
	w.check()
	w.close()
}

// job waits for a job and records its outcome. A hot load that fails removes its
// model, whatever was acknowledged for it meanwhile.
func (w *world) job(d deed, j *modeltier.Job, err error, hot bool) {
	switch {
	case err != nil && tier.Code(err) == "internal":
		w.t.Fatalf("an error without a code: %v", err)
	case err == nil && j == nil:
		w.t.Fatal("neither a job nor an error")
	case err != nil:
		return
	}
	if d.Model != "" {
		d.Model = j.Model() // it was named by an alias
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[d.Model]++
	w.jobs = append(w.jobs, j)
	w.deeds++
	n := w.deeds
	w.waits.Go(func() {
		err := j.Wait(context.Background())
		w.mu.Lock()
		defer w.mu.Unlock()
		w.open[d.Model]--
		w.jobs = slices.DeleteFunc(w.jobs, func(k *modeltier.Job) bool { return k == j })
		if err != nil && hot && !errors.Is(err, modeltier.ErrClosed) {
			delete(w.memoir.Homes, d.Model)
			delete(w.memoir.Pinned, d.Model)
		}
		if err == nil && n > w.latest[d.Model] { // a hot load may end after a move that was ordered during it
			w.memoir, w.latest[d.Model] = d.apply(w.memoir), n
		}
	})
}

// memoryDir returns a folder on a memory filesystem if there is one: it is fast to
// sync.
func memoryDir() string {
	const shm = "/dev/shm"
	if _, err := os.Stat(shm); err == nil {
		return shm
	}
	return ""
}

func (w *world) releaseAll() bool {
	w.mu.Lock()
	n := len(w.leases)
	w.mu.Unlock()
	if n > 0 {
		w.release(0)
	}
	return n > 0
}
