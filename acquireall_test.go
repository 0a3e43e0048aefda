package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/selector"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// named are requests for models by name.
func named(names ...string) (reqs []modeltier.Request) {
	for _, n := range names {
		reqs = append(reqs, modeltier.Request{Model: n})
	}
	return reqs
}

// setClient is one AcquireAll in flight.
type setClient struct {
	client
	leases []*modeltier.Lease
}

// beginAll sends an AcquireAll from a goroutine of its own and returns when everything
// is blocked.
func (r *rig) beginAll(reqs ...modeltier.Request) *setClient {
	r.t.Helper()
	ctx, cancel := context.WithCancelCause(r.t.Context())
	c := &setClient{client: client{r: r, name: fmt.Sprint(len(reqs), " models"), done: make(chan struct{}), cancel: cancel}}
	began := time.Now()
	go func() {
		defer close(c.done)
		c.leases, c.err = r.AcquireAll(ctx, reqs...)
		c.took = time.Since(began)
	}()
	r.t.Cleanup(func() {
		cancel(errLeft)
		<-c.done
		c.release()
	})
	synctest.Wait()
	return c
}

// served waits for the leases and checks whose they are and that they came after exactly
// that time.
func (c *setClient) served(after time.Duration, want ...string) *setClient {
	c.r.t.Helper()
	<-c.done
	var got []string
	for _, l := range c.leases {
		got = append(got, l.Model().Name)
	}
	switch {
	case c.err != nil:
		c.r.t.Fatalf("the set got an error after %v: %v", c.took, c.err)
	case !slices.Equal(got, want) || c.took != after:
		c.r.t.Errorf("got leases on %q after %v, want %q after %v", got, c.took, want, after)
	}
	return c
}

func (c *setClient) release() {
	for _, l := range c.leases {
		l.Release()
	}
}

func (r *rig) wantLeases(name string, want int) {
	r.t.Helper()
	if got := r.model(name).Leases; got != want {
		r.t.Errorf("%s has %d leases, want %d", name, got, want)
	}
}

func TestAcquireAll_NoRequests_EmptyWithoutError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1)))
		if leases, err := r.AcquireAll(t.Context()); len(leases) != 0 || err != nil {
			t.Errorf("%v, %v", leases, err)
		}
	})
}

func TestAcquireAll_OneRequest_IsAnAcquire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 9)))
		c := r.beginAll(named("a")...).served(3*time.Second, "a")
		if l := c.leases[0]; !l.Moved() || l.Waited() != 3*time.Second || l.Tier() != tier.RAM {
			t.Errorf("%+v", l)
		}
		for _, name := range []string{"b", "unknown"} {
			_, want := r.Acquire(t.Context(), modeltier.Request{Model: name})
			if leases, err := r.AcquireAll(t.Context(), named(name)...); leases != nil || err == nil || err.Error() != want.Error() {
				t.Errorf("%v, %v; want the error %v", leases, err, want)
			}
		}
	})
}

func TestAcquireAll_ModelsInStorage_AreLeasedInTheSameMomentInTheOrderOfTheRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 2), model("c", 1)))
		c := r.beginAll(named("b", "c", "a")...)
		time.Sleep(2 * time.Second) // a and c are there
		r.wantAt("a", tier.RAM)
		for _, name := range []string{"a", "b", "c"} {
			r.wantLeases(name, 0)
		}
		c.served(3*time.Second, "b", "c", "a")
		r.wantUsed(4 * tier.GiB)
		for _, l := range c.leases {
			if l.Waited() != 3*time.Second || !l.Moved() {
				t.Errorf("%s: waited %v, moved %v", l.Model().Name, l.Waited(), l.Moved())
			}
		}
		for _, name := range []string{"a", "b", "c"} {
			r.wantLeases(name, 1)
		}
		// All are there: at once.
		r.beginAll(named("c", "a", "b")...).served(0, "c", "a", "b").release()
		c.release()
		for _, name := range []string{"a", "b", "c"} {
			r.wantLeases(name, 0)
		}
	})
}

