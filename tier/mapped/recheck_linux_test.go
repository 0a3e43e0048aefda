package mapped

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// take takes pages [from, to) of the model's first shard, as the kernel does.
func take(t *testing.T, m *Mover, name string, from, to int) {
	t.Helper()
	m.mu.Lock()
	s := m.entries[name].weights.shards[0]
	m.mu.Unlock()
	s.drop(from, to)
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
			if gap := looks[i+1] - looks[i]; gap > longest || gap < looks[i]-looks[i-1] {
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

func TestRecheck_EverythingIsLocked_OrElsewhere_NobodyLooks(t *testing.T) {
	a, b := model(t, "a", tier.MiB), model(t, "b", tier.MiB)
	synctest.Test(t, func(t *testing.T) {
		m := newTestMover(t, needLock(t), Options{})
		mustMove(t, m, a, tier.RAM, 0)
		mustMove(t, m, b, tier.Swap, 0)
		m.mu.Lock()
		watching := m.watching
		m.mu.Unlock()
		if watching {
			t.Error("somebody looks at what is locked")
		}
		must(t, m.Close())
	})
	synctest.Test(t, func(t *testing.T) {
		m := newTestMover(t, needPopulate(t), Options{Lock: tier.None})
		mustMove(t, m, a, tier.RAM, 0)
		mustMove(t, m, a, tier.Swap, 0)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		m.mu.Lock()
		watching := m.watching
		m.mu.Unlock()
		if watching {
			t.Error("somebody goes on looking when nothing is in ram any more")
		}
		if present, _ := seen(t, m, a); present != 0 {
			t.Errorf("%d bytes came back to swap", present)
		}
		must(t, m.Close())
	})
}

// A recheck that reads does not keep a move waiting.
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
		m.recheck("m")
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
	close(piece.goOn) // no other piece is begun: nobody would let it go on
	must(t, <-moved)
	<-rechecked
	seen(t, m, mod) // drops what the device delivered late
	if n := len(m.Status().Models); n != 0 {
		t.Errorf("%d models are mapped", n)
	}
}
