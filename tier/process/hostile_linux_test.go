package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// hostile is how code that is not ours may behave when it is called: each calls
// done, or never returns before the test ends.
func hostile(t *testing.T) map[string]func() {
	forever := make(chan struct{})
	t.Cleanup(func() { close(forever) })
	return map[string]func(){
		"Panic":  func() { panic("theirs") },
		"Goexit": runtime.Goexit,
		"Block":  func() { <-forever },
	}
}

// within fails the test if call takes longer than the bounds of foreign code allow.
func within(t *testing.T, what string, call func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatalf("%s does not return", what)
		return nil
	}
}

// hostileHandler is a slog.Handler of the user.
type hostileHandler struct {
	slog.Handler
	act     func()
	records *atomic.Int64
}

func (h hostileHandler) Enabled(context.Context, slog.Level) bool { h.records.Add(1); return true }
func (h hostileHandler) Handle(context.Context, slog.Record) error {
	h.act()
	return nil
}

func TestLogger_PanicsBlocksOrIsSlow_EnginesDoNotNotice(t *testing.T) {
	ways := hostile(t)
	ways["Slow"] = func() { time.Sleep(10 * time.Millisecond) }
	for name, act := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var records atomic.Int64
			handler := hostileHandler{slog.DiscardHandler, act, &records}
			r := newRig(t, newSystem(), Options{Engine: fake{Noise: 20_000}.engine(), Logger: slog.New(handler)})
			m := modelOf(t, "m", 1<<20)
			r.move(m, tier.Storage, tier.RAM)
			r.get("m", "/health")
			if name == "Slow" || name == "Block" {
				if s := r.Status(); s.DroppedRecords == 0 {
					t.Error("Status says that no record was dropped")
				}
			}
			r.move(m, tier.RAM, tier.Storage)
			if err := within(t, "Close", r.Close); err != nil {
				t.Error(err)
			}
			if records.Load() == 0 {
				t.Error("the handler was never asked")
			}
		})
	}
}

// An engine that floods its output takes little of our time, and serves, freezes and
// stops as any other.
func TestLogger_EndlessFlood_CostsLittleAndTheEngineServes(t *testing.T) {
	for name, text := range map[string]string{"Lines": "it is so\n", "NoNewline": "it is so, "} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, newSystem(), Options{Engine: fake{Flood: text}.engine(), Logger: slog.New(slog.DiscardHandler)})
			m := modelOf(t, "m", 1<<20)
			cpu := func() time.Duration {
				var u unix.Rusage
				if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
					t.Fatal(err)
				}
				return time.Duration(u.Utime.Nano() + u.Stime.Nano())
			}
			r.move(m, tier.Storage, tier.RAM)
			began, before := time.Now(), cpu()
			for time.Since(began) < time.Second {
				r.get("m", "/health")
				<-time.After(50 * time.Millisecond)
			}
			if used, wall := cpu()-before, time.Since(began); used > wall/2 { // much less without the race detector
				t.Errorf("in %v of the flood we used a processor for %v", wall, used)
			}
			r.move(m, tier.RAM, tier.Swap)
			r.move(m, tier.Swap, tier.RAM)
			r.get("m", "/health")
			r.move(m, tier.RAM, tier.Storage)
		})
	}
}

func TestCrashed_Hostile_NextMoveAndCloseReturn(t *testing.T) {
	ways := hostile(t)
	var mover *Mover
	m := modelOf(t, "m", 1<<20)
	ways["MovesTheModel"] = func() {
		mover.Move(context.Background(), tier.Move{Model: m, To: tier.RAM}, nil)
	}
	ways["Closes"] = func() { mover.Close() }
	for name, act := range ways {
		t.Run(name, func(t *testing.T) {
			called := make(chan struct{}, 1)
			r := newRig(t, newSystem(), Options{Engine: fake{}.engine(), Crashed: func(string, error) { called <- struct{}{}; act() }})
			mover = r.Mover
			r.move(m, tier.Storage, tier.RAM)
			r.kill("m")
			<-called
			err := within(t, "the next move", func() error { return r.try(m, tier.Storage, tier.RAM) })
			switch {
			case name == "Closes" && !errors.Is(err, tier.ErrClosed), name == "MovesTheModel" && err != nil && !errors.Is(err, tier.ErrInUse):
				t.Errorf("the next move returned %v", err)
			case name != "Closes" && name != "MovesTheModel" && err != nil:
				t.Errorf("the next move returned %v", err)
			}
			if err := within(t, "Close", r.Close); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestEngineOf_Hostile_ErrorOfThatMove(t *testing.T) {
	for name, act := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var behaves atomic.Bool
			r := newRig(t, newSystem(), Options{EngineOf: func(*tier.Model) (Engine, error) {
				if !behaves.Load() {
					act()
				}
				return fake{}.engine(), nil
			}})
			m := modelOf(t, "m", 1<<20)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			err := within(t, "the move", func() error { return r.Move(ctx, tier.Move{Model: m, To: tier.RAM}, nil) })
			want := tier.ErrPanic
			if name == "Block" {
				want = context.DeadlineExceeded
			}
			if !errors.Is(err, want) || !strings.Contains(err.Error(), "Options.EngineOf") {
				t.Errorf("the move returned %v", err)
			}
			behaves.Store(true)
			r.move(m, tier.Storage, tier.RAM)
		})
	}
}

// An engine that listens and does not accept, as it loads first, gets no connection once
// its queue is full.
func TestHealth_QueueOfTheEngineIsFull_QueryEndsInTime(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprint("http://127.0.0.1:", name.(*unix.SockaddrInet4).Port)
	const quiet = 50 * time.Millisecond
	for range 5 { // the first ones fill the queue
		err := within(t, "the query", func() error {
			return Request{Method: http.MethodGet, Path: "/health"}.send(t.Context(), url, "m", quiet)
		})
		if err == nil {
			t.Error("it has an answer")
		}
	}
}

// deafSleeper ignores the end of its context.
type deafSleeper struct{ forever, called chan struct{} }

func (s deafSleeper) Sleep(context.Context, string, string) error {
	close(s.called)
	<-s.forever
	return nil
}
func (s deafSleeper) Wake(context.Context, string, string) error { return nil }

func TestSleeper_IgnoresItsContext_CancelledMoveReturns(t *testing.T) {
	sleeper := deafSleeper{make(chan struct{}), make(chan struct{})}
	t.Cleanup(func() { close(sleeper.forever) })
	engine := fake{}.engine()
	engine.Standby, engine.Sleeper = StandbySleep, sleeper
	r := newRig(t, newSystem(), Options{Engine: engine})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-sleeper.called; cancel() }()
	err := within(t, "the move", func() error { return r.Move(ctx, tier.Move{Model: m, From: tier.RAM, To: tier.Swap}, nil) })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the move returned %v", err)
	}
	if s := r.engine("m").State; s != Running {
		t.Errorf("then it is %s", s)
	}
}

func TestGuarded_DoesNotReturn_AbandonedAfterItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		forever := make(chan struct{})
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(cause) })
		began := time.Now()
		err := guarded(ctx, "Options.It", func() error { <-forever; return nil })
		if took := time.Since(began); took != time.Minute+callLimit || !errors.Is(err, cause) {
			t.Errorf("after %v it returned %v", took, err)
		}
		began = time.Now()
		err = guarded(ctx, "Options.It", func() error { time.Sleep(callLimit / 2); return tier.ErrBusy })
		if took := time.Since(began); took != callLimit/2 || !errors.Is(err, tier.ErrBusy) {
			t.Errorf("one that ends a little later: after %v, %v", took, err)
		}
		close(forever)
	})
}