func TestAcquireAll_SomeAreResident_OnlyTheOthersMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 2)))
		r.use("a")
		r.use("c")
		c := r.beginAll(named("a", "b")...).served(3*time.Second, "a", "b")
		r.wantMoves("load a", "load c", "unload c", "load b")
		if c.leases[0].Moved() || !c.leases[1].Moved() {
			t.Errorf("moved: %v, %v", c.leases[0].Moved(), c.leases[1].Moved())
		}
	})
}

func TestAcquireAll_SameModelTwice_OneChargeAndTwoLeases(t *testing.T) {
	for _, names := range [][]string{{"a", "a"}, {"a", "b", "a"}} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, onlyRAM(model("a", 3), model("b", 1)))
			for _, took := range []time.Duration{4500 * time.Millisecond, 0} {
				c := r.beginAll(named(names...)...).served(took, names...)
				r.wantLeases("a", 2)
				r.wantUsed(tier.Bytes(len(names)+1) * tier.GiB) // and b, where it is one of them
				c.leases[0].Release()
				r.wantLeases("a", 1)
				c.release()
				r.wantLeases("a", 0)
			}
		})
	}
}

func TestAcquireAll_WaitsForRoom_HoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 3), model("c", 2), model("d", 2)))
		r.use("a")
		busy := r.get("c")
		set := r.beginAll(named("a", "b")...)
		time.Sleep(time.Second)
		r.wantUsed(4 * tier.GiB) // a, which is idle, and c
		r.wantLeases("a", 0)
		// What is resident of it gives way to one that waits for longer.
		time.Sleep(time.Second)
		r.wantMoves("load a", "load c")
		busy.Release()
		set.served(2*time.Second+4500*time.Millisecond, "a", "b")
		r.wantMoves("load a", "load c", "unload c", "load b")
	})
}

// A set whose first model fits does not load it before there is room for the second.
func TestAcquireAll_RoomForOneOnly_NoneIsLoadedBeforeThereIsRoomForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 3), model("c", 3)))
		busy := r.get("c")
		set := r.beginAll(named("a", "b")...)
		time.Sleep(5 * time.Second) // c drains by now
		r.wantMoves("load c")
		busy.Release()
		set.served(5*time.Second+4500*time.Millisecond, "a", "b")
	})
}

func TestAcquireAll_CannotCoexist_TooLargeWithTheNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 2.5), model("c", 1), pinned(model("p", 2))))
		err := r.beginAll(named("a", "b")...).refused(modeltier.ErrTooLarge, 0)
		ce, ok := errors.AsType[*tier.CapacityError](err)
		if !ok || ce.Need != tier.GiB*11/2 || ce.Limit != 5*tier.GiB {
			t.Fatalf("%#v", err)
		}
		for _, part := range []string{"'a' (3.0 GiB)", "'b' (2.5 GiB)", "5.5 GiB", "5.0 GiB"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not name %s", err, part)
			}
		}
		r.use("p")
		err = r.beginAll(named("a", "c")...).refused(modeltier.ErrTooLarge, 0)
		if s := strings.Join(tier.Suggestions(err), " "); !strings.Contains(err.Error(), "pinned models hold 2.0 GiB") || !strings.Contains(s, "p (2.0 GiB, pinned)") {
			t.Errorf("%v; %s", err, s)
		}
		r.beginAll(named("a", "p")...).served(4500*time.Millisecond, "a", "p") // it counts once
	})
}

func TestAcquireAll_RoomIsHeldForGood_RefusalNamesTheSetAndTheHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 2), model("b", 1), model("c", 3))
		cfg.MaxWait = 10 * time.Second
		r := newRig(t, cfg)
		room := r.reserve(3)
		err := r.beginAll(named("a", "b")...).refused(modeltier.ErrNoCapacity, 0)
		s := strings.Join(tier.Suggestions(err), " ")
		if !strings.Contains(err.Error(), "'a' (2.0 GiB) and 'b' (1.0 GiB)") || !strings.Contains(s, room.ID()) {
			t.Errorf("%v; %s", err, s)
		}
		room.Release()
		defer r.get("c").Release()
		err = r.beginAll(named("a", "b")...).refused(modeltier.ErrBusy, 10*time.Second)
		if !strings.Contains(err.Error(), "'a' (2.0 GiB) and 'b' (1.0 GiB)") || !strings.Contains(err.Error(), "in use") {
			t.Error(err)
		}
		r.beginAll(named("b", "b")...).served(1500*time.Millisecond, "b", "b").release()
	})
}

