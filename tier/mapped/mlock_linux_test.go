package mapped

import (
	"context"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// needLock returns a system that locks any amount, or pretends to if the process
// may not.
func needLock(t *testing.T) *system {
	t.Helper()
	sys := needPopulate(t)
	if sys.mlockLimit() < 64*tier.MiB {
		sys.mlock, sys.munlock = func([]byte) error { return nil }, func([]byte) error { return nil }
		sys.mlockLimit = func() tier.Bytes { return tier.Unlimited }
	}
	return sys
}

func TestMlock_Limits_AreKeptAndTold(t *testing.T) {
	a, b := model(t, "a", 3*tier.MiB+odd), sharded(t, "b", 1<<20, 1<<20)
	for _, tt := range []struct {
		name   string
		limit  tier.Bytes // of Options
		kernel tier.Bytes // of the process
		most   tier.Bytes // what may be locked in the end
	}{
		{"no limit", 0, tier.Unlimited, a.Size + b.Size},
		{"none wanted", tier.None, tier.Unlimited, 0},
		{"Options.Lock", 4 * tier.MiB, tier.Unlimited, 4 * tier.MiB},
		{"RLIMIT_MEMLOCK", 0, 4 * tier.MiB, 4 * tier.MiB},
		{"not allowed", 0, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sys := needLock(t)
			lock, unlock := sys.mlock, sys.munlock
			var locked tier.Bytes
			sys.mlock = func(b []byte) error {
				if locked+tier.Bytes(len(b)) > tt.kernel {
					return syscall.ENOMEM
				}
				locked += tier.Bytes(len(b))
				return lock(b)
			}
			sys.munlock = func(b []byte) error { return unlock(b) }
			m := newTestMover(t, sys, Options{Lock: tt.limit})
			mustMove(t, m, a, tier.RAM, 0)
			mustMove(t, m, b, tier.RAM, 0)
			s := m.Status()
			if s.Locked > tt.most || s.Locked < tt.most-minMlockStep || s.Locked != locked {
				t.Errorf("Status says %d bytes are locked, %d are, and %d may be", s.Locked, locked, tt.most)
			}
			present, reclaimable := seen(t, m, b)
			if own := modelStatus(t, m, "b").Locked; present-reclaimable != own {
				t.Errorf("%d of %d bytes are reclaimable with %d locked", reclaimable, present, own)
			}
			notes := strings.Join(modelStatus(t, m, "b").Notes, " ")
			if told := strings.Contains(notes, "not locked"); told != (tt.most < a.Size+b.Size) {
				t.Errorf("the notes are %q", notes)
			}
			mustMove(t, m, a, tier.Swap, tier.MiB)
			mustMove(t, m, b, tier.Storage, 0)
			if n := m.Status().Locked; n != 0 {
				t.Errorf("%d bytes are still told as locked", n)
			}
		})
	}
}

// A span that is too large for the limit does not make others fail that fit.
func TestMlock_AnotherSpanIsTooLarge_OneThatFitsIsLocked(t *testing.T) {
	sys := needPopulate(t)
	sys.mlock, sys.munlock = func([]byte) error { return nil }, func([]byte) error { return nil }
	mod := model(t, "m", 2*tier.MiB)
	w, err := openWeights(sys, &mod)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	s := w.shards[0]
	k := &mlockAccount{sys: sys, max: tier.MiB}
	stop, refused := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(refused)
		for {
			select {
			case <-stop:
				return
			default:
				if k.lockSpan(span{s, 0, s.pages()}) {
					t.Error("more than the limit was locked")
					return
				}
			}
		}
	}()
	for range 100_000 {
		p := span{s, 0, 1}
		if !k.lockSpan(p) {
			t.Error("a span that fits was refused")
			break
		}
		k.held.Add(-p.len())
	}
	close(stop)
	<-refused
}

// The account of mlocked bytes matches the kernel's.
func TestMlock_WhatIsLocked_IsWhatTheKernelSays(t *testing.T) {
	sys := needPopulate(t)
	if sys.mlockLimit() < 64*tier.MiB {
		t.Skip("may not lock 64 MiB")
	}
	mod := sharded(t, "m", 3<<20+odd, 1<<20)
	m := newTestMover(t, sys, Options{})
	before := vmLocked(t)
	mustMove(t, m, mod, tier.RAM, 0)
	page := tier.Bytes(os.Getpagesize())
	if got := vmLocked(t) - before; got < mod.Size || got > mod.Size+2*page {
		t.Errorf("the kernel has %d bytes locked, want %d", got, mod.Size)
	}
	mustMove(t, m, mod, tier.Swap, mod.Size)
	if got := vmLocked(t); got != before {
		t.Errorf("%d bytes are still locked", got-before)
	}
}

// take drops pages [from, to) of the model's first shard, as the kernel does.
func take(t *testing.T, m *Mover, name string, from, to int) {
	t.Helper()
	m.mu.Lock()
	s := m.entries[name].weights.shards[0]
	m.mu.Unlock()
	span{s, from, to}.drop(t.Context())
	if n, err := s.present(context.Background(), from, to); err != nil || n != 0 {
		t.Fatalf("%d bytes are left, %v", n, err)
	}
}

func TestRecheck_UnlockedPagesAreTaken_AreReadAgain(t *testing.T) {
	mod := model(t, "m", 4*tier.MiB)
	synctest.Test(t, func(t *testing.T) {
		m := newTestMover(t, needPopulate(t), Options{Lock: tier.None})
		mustMove(t, m, mod, tier.RAM, 0)
		take(t, m, "m", 512, 1024)
		time.Sleep(10*time.Second + 1)
		synctest.Wait()
		if present, _ := seen(t, m, mod); present != mod.Size {
			t.Errorf("%d bytes are present of %d", present, mod.Size)
		}
		if again := modelStatus(t, m, "m").Again; again != 2*tier.MiB {
			t.Errorf("Status says that %d bytes were read again", again)
		}
		must(t, m.Close())
	})
}

