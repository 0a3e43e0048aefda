package mapped

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

func request() bool { return false }

// queued starts an acquire and returns when it waits or has the turn.
func queued(t *testing.T, q *deviceQueue, ctx context.Context, name string, order *[]string) {
	t.Helper()
	go func() {
		turn, err := q.acquire(ctx, tier.InBackground(ctx), func() {})
		if err != nil {
			*order = append(*order, name+": "+err.Error())
			return
		}
		*order = append(*order, name)
		turn.release()
	}()
	synctest.Wait()
}

func TestDeviceQueue_TurnsAreGrantedInOrder_BackgroundLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(deviceQueue)
		first, err := q.acquire(t.Context(), request, nil)
		if err != nil {
			t.Fatal(err)
		}
		idle, _ := tier.Background(t.Context())
		urgent, urge := tier.Background(t.Context())
		var order []string
		queued(t, q, idle, "background", &order)
		queued(t, q, urgent, "urged", &order)
		queued(t, q, t.Context(), "a", &order)
		queued(t, q, t.Context(), "b", &order)
		urge()
		first.release()
		synctest.Wait()
		if want := []string{"urged", "a", "b", "background"}; !slices.Equal(order, want) {
			t.Errorf("turns went to %v, want %v", order, want)
		}
	})
}

func TestDeviceQueue_BackgroundHolder_YieldsToARequestOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(deviceQueue)
		ctx, urge := tier.Background(t.Context())
		holder, err := q.acquire(ctx, tier.InBackground(ctx), nil)
		if err != nil {
			t.Fatal(err)
		}
		other, urgeOther := tier.Background(t.Context())
		var order []string
		queued(t, q, other, "other", &order)
		if holder.shouldYield() {
			t.Error("background work yields to background work")
		}
		urgeOther()
		if !holder.shouldYield() {
			t.Error("background work does not yield to what was urged")
		}
		urge()
		if holder.shouldYield() {
			t.Error("urged work yields")
		}
		holder.release()
		synctest.Wait()
	})
}

func TestDeviceQueue_WaiterLeaves_TheTurnGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(deviceQueue)
		first, err := q.acquire(t.Context(), request, nil)
		if err != nil {
			t.Fatal(err)
		}
		cause := errors.New("had enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		var order []string
		queued(t, q, ctx, "leaver", &order)
		queued(t, q, t.Context(), "stayer", &order)
		cancel(cause)
		synctest.Wait()
		first.release()
		synctest.Wait()
		if want := []string{"leaver: had enough", "stayer"}; !slices.Equal(order, want) {
			t.Errorf("got %v, want %v", order, want)
		}
		if n := q.waiting(); n != 0 {
			t.Errorf("%d wait", n)
		}
	})
}

// A waiting load reports that it is alive as long as its queue advances: only a
// stuck queue makes it look stuck.
func TestDeviceQueue_WaitersReportLife_OnlyWhileTheHolderWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(deviceQueue)
		first, err := q.acquire(t.Context(), request, nil)
		if err != nil {
			t.Fatal(err)
		}
		signs := 0
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = q.acquire(ctx, request, func() { signs++ }) }()
		time.Sleep(livenessInterval / 2) // between two looks
		for range 3 {
			q.steps.Add(1)
			time.Sleep(livenessInterval)
		}
		synctest.Wait()
		if signs != 3 {
			t.Errorf("%d signs of life in 3 steps", signs)
		}
		time.Sleep(10 * livenessInterval)
		if signs != 3 {
			t.Errorf("%d signs of life of a queue that stands", signs-3)
		}
		cancel()
		first.release()
	})
}

func TestDeviceQueue_OneHolderAtATime_WhateverTheTurns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type visit struct {
			arrives, stays, patience int
			background               bool
		}
		visits := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) visit {
			return visit{
				rapid.IntRange(0, 50).Draw(t, "arrives"), rapid.IntRange(1, 20).Draw(t, "stays"),
				rapid.IntRange(1, 100).Draw(t, "livenessInterval"), rapid.Bool().Draw(t, "background"),
			}
		}), 1, 12).Draw(t, "visits")
		rapid.SyncTest(t, func(t *rapid.T) {
			var (
				q       deviceQueue
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
					turn, err := q.acquire(ctx, func() bool { return v.background }, func() {})
					if err != nil {
						return
					}
					mu.Lock()
					if holders++; holders != 1 {
						fault = fmt.Errorf("%d hold the device", holders)
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
			if q.taken || len(q.waiters) != 0 {
				t.Fatalf("the queue is left taken (%v) or queued for (%d)", q.taken, len(q.waiters))
			}
		})
	})
}