// Two sets that exclude each other, and callers that name them in any order.
func TestAcquireAll_SetsExcludeEachOther_OldestFirstAndEachIsLoadedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2.5), model("b", 2.5), model("c", 2.5), model("d", 2.5)))
		var sets []*setClient
		for _, names := range [][]string{{"a", "b"}, {"d", "c"}, {"b", "a"}, {"c", "d"}} {
			sets = append(sets, r.beginAll(named(names...)...))
			time.Sleep(time.Millisecond)
		}
		const load = 3750 * time.Millisecond
		sets[0].served(load, "a", "b")
		sets[2].served(load-2*time.Millisecond, "b", "a")
		time.Sleep(time.Second)
		sets[0].release()
		sets[2].release()
		sets[1].served(2*load+time.Second-time.Millisecond, "d", "c").release()
		sets[3].served(2*load+time.Second-3*time.Millisecond, "c", "d").release()
		if n := len(r.mover.Moves()); n != 6 {
			t.Errorf("%d moves, want 6: %v", n, r.mover.Moves())
		}
	})
}

func TestAcquireAll_SameSetWaitsTwice_OneLoadForBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 2)))
		one, two := r.beginAll(named("a", "b")...), r.beginAll(named("b", "a")...)
		single := r.begin("b")
		one.leave()
		two.served(3*time.Second, "b", "a")
		single.served(3 * time.Second)
		if one.refused(errLeft, 0); one.leases != nil {
			t.Error("one that left has leases")
		}
		if n := len(r.mover.Moves()); n != 2 {
			t.Errorf("%d moves, want one load of each", n)
		}
		r.wantLeases("a", 1)
		r.wantLeases("b", 2)
	})
}

func TestAcquireAll_ContextEnds_NoLeaseAndItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 3)))
		busy := r.get("b")
		set := r.beginAll(named("a", "b")...)
		time.Sleep(time.Second)
		set.leave()
		set.refused(errLeft, time.Second)
		time.Sleep(time.Minute)
		r.wantLeases("a", 0)
		r.wantLeases("b", 1)
		busy.Release()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errLeft)
		if _, err := r.AcquireAll(ctx, named("a", "b")...); !errors.Is(err, errLeft) {
			t.Error(err)
		}
		r.wantLeases("b", 0)
	})
}

func TestAcquireAll_Closed_ErrClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 3)))
		set := r.beginAll(named("a", "b")...)
		time.Sleep(time.Second)
		r.Close()
		set.refused(modeltier.ErrClosed, time.Second)
		r.beginAll(named("a", "b")...).refused(modeltier.ErrClosed, 0)
	})
}

func TestAcquireAll_EachRequestIsSelectedByItsOwnRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		embed := model("embed", 1)
		embed.Capabilities = []string{"embeddings"}
		r := newRig(t, onlyRAM(model("chat", 2), embed, model("huge", 20)))
		r.beginAll(
			modeltier.Request{Capabilities: []string{"embeddings"}},
			modeltier.Request{Preferred: "huge", Fallback: true, Capabilities: []string{"text-generation"}},
			modeltier.Request{Model: "chat"},
		).served(3*time.Second, "embed", "chat", "chat")
		for _, x := range []struct {
			req  modeltier.Request
			want error
		}{
			{modeltier.Request{Model: "unknown"}, modeltier.ErrNotFound},
			{modeltier.Request{Model: "huge"}, modeltier.ErrTooLarge},
			{modeltier.Request{Capabilities: []string{"vision"}}, modeltier.ErrNoCapableModel},
		} {
			r.beginAll(modeltier.Request{Model: "chat"}, x.req).refused(x.want, 0)
			r.wantLeases("chat", 2)
		}
	})
}

