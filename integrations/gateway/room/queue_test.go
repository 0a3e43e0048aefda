package room

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

// newQueues admits that many to each engine.
func newQueues(limit int) *queues {
	return &queues{byModel: make(map[string]*queue), limit: func(string) (int, bool) { return limit, true }}
}

// isGranted reports whether a turn has been granted.
func (t *turn) isGranted() bool {
	select {
	case <-t.granted:
		return true
	default:
		return false
	}
}

// waits are requests that wait, in the order in which they came.
type waits []*turn

// join has one more wait.
func (w *waits) join(t interface{ Fatalf(string, ...any) }, q *queues, caller string, class Class) {
	turn, err := q.join("m", caller, class)
	if err != nil || turn == nil {
		t.Fatalf("%q does not wait: %v", caller, err)
	}
	*w = append(*w, turn)
}

// next ends a turn, and returns the one that it is granted to.
func (w *waits) next(t interface{ Fatalf(string, ...any) }, q *queues) *turn {
	q.leave("m")
	var granted *turn
	for _, turn := range *w {
		if turn.isGranted() {
			if granted != nil {
				t.Fatalf("two turns are granted for one that has ended")
			}
			granted = turn
		}
	}
	if granted == nil {
		t.Fatalf("no turn is granted while %d requests wait", len(*w))
	}
	*w = slices.DeleteFunc(*w, func(t *turn) bool { return t == granted })
	return granted
}

func TestQueue_LoneCaller_HasATurnBeforeTheRestOfABurst(t *testing.T) {
	q := newQueues(1)
	q.join("m", "busy", Normal)
	var w waits
	for range 100 {
		w.join(t, q, "busy", Normal)
	}
	for range 10 {
		w.next(t, q)
	}
	w.join(t, q, "lone", Normal)
	for turns := 1; ; turns++ {
		if w.next(t, q).caller == "lone" {
			if turns > 2 {
				t.Errorf("it had the turn after %d others", turns-1)
			}
			return
		}
	}
}

func TestQueue_Classes_HaveTurnsByTheirWeights(t *testing.T) {
	for _, callers := range []map[Class]int{{High: 1, Normal: 1, Low: 1}, {High: 1, Normal: 7, Low: 20}} {
		q := newQueues(1)
		q.join("m", "first", Low)
		var w waits
		for i := range 140 {
			for _, class := range []Class{Low, Normal, High} {
				w.join(t, q, strconv.Itoa(i%callers[class]), class)
			}
		}
		turns := map[Class]int{}
		for range 2 * (16 + 4 + 1) {
			turns[w.next(t, q).class]++
		}
		if turns[High] != 32 || turns[Normal] != 8 || turns[Low] != 2 {
			t.Errorf("callers %v: the turns were %v", callers, turns)
		}
	}
}

// A class that has one request at a time is not ahead each time that it has the next.
func TestQueue_LowRequestsOneByOne_AreStillLow(t *testing.T) {
	q := newQueues(1)
	q.join("m", "first", Normal)
	var w waits
	for range 100 {
		w.join(t, q, "a", High)
	}
	w.join(t, q, "b", Low)
	low := 0
	for range 3 * (16 + 1) {
		if w.next(t, q).class == Low {
			low++
			w.join(t, q, "b", Low)
		}
	}
	if low != 3 {
		t.Errorf("of 51 turns it had %d", low)
	}
}

// Who waits in one class and comes again in a higher one does not stand behind himself.
func TestQueue_OneCallersHighRequest_GoesBeforeHisLowOnes(t *testing.T) {
	q := newQueues(1)
	q.join("m", "a", Low)
	var w waits
	for range 50 {
		w.join(t, q, "a", Low)
	}
	w.next(t, q)
	w.join(t, q, "a", High)
	if first := w.next(t, q); first.class != High {
		t.Errorf("a request of class %v had the turn", first.class)
	}
}

func TestQueue_Cancelled_GivesUpItsPlaceAndDoesNotCountAgainstItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueues(1)
		q.join("m", "first", Normal)
		gone := errors.New("gone")
		ctx, leave := context.WithCancelCause(t.Context())
		ended := make(chan error)
		for range 20 {
			go func() { ended <- q.enter(ctx, "m", "a", Normal) }()
		}
		synctest.Wait()
		var w waits
		for range 3 {
			w.join(t, q, "b", Normal)
		}
		leave(gone)
		for range 20 {
			if err := <-ended; !errors.Is(err, gone) {
				t.Errorf("it ends with %v", err)
			}
		}
		w.join(t, q, "a", Normal)
		w.next(t, q)
		if second := w.next(t, q); second.caller != "a" {
			t.Errorf("the one who left waits behind all others; %q has the turn", second.caller)
		}
	})
}

// A turn that is granted as its client leaves goes to the next.
func TestQueue_CancelledAsItIsGranted_TurnGoesOn(t *testing.T) {
	q := newQueues(1)
	q.join("m", "a", Normal)
	gone, _ := q.join("m", "b", Normal)
	next, _ := q.join("m", "c", Normal)
	q.leave("m")
	if !gone.isGranted() || next.isGranted() {
		t.Fatal("the order is another")
	}
	if q.quit("m", gone); !next.isGranted() {
		t.Error("none has the turn")
	}
	if q.leave("m"); len(q.byModel) > 0 {
		t.Errorf("something is left: %+v", q.byModel["m"])
	}
}