func TestRecheck_PagesAreTakenAgainAndAgain_IsDoneLessOften(t *testing.T) {
	mod := model(t, "m", 4*tier.MiB)
	synctest.Test(t, func(t *testing.T) {
		m := newTestMover(t, needPopulate(t), Options{Lock: tier.None, Recheck: time.Second})
		mustMove(t, m, mod, tier.RAM, 0)
		var looks []int // at which second pages were read again
		last := tier.Bytes(0)
		for second := range 70 {
			if len(looks) == 0 || modelStatus(t, m, "m").Again != last {
				last = modelStatus(t, m, "m").Again
				looks = append(looks, second)
				take(t, m, "m", 0, 512)
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		for i := 2; i < len(looks)-1; i++ {
			if gap := looks[i+1] - looks[i]; gap > maxPause || gap < looks[i]-looks[i-1] {
				t.Errorf("pages were read again at seconds %v", looks)
				break
			}
		}
		if len(looks) < 5 || len(looks) > 9 {
			t.Errorf("pages were read again at seconds %v, want ever less often", looks)
		}
		must(t, m.Close())
	})
}

func TestRecheck_EverythingIsLocked_OrElsewhere_NoRechecks(t *testing.T) {
	a, b := model(t, "a", tier.MiB), model(t, "b", tier.MiB)
	synctest.Test(t, func(t *testing.T) {
		m := newTestMover(t, needLock(t), Options{})
		mustMove(t, m, a, tier.RAM, 0)
		mustMove(t, m, b, tier.Swap, 0)
		if m.entries["a"].recheck != nil || m.entries["b"].recheck != nil {
			t.Error("locked pages are rechecked")
		}
		must(t, m.Close())
	})
	synctest.Test(t, func(t *testing.T) {
		m := newTestMover(t, needPopulate(t), Options{Lock: tier.None})
		mustMove(t, m, a, tier.RAM, 0)
		mustMove(t, m, a, tier.Swap, 0)
		if m.entries["a"].recheck.Stop() {
			t.Error("rechecks go on with nothing in ram")
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if present, _ := seen(t, m, a); present != 0 {
			t.Errorf("%d bytes came back to swap", present)
		}
		must(t, m.Close())
	})
}

// A process at rest wakes up once an interval, however many models are in ram.
func TestRecheck_ManyModels_OneWakeUpForAllAndOneAtATime(t *testing.T) {
	models := []tier.Model{model(t, "a", tier.MiB), model(t, "b", tier.MiB), model(t, "c", tier.MiB)}
	synctest.Test(t, func(t *testing.T) {
		sys := needPopulate(t)
		var (
			mu      sync.Mutex
			resting bool
			running int
			wakeUps = make(map[time.Time]int) // rechecks by second
		)
		watched := func(ask func(b, vec []byte) error) func(b, vec []byte) error {
			if ask == nil {
				return nil
			}
			return func(b, vec []byte) error {
				mu.Lock()
				if resting {
					wakeUps[time.Now().Round(0).Truncate(time.Second)]++
					if running++; running > 1 {
						t.Error("two rechecks at once")
					}
				}
				mu.Unlock()
				time.Sleep(time.Millisecond)
				mu.Lock()
				running = max(running-1, 0)
				mu.Unlock()
				return ask(b, vec)
			}
		}
		sys.mincore, sys.pagemap = watched(sys.mincore), watched(sys.pagemap)
		m := newTestMover(t, sys, Options{Lock: tier.None})
		for _, mod := range models {
			mustMove(t, m, mod, tier.RAM, 0)
			time.Sleep(2 * time.Second)
		}
		mu.Lock()
		resting = true
		mu.Unlock()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(wakeUps) != 3 {
			t.Errorf("%d wake-ups in three intervals: %v", len(wakeUps), wakeUps)
		}
		for at, n := range wakeUps {
			if n != len(models) {
				t.Errorf("%d rechecks at %v, want one for each model", n, at)
			}
		}
		resting = false
		must(t, m.Close())
	})
}

// A move preempts a recheck that reads.
func TestRecheck_WhileItReads_GivesWayToAMove(t *testing.T) {
	mod := model(t, "m", 8*tier.MiB)
	var g gate
	m := newTestMover(t, g.install(needPopulate(t)), Options{Lock: tier.None, Recheck: -1})
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case c := <-g.calls:
				close(c.goOn)
			case <-stop:
				return
			}
		}
	}()
	oneWay(m, mod)
	mustMove(t, m, mod, tier.RAM, 0)
	close(stop)
	take(t, m, "m", 0, 2048)
	rechecked := make(chan struct{})
	go func() {
		defer close(rechecked)
		m.recheckModel("m")
	}()
	piece := <-g.calls // it has begun to read
	m.mu.Lock()
	r := m.entries["m"].run
	cancel, called := r.cancel, make(chan struct{})
	off := sync.OnceFunc(func() { close(called) })
	r.cancel = func(err error) { cancel(err); off() }
	m.mu.Unlock()
	moved := make(chan error, 1)
	go func() { moved <- m.Move(context.Background(), tier.Move{Model: mod, To: tier.Storage}, nil) }()
	<-called
	close(piece.goOn) // a further piece would never be released
	must(t, <-moved)
	<-rechecked
	if present, _ := seen(t, m, mod); present != 0 || m.entries["m"].weights != nil {
		t.Errorf("it is mapped, and %v are present", present)
	}
}
