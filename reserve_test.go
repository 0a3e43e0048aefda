package modeltier_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// reserve reserves room that must be given.
func (r *rig) reserve(gib tier.Bytes) *modeltier.Reservation {
	r.t.Helper()
	room, err := r.Reserve(r.t.Context(), gib*tier.GiB, "a game")
	if err != nil {
		r.t.Fatalf("Reserve(%v GiB): %v", gib, err)
	}
	synctest.Wait()
	return room
}

func TestReserve_ModelsHaveTheRoom_TheyGiveWayAndComeHomeAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		home := model("a", 2)
		home.Home = tier.RAM
		r := newRig(t, onlyRAM(home, model("b", 2)))
		r.use("a")
		r.use("b")
		room := r.reserve(3)
		r.wantAt("a", tier.Storage)
		r.wantAt("b", tier.RAM)
		r.wantUsed(5 * tier.GiB)
		s := r.Status()
		if len(s.Reservations) != 1 || s.Reservations[0].ID != room.ID() || s.Reservations[0].Reason != "a game" || s.Reservations[0].Bytes != 3*tier.GiB || s.Reservations[0].Since.IsZero() || !s.Reservations[0].Until.IsZero() {
			t.Errorf("%+v", s.Reservations)
		}
		if ev := s.LastEvictions; len(ev) != 1 || ev[0].For != "reservation "+room.ID() {
			t.Errorf("%+v", ev)
		}
		room.Release()
		room.Release()
		<-room.Done()
		time.Sleep(time.Minute)
		r.wantAt("a", tier.RAM)
		r.wantUsed(4 * tier.GiB)
		if s := r.Status(); len(s.Reservations) > 0 {
			t.Errorf("%+v", s.Reservations)
		}
	})
}

// wantRefused checks that room is refused at once, and returns the error.
func (r *rig) wantRefused(gib tier.Bytes, kind error) error {
	r.t.Helper()
	began := time.Now()
	room, err := r.Reserve(r.t.Context(), gib*tier.GiB, "")
	if room != nil || !errors.Is(err, kind) || time.Since(began) > time.Second {
		r.t.Fatalf("Reserve(%v GiB) gave %v, %v after %v, want the error %q", gib, room, err, time.Since(began), kind)
	}
	return err
}

func TestReserve_MoreThanThereEverIs_TooLargeWithTheNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(pinned(model("p", 1)), model("a", 1)))
		if err := r.wantRefused(6, modeltier.ErrTooLarge); !strings.Contains(err.Error(), "6.0 GiB") || !strings.Contains(err.Error(), "5.0 GiB") {
			t.Error(err)
		}
		r.wantRefused(tier.Unlimited/tier.GiB, modeltier.ErrTooLarge)
		r.reserve(5).Release()
		r.use("p")
		err := r.wantRefused(5, modeltier.ErrTooLarge)
		if ce, _ := errors.AsType[*tier.CapacityError](err); ce == nil || ce.Need != 5*tier.GiB || ce.Free != 4*tier.GiB || !strings.Contains(strings.Join(ce.Suggestions(), " "), "p (1.0 GiB, pinned)") {
			t.Errorf("%v: %+v", err, ce)
		}
		r.reserve(4).Release()
		r.memory(4*tier.GiB, 4*tier.GiB) // of which one is the reserve
		r.wantRefused(3, modeltier.ErrTooLarge)
	})
}

func TestReserve_BadInput_IsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM())
		for named, ask := range map[string]func() (*modeltier.Reservation, error){
			"bytes 0":  func() (*modeltier.Reservation, error) { return r.Reserve(t.Context(), 0, "") },
			"bytes -1": func() (*modeltier.Reservation, error) { return r.Reserve(t.Context(), -1, "") },
			"why":      func() (*modeltier.Reservation, error) { return r.Reserve(t.Context(), 1, strings.Repeat("x", 257)) },
		} {
			if room, err := ask(); room != nil || !errors.Is(err, modeltier.ErrInvalid) || !strings.Contains(err.Error(), named) {
				t.Errorf("%s: %v", named, err)
			}
		}
		var none *modeltier.Reservation
		none.Release()
	})
}

func TestReserve_RoomIsHeldByAReservation_RefusalsNameIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 0.5), pinned(model("p", 0.5))))
		r.use("p") // or the placement would name no holder
		room := r.reserve(4)
		names := "reservation " + room.ID() + ` (4.0 GiB, "a game")`
		refused := func(err error) {
			t.Helper()
			if !errors.Is(err, modeltier.ErrNoCapacity) || !strings.Contains(strings.Join(tier.Suggestions(err), " "), names) {
				t.Errorf("%v, %q", err, tier.Suggestions(err))
			}
		}
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"})
		refused(err)
		refused(r.wantRefused(2, modeltier.ErrNoCapacity))
		r.memory(8*tier.GiB, 3*tier.GiB) // the game has taken its memory: the selector refuses
		_, err = r.Acquire(t.Context(), modeltier.Request{Model: "a"})
		refused(err)
		r.use("b")
	})
}

// What an outsider has not taken yet is available by the probe, and is not promised.
func TestReserve_OutsiderHasNotAllocatedYet_ItsBytesAreKeptFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 2))
		cfg.Limits.RAM = 64 * tier.GiB
		r := newRig(t, cfg)
		r.memory(8*tier.GiB, 6*tier.GiB)
		room := r.reserve(4)
		if s := r.Status(); s.RAM.Room != 1*tier.GiB || s.Memory.Available != 6*tier.GiB || s.Reservations[0].Untaken != 4*tier.GiB {
			t.Errorf("%v may be admitted, %v available, %v not taken", s.RAM.Room, s.Memory.Available, s.Reservations[0].Untaken)
		}
		if told := string(r.HandleRequest(t.Context(), []byte(`{"tier_status": true}`))); !strings.Contains(told, `"available_gb":2,`) {
			t.Errorf("selectors are to see 2 GB: %s", told)
		}
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"}); !errors.Is(err, modeltier.ErrNoCapacity) {
			t.Errorf("a is promised the outsider's memory: %v", err)
		}
		room.Release()
		r.use("a")
	})
}