func TestAcquireAll_ModelCrashesWhileOthersLoad_IsLoadedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 3)))
		r.use("a")
		set := r.beginAll(named("a", "b")...)
		time.Sleep(time.Second)
		if err := r.ReportCrash("a", errors.New("signal: killed")); err != nil {
			t.Fatal(err)
		}
		set.served(6*time.Second, "a", "b") // a second time when b is there
		if n := len(r.mover.Moves()); n != 4 {
			t.Errorf("%d moves, want 4: %v", n, r.mover.Moves())
		}
	})
}

func TestAcquireAll_ModelIsRemovedWhileItWaits_NotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		models := []tier.Model{model("a", 1), model("b", 3), model("c", 3)}
		r := newRig(t, onlyRAM(models...))
		r.use("a")
		busy := r.get("c")
		set := r.beginAll(named("a", "b")...)
		time.Sleep(time.Second)
		if _, err := r.Remove(t.Context(), "a"); !errors.Is(err, modeltier.ErrInUse) {
			t.Errorf("a is waited for: %v", err)
		}
		if _, err := r.Reconfigure(t.Context(), models[1:], tier.Limits{Swap: tier.None}); err != nil {
			t.Fatal(err)
		}
		set.refused(modeltier.ErrNotFound, time.Second)
		busy.Release()
	})
}

func TestAcquireAll_ModelIsReconfiguredWhileItWaits_GetsTheNewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		models := []tier.Model{model("a", 1), model("b", 2), model("c", 3)}
		r := newRig(t, onlyRAM(models...))
		r.use("a")
		busy := r.get("c")
		set := r.beginAll(named("a", "b")...)
		time.Sleep(time.Second)
		models[0] = model("a", 3)
		if _, err := r.Reconfigure(t.Context(), models, tier.Limits{Swap: tier.None}); err != nil {
			t.Fatal(err)
		}
		busy.Release()
		<-set.done
		if set.err != nil || set.leases[0].Model().Size != 3*tier.GiB {
			t.Errorf("%v, %v", set.leases, set.err)
		}
	})
}

func TestAcquireAll_OneDoesNotLoad_ItsErrorAndNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("the disk said no")
		r := newRig(t, doomed(onlyRAM(model("a", 1), model("b", 2)), map[string]error{"b": broken}))
		err := r.beginAll(named("a", "b")...).refused(tier.ErrMove, 1500*time.Millisecond) // as it does to one that asks for b alone
		if me, ok := errors.AsType[*tier.MoveError](err); !ok || me.Model != "b" {
			t.Errorf("%v", err)
		}
		time.Sleep(time.Minute)
		r.wantLeases("a", 0)
		r.wantUsed(1 * tier.GiB) // a goes on to ram, for others
	})
}

func TestAcquireAll_OneDoesNotLoad_TheSelectorIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &tally{Selector: selector.New()}
		cfg := doomed(onlyRAM(model("a", 1), model("b", 2)), map[string]error{"b": errors.New("the disk said no")})
		cfg.Selector = told
		r := newRig(t, cfg)
		r.beginAll(named("a", "b")...).refused(tier.ErrMove, 1500*time.Millisecond)
		time.Sleep(time.Second)
		if n := told.reports.Load(); n != 1 {
			t.Errorf("%d outcomes, want that of b", n)
		}
	})
}

func TestAcquireAll_LoadLastsLongerThanItMayWait_MayComeBackWhenItHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 2), model("b", 3))
		cfg.MaxWait = time.Second
		r := newRig(t, cfg)
		for _, name := range []string{"a", "b"} {
			for _, to := range []tier.Tier{tier.RAM, tier.Storage} {
				if err := order(t)(r.MoveTier(t.Context(), name, to)).Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		err := r.beginAll(named("a", "b")...).refused(modeltier.ErrBusy, cfg.MaxWait)
		if busy, ok := errors.AsType[*tier.BusyError](err); !ok || !near(busy.RetryAfter, 3500*time.Millisecond) {
			t.Errorf("it may come back as %+v", busy)
		}
	})
}

