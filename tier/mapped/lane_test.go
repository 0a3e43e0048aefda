package mapped

import (
	"context"
	"errors"
	"fmt"
	"github.com/modeltier/modeltier/tier"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func request() bool { return false }

// queued starts an acquire and returns when it waits or has the turn.
func queued(t *testing.T, l *lane, ctx context.Context, name string, order *[]string) {
	t.Helper()
	go func() {
		turn, err := l.acquire(ctx, tier.InBackground(ctx), func() {})
		if err != nil {
			*order = append(*order, name+": "+err.Error())
			return
		}
		*order = append(*order, name)
		turn.release()
	}()
	synctest.Wait()
}

func TestLane_TurnsAreGivenInOrder_BackgroundLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lane)
		first, err := l.acquire(t.Context(), request, nil)
		if err != nil {
			t.Fatal(err)
		}
		idle, _ := tier.Background(t.Context())
		urgent, urge := tier.Background(t.Context())
		var order []string
		queued(t, l, idle, "background", &order)
		queued(t, l, urgent, "urged", &order)
		queued(t, l, t.Context(), "a", &order)
		queued(t, l, t.Context(), "b", &order)
		urge()
		first.release()
		synctest.Wait()
		if want := []string{"urged", "a", "b", "background"}; !slices.Equal(order, want) {
			t.Errorf("turns went to %v, want %v", order, want)
		}
	})
}

func TestLane_BackgroundHolder_YieldsToARequestOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lane)
		ctx, urge := tier.Background(t.Context())
		holder, err := l.acquire(ctx, tier.InBackground(ctx), nil)
		if err != nil {
			t.Fatal(err)
		}
		other, urgeOther := tier.Background(t.Context())
		var order []string
		queued(t, l, other, "other", &order)
		if holder.yields() {
			t.Error("background work yields to background work")
		}
		urgeOther()
		if !holder.yields() {
			t.Error("background work does not yield to what was urged")
		}
		urge()
		if holder.yields() {
			t.Error("urged work yields")
		}
		holder.release()
		synctest.Wait()
	})
}

func TestLane_WaiterLeaves_TheTurnGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lane)
		first, err := l.acquire(t.Context(), request, nil)
		if err != nil {
			t.Fatal(err)
		}
		cause := errors.New("had enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		var order []string
		queued(t, l, ctx, "leaver", &order)
		queued(t, l, t.Context(), "stayer", &order)
		cancel(cause)
		synctest.Wait()
		first.release()
		synctest.Wait()
		if want := []string{"leaver: had enough", "stayer"}; !slices.Equal(order, want) {
			t.Errorf("got %v, want %v", order, want)
		}
		if n := l.waiting(); n != 0 {
			t.Errorf("%d wait", n)
		}
	})
}

// A wait shows life as long as the lane does: only a lane that is stuck looks so
// to whoever watches the wait.
func TestLane_WaitsShowLife_OnlyWhileTheHolderWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lane)
		first, err := l.acquire(t.Context(), request, nil)
		if err != nil {
			t.Fatal(err)
		}
		signs := 0
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = l.acquire(ctx, request, func() { signs++ }) }()
		time.Sleep(patience / 2) // between two looks
		for range 3 {
			l.steps.Add(1)
			time.Sleep(patience)
		}
		synctest.Wait()
		if signs != 3 {
			t.Errorf("%d signs of life in 3 steps", signs)
		}
		time.Sleep(10 * patience)
		if signs != 3 {
			t.Errorf("%d signs of life of a lane that stands", signs-3)
		}
		cancel()
		first.release()
	})
}

func TestLane_OneHolderAtATime_WhateverTheTurns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type visit struct {
			arrives, stays, patience int
			background               bool
		}
		visits := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) visit {
			return visit{
				rapid.IntRange(0, 50).Draw(t, "arrives"), rapid.IntRange(1, 20).Draw(t, "stays"),
				rapid.IntRange(1, 100).Draw(t, "patience"), rapid.Bool().Draw(t, "background"),
			}
		}), 1, 12).Draw(t, "visits")
		rapid.SyncTest(t, func(t *rapid.T) {
			var (
				l       lane
				mu      sync.Mutex
				holders int
				fault   error
				group   sync.WaitGroup
			)
			for _, v := range visits {
				group.Go(func() {
					time.Sleep(time.Duration(v.arrives) * time.Millisecond)
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(v.patience)*time.Millisecond)
					defer cancel()
					turn, err := l.acquire(ctx, func() bool { return v.background }, func() {})
					if err != nil {
						return
					}
					mu.Lock()
					if holders++; holders != 1 {
						fault = fmt.Errorf("%d hold the lane", holders)
					}
					mu.Unlock()
					time.Sleep(time.Duration(v.stays) * time.Millisecond)
					mu.Lock()
					holders--
					mu.Unlock()
					turn.release()
				})
			}
			group.Wait()
			if fault != nil {
				t.Fatal(fault)
			}
			if l.taken || len(l.queue) != 0 {
				t.Fatalf("the lane is left taken (%v) or queued for (%d)", l.taken, len(l.queue))
			}
		})
	})
}