func TestQueue_Full_IsBusyAndSaysWhenToComeBack(t *testing.T) {
	q := newQueues(1)
	q.join("m", "a", Normal)
	for i := range maxWaiting {
		if _, err := q.join("m", strconv.Itoa(i), Normal); err != nil {
			t.Fatal(err)
		}
	}
	busy, ok := errors.AsType[*tier.BusyError](q.enter(t.Context(), "m", "one more", High))
	if !ok || busy.RetryAfter <= 0 || busy.Queued != maxWaiting || busy.Model != "m" {
		t.Errorf("%+v", busy)
	}
	if err := q.enter(t.Context(), "another", "a", Low); err != nil {
		t.Errorf("another engine: %v", err)
	}
}

// A limit may become another while requests wait.
func TestQueue_LimitRises_NextTurnsAreGrantedAtOnce(t *testing.T) {
	limit := 1
	q := &queues{byModel: make(map[string]*queue), limit: func(string) (int, bool) { return limit, true }}
	q.join("m", "a", Normal)
	var w waits
	for range 5 {
		w.join(t, q, "a", Normal)
	}
	limit = 3
	q.leave("m")
	granted := 0
	for _, turn := range w {
		if turn.isGranted() {
			granted++
		}
	}
	if granted != 3 {
		t.Errorf("%d run", granted)
	}
}

// While two callers of a class wait, and while two classes do, none is ahead of the other
// by more than a turn of each: the bound of start-time fair queueing.
func TestQueue_AnyBurst_IsServedFairly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := newQueues(1)
		q.join("m", "first", Normal)
		var w waits
		left := map[string]int{} // those that wait, of callers in a class, and of classes
		callerOf := func(turn *turn) string { return fmt.Sprint(turn.class, " ", turn.caller) }
		for range rapid.IntRange(2, 150).Draw(t, "requests") {
			w.join(t, q, rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "caller"), Class(rapid.IntRange(0, 2).Draw(t, "class")))
			turn := w[len(w)-1]
			left[callerOf(turn)]++
			left[turn.class.String()]++
		}
		turns := map[string]float64{} // in units of the weight
		for len(w) > 0 {
			turn := w.next(t, q)
			me, class := callerOf(turn), turn.class.String()
			turns[me]++
			turns[class] += 1 / turn.class.weight()
			left[me]--
			left[class]--
			for _, other := range w {
				if other.class == turn.class && turns[me]-turns[callerOf(other)] > 2 {
					t.Fatalf("%s had %v turns, %s waits and had %v", me, turns[me], callerOf(other), turns[callerOf(other)])
				}
				if bound := 1/turn.class.weight() + 1/other.class.weight(); turns[class]-turns[other.class.String()] > bound+1e-9 {
					t.Fatalf("%s had %v of its share, %s waits and had %v", class, turns[class], other.class, turns[other.class.String()])
				}
				if other.class == turn.class && other.caller == turn.caller && other.arrived < turn.arrived {
					t.Fatalf("%s: a later request has the turn", me)
				}
			}
		}
	})
}

// One caller after the other, each with one request, as the addresses of a public gateway
// are: a queue that is never empty must not remember them all.
func TestQueue_CallersWithoutEnd_FewAreRemembered(t *testing.T) {
	q := newQueues(1)
	if !q.tryEnter("m") {
		t.Fatal("it is busy")
	}
	var waiting waits
	for i := range 20 * maxWaiting {
		waiting.join(t, q, strconv.Itoa(i), Normal)
		if len(waiting) > 10 {
			waiting.next(t, q)
		}
		if n := len(q.byModel["m"].classes[Normal].ends); n > 2*maxWaiting {
			t.Fatalf("%d callers are remembered while %d requests wait", n, len(waiting))
		}
	}
}

// Whatever comes, waits, leaves and ends: no engine is given more than its limit, and no
// request waits while it has room.
func TestQueue_AnyHistory_LimitHoldsAndNoneIsForgotten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 4).Draw(t, "limit")
		q := newQueues(limit)
		running := 0
		var waiting waits
		settle := func() {
			waiting = slices.DeleteFunc(waiting, func(turn *turn) bool {
				if turn.isGranted() {
					running++
				}
				return turn.isGranted()
			})
			if running > limit || len(waiting) > 0 && running < limit {
				t.Fatalf("%d run and %d wait, the limit is %d", running, len(waiting), limit)
			}
			if m := q.byModel["m"]; m == nil && running > 0 || m != nil && (m.running != running || m.waiting != len(waiting)) {
				t.Fatalf("%d run and %d wait, it counts %+v", running, len(waiting), m)
			}
			if m := q.byModel["m"]; m != nil && len(waiting) == 0 && (m.virtual != 0 || m.classes[Low].ends != nil || m.classes[High].ends != nil) {
				t.Fatalf("none waits, and it remembers %+v", m)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				turn, err := q.join("m", rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "caller"), Class(rapid.IntRange(0, 2).Draw(t, "class")))
				if err != nil {
					t.Fatal(err)
				}
				if turn == nil {
					running++
				} else {
					waiting = append(waiting, turn)
				}
			},
			"try": func(t *rapid.T) {
				if q.tryEnter("m") {
					running++
				}
			},
			"leave": func(t *rapid.T) {
				if running == 0 {
					t.Skip()
				}
				q.leave("m")
				running--
			},
			"quit": func(t *rapid.T) {
				if len(waiting) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(waiting)-1).Draw(t, "which")
				if rapid.Bool().Draw(t, "as it is granted") && running > 0 {
					q.leave("m")
					running--
				}
				turn := waiting[i]
				q.quit("m", turn)
				waiting = slices.Delete(waiting, i, i+1)
			},
			"": func(*rapid.T) { settle() },
		})
		for running > 0 {
			q.leave("m")
			running--
			settle()
		}
		if len(waiting) > 0 || len(q.byModel) > 0 {
			t.Fatalf("%d still wait; %d queues are left", len(waiting), len(q.byModel))
		}
	})
}