// Once the outsider has taken its bytes they are not counted twice: not by admission,
// nor by the judgement of pressure, which would send models away.
func TestReserve_OutsiderHasAllocated_ItsBytesAreCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 1), model("b", 1))
		cfg.Limits.RAM = 64 * tier.GiB
		r := newRig(t, cfg)
		r.memory(8*tier.GiB, 8*tier.GiB)
		r.use("a")
		r.memory(8*tier.GiB, 7*tier.GiB)
		room := r.reserve(4)
		for available := 6 * tier.GiB; available >= 3*tier.GiB; available -= tier.GiB {
			r.memory(8*tier.GiB, available)
			if s := r.Status(); s.RAM.Room != 2*tier.GiB || s.Reservations[0].Untaken != available-3*tier.GiB {
				t.Errorf("with %v available, %v may be admitted, %v not taken", available, s.RAM.Room, s.Reservations[0].Untaken)
			}
		}
		r.use("b")
		r.memory(8*tier.GiB, 2*tier.GiB)
		r.memory(8*tier.GiB, 6*tier.GiB) // it gives its memory back, and takes it again at once
		r.memory(8*tier.GiB, 2*tier.GiB)
		r.wantMoves("load a", "load b")
		room.Release()
		r.memory(8*tier.GiB, 6*tier.GiB)
		if s := r.Status(); s.RAM.Room != 5*tier.GiB {
			t.Errorf("%v may be admitted afterwards", s.RAM.Room)
		}
	})
}

func TestReserve_ModelsInUse_WaitsAndDrainsThemAfterFairness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 4)))
		lease := r.get("a")
		time.AfterFunc(10*time.Second, lease.Release)
		began := time.Now()
		room := r.reserve(3)
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("given after %v", took)
		}
		r.wantAt("a", tier.Storage)
		room.Release()
	})
}

func TestReserve_ContextEnds_EndsTheWaitAndNotTheRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 4)))
		lease := r.get("a")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errLeft) })
		if _, err := r.Reserve(ctx, 3*tier.GiB, ""); !errors.Is(err, errLeft) {
			t.Errorf("the wait ended with %v", err)
		}
		lease.Release()
		time.Sleep(time.Minute)
		r.wantAt("a", tier.RAM)

		ctx, cancel = context.WithCancelCause(t.Context())
		room, err := r.Reserve(ctx, 1*tier.GiB, "")
		if err != nil {
			t.Fatal(err)
		}
		cancel(errLeft)
		time.Sleep(time.Minute)
		r.wantUsed(5 * tier.GiB)
		room.Release()
	})
}

func TestReserve_WaitsLongerThanMaxWait_BusyWithTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 3))
		cfg.MaxWait = 5 * time.Second
		r := newRig(t, cfg)
		defer r.get("a").Release()
		if _, err := r.Reserve(t.Context(), 4*tier.GiB, ""); !errors.Is(err, modeltier.ErrBusy) || !strings.Contains(err.Error(), "4.0 GiB") || !strings.Contains(err.Error(), "in use") {
			t.Errorf("%v", err)
		}
	})
}

func TestShutdown_ReservationsAreHeld_TheyEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 4)))
		room := r.reserve(2)
		if err := r.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		select {
		case <-room.Done():
		default:
			t.Error("the reservation goes on")
		}
		room.Release()
		if _, err := r.Reserve(t.Context(), 1, ""); !errors.Is(err, modeltier.ErrClosed) {
			t.Errorf("reserved after the end: %v", err)
		}
	})
}

func TestUpdateLimits_BelowWhatIsReserved_RefusedWithItsNameUntilItIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		r.use("a")
		room := r.reserve(3)
		_, _, err := r.UpdateLimits(t.Context(), tier.Limits{RAM: 2 * tier.GiB})
		if !errors.Is(err, modeltier.ErrLimits) || !strings.Contains(strings.Join(tier.Suggestions(err), " "), "reservation "+room.ID()) {
			t.Errorf("%v, %q", err, tier.Suggestions(err))
		}
		if _, now, err := r.UpdateLimits(t.Context(), tier.Limits{RAM: 3 * tier.GiB}); err != nil || now.RAM != 3*tier.GiB {
			t.Errorf("a could have left: %v", err)
		}
		room.Release()
		if _, _, err := r.UpdateLimits(t.Context(), tier.Limits{RAM: 2 * tier.GiB}); err != nil {
			t.Error(err)
		}
	})
}

func TestReserve_ModelThatShouldLeaveDoesNot_NoCapacityWithTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 4))
		broken := false
		cfg.Mover.(*tiertest.Mover).Fault = func(tier.Move) error {
			if broken {
				panic("boom")
			}
			return nil
		}
		r := newRig(t, cfg)
		r.use("a")
		broken = true
		if err := r.wantRefused(3, modeltier.ErrNoCapacity); !strings.Contains(err.Error(), "boom") || tier.Code(err) != "no_capacity" {
			t.Errorf("%s: %v", tier.Code(err), err)
		}
		r.wantUsed(4 * tier.GiB)
	})
}