func TestAcquireAll_Waits_ProgressOfEachIsCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 2), model("c", 3)))
		r.use("a")
		busy := r.get("c")
		var mu sync.Mutex
		told := map[string][]tier.Waiting{}
		var reqs []modeltier.Request
		for _, name := range []string{"a", "b"} {
			reqs = append(reqs, modeltier.Request{Model: name, Progress: func(w tier.Waiting) {
				mu.Lock()
				defer mu.Unlock()
				told[name] = append(told[name], w)
			}})
		}
		set := r.beginAll(reqs...)
		time.Sleep(time.Second)
		busy.Release()
		set.served(4*time.Second, "a", "b")
		mu.Lock()
		defer mu.Unlock()
		for name, ws := range told {
			if len(ws) < 30 || ws[0].Model != name || ws[0].Phase != tier.Queued {
				t.Errorf("%s: told %d times, first %+v", name, len(ws), ws[0])
			}
		}
		if !slices.ContainsFunc(told["b"], func(w tier.Waiting) bool { return w.Phase == tier.Loading && w.Total == 2*tier.GiB }) {
			t.Errorf("b: its load is not told: %+v", told["b"])
		}
		if last := told["a"][len(told["a"])-1]; !slices.Equal(last.Behind, []string{"b"}) {
			t.Errorf("a is there and waits for b: %+v", last)
		}
	})
}

func TestAcquireAll_KeepAliveOfEach_IsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 2)))
		for range 2 { // in storage, and resident
			leases, err := r.AcquireAll(t.Context(), modeltier.Request{Model: "a", KeepAlive: 10 * time.Second}, modeltier.Request{Model: "b", KeepAlive: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range leases {
				l.Release()
			}
			time.Sleep(5 * time.Second)
		}
		time.Sleep(15 * time.Second)
		r.wantAt("a", tier.Storage)
		r.wantAt("b", tier.RAM)
		time.Sleep(time.Minute)
		r.wantAt("b", tier.Storage)
	})
}

// Models that can be served from swap are, where ram does not hold them all.
func TestAcquireAll_LargerThanRAMButServableInPlace_TheLargestIsServedFromSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := modeltier.Config{Models: []tier.Model{model("a", 3), model("b", 4), model("c", 1)}, Mover: &tiertest.Mover{Files: true}, OptimizeEvery: -1}
		r := newRig(t, cfg)
		for range 2 {
			leases, err := r.AcquireAll(t.Context(), named("a", "b", "c")...)
			if err != nil {
				t.Fatal(err)
			}
			var at []tier.Tier
			for _, l := range leases {
				at = append(at, l.Tier())
				l.Release()
			}
			if !slices.Equal(at, []tier.Tier{tier.RAM, tier.Swap, tier.RAM}) {
				t.Errorf("served from %v", at)
			}
		}
	})
}

// Streams of requests keep something on the move at any time: the room of a whole set is
// never free at once by itself, nor that of a model which needs all of it among sets.
func TestAcquireAll_SetsAndSingleRequestsWithoutPause_NeitherStarves(t *testing.T) {
	const fairness, use, longest = 3 * time.Second, 100 * time.Millisecond, 4 * time.Second
	// What is on the move when its turn comes, two that have waited for longer, its own load.
	const bound = fairness + 4*(longest+use)
	var small []string
	for i := range 12 {
		small = append(small, fmt.Sprintf("m%d", i))
	}
	for name, x := range map[string]struct {
		streams int // sets of so many models
		wants   []string
	}{
		"a set among single requests":            {1, []string{"x", "y"}},
		"a single request among sets":            {2, []string{"whole"}},
		"a single request among single requests": {1, []string{"whole"}},
		"a set among sets":                       {2, []string{"x", "y"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := onlyRAM(model("x", 2.5), model("y", 2.5), model("whole", 5))
				for _, name := range small {
					cfg.Models = append(cfg.Models, model(name, 1))
				}
				cfg.Mover.(*tiertest.Mover).Time = func(mv tier.Move) time.Duration {
					if mv.To == tier.Storage {
						return 0
					}
					return longest - time.Duration(len(mv.Model.Name)*int(mv.Model.Name[1%len(mv.Model.Name)])*37%100)*25*time.Millisecond
				}
				r := newRig(t, cfg)
				stop := make(chan struct{})
				var wg sync.WaitGroup
				for i := range 8 {
					wg.Go(func() {
						dice := rand.New(rand.NewPCG(uint64(i), 15))
						for {
							select {
							case <-stop:
								return
							default:
							}
							var names []string
							for _, k := range dice.Perm(len(small))[:x.streams] {
								names = append(names, small[k])
							}
							leases, err := r.AcquireAll(t.Context(), named(names...)...)
							if err != nil {
								t.Error(err)
								return
							}
							time.Sleep(use)
							for _, l := range leases {
								l.Release()
							}
						}
					})
				}
				for i := range 20 {
					time.Sleep(10*time.Second + time.Duration(i)*137*time.Millisecond)
					began := time.Now()
					leases, err := r.AcquireAll(t.Context(), named(x.wants...)...)
					if err != nil {
						t.Error(err)
					}
					if took := time.Since(began); took > bound {
						t.Errorf("%q waited for %v, want %v at most", x.wants, took, bound)
					}
					for _, l := range leases {
						l.Release()
					}
				}
				close(stop)
				wg.Wait()
			})
		})
	}
}