func testDevice() *device {
	return newDevice(1, "8:1", []way{{true, 2}, {false, 2}, {true, 8}})
}

// measure records a read of n bytes in the way that the device picks, at the rates
// of a disk, and returns that way.
func measure(d *device, n int64, perSecond map[string]float64) way {
	w, budget := d.pick(n)
	n = min(n, budget)
	d.record(w, n, time.Duration(float64(n)/perSecond[w.String()]*1e9))
	return w
}

func TestDevice_TriesEveryWay_ThenTakesTheFastest(t *testing.T) {
	d := testDevice()
	disk := map[string]float64{"populate ×2": 1e9, "read ×2": 3e9, "populate ×8": 2e9}
	tried := map[way]bool{}
	for range 3 {
		tried[measure(d, 1<<30, disk)] = true
	}
	if len(tried) != 3 {
		t.Fatalf("tried %v, want each of three ways once", tried)
	}
	if w, budget := d.pick(1 << 30); w.String() != "read ×2" || budget != roundBytes {
		t.Errorf("picks %v for %d bytes, want the fastest for a roundBytes", w, budget)
	}
}

func TestDevice_FastestGetsSlow_IsLeftForTheNext(t *testing.T) {
	d := testDevice()
	disk := map[string]float64{"populate ×2": 1e9, "read ×2": 3e9, "populate ×8": 2e9}
	for range 3 {
		measure(d, 1<<30, disk)
	}
	disk["read ×2"] = 0.5e9
	for range 5 {
		measure(d, 1<<30, disk)
	}
	if w, _ := d.pick(1 << 30); w.String() != "populate ×8" {
		t.Errorf("picks %v, want populate ×8", w)
	}
}

func TestDevice_OneSlowReading_DoesNotDecide(t *testing.T) {
	d := testDevice()
	disk := map[string]float64{"populate ×2": 1e9, "read ×2": 3e9, "populate ×8": 2e9}
	for range 3 {
		measure(d, 1<<30, disk)
	}
	disk["read ×2"] = 2e9
	measure(d, 1<<30, disk)
	if w, _ := d.pick(1 << 30); w.String() != "read ×2" {
		t.Errorf("picks %v, want read ×2", w)
	}
}

func TestDevice_MoreWorkers_MustGainEnough(t *testing.T) {
	for rate, want := range map[float64]string{1e9: "populate ×2", 1.2e9: "populate ×2", 1.3e9: "populate ×8"} {
		d := testDevice()
		disk := map[string]float64{"populate ×2": 1e9, "read ×2": 0.9e9, "populate ×8": rate}
		for range 3 {
			measure(d, 1<<30, disk)
		}
		if w, _ := d.pick(1 << 30); w.String() != want {
			t.Errorf("with 8 workers at %.1f of the rate of 2 it picks %v", rate/1e9, w)
		}
	}
}

// Ways that were slow are tried again, with a small share of the bytes.
func TestDevice_RatesGrowStale_AreTakenAgain(t *testing.T) {
	d := testDevice()
	disk := map[string]float64{"populate ×2": 1e9, "read ×2": 3e9, "populate ×8": 2e9}
	tried, loaded := map[way]int64{}, int64(0)
	for range 100 {
		w, budget := d.pick(1 << 30)
		n := min(budget, 1<<30)
		d.record(w, n, time.Duration(float64(n)/disk[w.String()]*1e9))
		tried[w] += n
		loaded += n
	}
	for _, r := range d.rates {
		if r.String() == "read ×2" {
			continue
		}
		if tried[r.way] < 3*trialBytes || tried[r.way] > loaded/20 {
			t.Errorf("%v read %d of %d bytes", r.way, tried[r.way], loaded)
		}
	}
}

func TestDevice_SmallLoads_TellNothing(t *testing.T) {
	d := testDevice()
	for range 10 {
		w, budget := d.pick(minSample - 1)
		if w != d.rates[0].way || budget != minSample-1 {
			t.Fatalf("picks %v for %d bytes", w, budget)
		}
		d.record(w, minSample-1, time.Second)
	}
	for _, r := range d.rates {
		if r.perSecond != 0 {
			t.Errorf("%v got a rate from a small load", r.way)
		}
	}
}