// 32 callers take overlapping sets in any order where two sets fit, beside single
// requests.
func TestAcquireAll_ManyOverlappingSetsInAnyOrder_EachWaitIsBounded(t *testing.T) {
	const clients, singles, rounds, use = 32, 8, 20, 50 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		var models []tier.Model
		for i := range 8 {
			models = append(models, model(fmt.Sprintf("m%d", i), 0.8))
		}
		cfg := onlyRAM(models...) // six fit
		r, scale := newScaleRig(t, cfg)
		var mu sync.Mutex
		longest := map[int]time.Duration{}
		var wg sync.WaitGroup
		for i := range clients + singles {
			wg.Go(func() {
				dice := rand.New(rand.NewPCG(uint64(i), 15))
				for range rounds {
					n := 3
					if i >= clients {
						n = 1
					}
					var names []string
					for _, k := range dice.Perm(len(models))[:n] {
						names = append(names, models[k].Name)
					}
					began := time.Now()
					leases, err := r.AcquireAll(t.Context(), named(names...)...)
					if err != nil {
						t.Errorf("%q: %v", names, err)
						return
					}
					mu.Lock()
					longest[n] = max(longest[n], time.Since(began))
					mu.Unlock()
					time.Sleep(use)
					for _, l := range leases {
						l.Release()
					}
				}
			})
		}
		wg.Wait()
		// One that is the last in the queue waits until the others that wait have been
		// served, in the worst case one after the other.
		const load = 1200 * time.Millisecond
		bound := 3*time.Second + (clients+singles)*(load+use)
		for n, took := range longest {
			t.Logf("sets of %d waited for %v at most", n, took)
			if took > bound {
				t.Errorf("a set of %d waited for %v, want %v at most", n, took, bound)
			}
		}
		if scale.Peak() > 5*tier.GiB {
			t.Errorf("%v were in memory at once", scale.Peak())
		}
		if s := r.Status(); s.Waiting != 0 || s.RAM.Reserved != 0 {
			t.Errorf("at the end %d wait, %v are set aside", s.Waiting, s.RAM.Reserved)
		}
	})
}

// All leases of a set that is resident are taken before any of its models can leave, or
// none is.
func TestAcquireAll_ResidentSetWhileModelsGiveWay_AllLeasesOrNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 3)))
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for n := range 200 {
					names := [][]string{{"a", "b"}, {"b", "a"}, {"c"}}[(i+n)%3]
					leases, err := r.AcquireAll(t.Context(), named(names...)...)
					if err != nil {
						t.Errorf("%q: %v", names, err)
						return
					}
					for k, l := range leases {
						if l.Model().Name != names[k] || l.Tier() != tier.RAM || r.at(names[k]) != tier.RAM {
							t.Errorf("%s is leased from %v, and is in %v", l.Model().Name, l.Tier(), r.at(names[k]))
						}
						l.Release()
					}
				}
			})
		}
		wg.Wait()
		for _, name := range []string{"a", "b", "c"} {
			r.wantLeases(name, 0)
		}
	})
}
