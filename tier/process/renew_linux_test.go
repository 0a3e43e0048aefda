package process

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// renewed waits until the owner was told of a crash, and returns it.
func (r *rig) renewed() *EngineError {
	r.t.Helper()
	select {
	case <-r.crashed:
	case <-time.After(patience):
		r.t.Fatal("no crash was reported")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := errors.AsType[*EngineError](r.crashes[len(r.crashes)-1])
	if !ok {
		r.t.Fatal(r.crashes)
	}
	return e
}

func TestRenew_EngineStopsToAnswer_EndedWithTheReasonAndStartsAgain(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(e *Engine)
		uses bool
	}{
		"Idle":       {func(e *Engine) { e.IdleCheck = minLimit }, false},
		"UnderLease": {func(e *Engine) { e.SilenceLimit = minLimit }, true},
	} {
		t.Run(name, func(t *testing.T) {
			engine := fake{Child: true}.engine()
			c.set(&engine)
			r := newRig(t, newSystem(), Options{Engine: engine})
			m := modelOf(t, "m", 1<<20)
			r.move(m, tier.Storage, tier.RAM)
			if c.uses {
				u, ok := r.Use("m")
				if !ok {
					t.Fatal("it cannot be used")
				}
				defer u.End()
			}
			pid := r.engine("m").Pid
			unix.Kill(pid, unix.SIGSTOP)
			if e := r.renewed(); e.Fault != Silent || e.Err == nil || len(e.Suggestions()) == 0 {
				t.Errorf("the owner was told %v", e)
			}
			if pids := carrying(r.token); len(pids) > 0 {
				t.Errorf("when its owner was told, processes were left: %v", pids)
			}
			if _, ok := r.URL("m"); ok {
				t.Error("an engine that was ended has a URL")
			}
			if e := r.engine("m"); e.Renewals != 1 || e.Renewed == "" || e.Failure == "" {
				t.Errorf("Status says %+v", e)
			}
			r.move(m, tier.Storage, tier.RAM)
			if e := r.engine("m"); e.State != Running || e.Pid == pid || e.Renewals != 1 || e.Renewed == "" {
				t.Errorf("then Status says %+v", e)
			}
			r.get("m", "/health")
		})
	}
}

func TestRenew_VerdictThatHoldsNoMore_EngineGoesOn(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine()})
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	c, _ := r.engineOf("m")
	s := r.slots["m"]
	slow := &verdict{Slow, true, errors.New("slow")}
	u, _ := r.Use("m")
	if r.renew(s, c, slow) {
		t.Error("it was renewed in use")
	}
	u.End()
	if r.renew(s, c, &verdict{Silent, false, errors.New("silent")}) {
		t.Error("it was renewed for its silence to requests that have left")
	}
	_, claimed, err := r.claim(t.Context(), &m)
	if err != nil {
		t.Fatal(err)
	}
	if r.renew(s, c, slow) {
		t.Error("it was renewed during a move")
	}
	r.release(claimed)
	if !r.renew(s, c, slow) {
		t.Fatal("it was not renewed when it may be")
	}
	if e := r.renewed(); e.Fault != Slow {
		t.Error(e)
	}
	r.move(m, tier.Storage, tier.RAM)
	if c, _ = r.engineOf("m"); r.renew(s, c, slow) {
		t.Error("it is slow again within the hour, and was renewed again")
	}
	r.get("m", "/health")
}

func TestRenew_SlowEngine_ItsConversationsSurvive(t *testing.T) {
	m := modelOf(t, "m", 1<<20)
	r := talking(t, t.TempDir(), talker(fake{}), m)
	c, _ := r.engineOf("m")
	if !r.renew(r.slots["m"], c, &verdict{Slow, true, errors.New("slow")}) {
		t.Fatal("it was not renewed")
	}
	r.renewed()
	r.move(m, tier.Storage, tier.RAM)
	r.wantTalk(m, "m|hello", "m|there")
}

// The engine that is ended cannot be ended: its owner is told at once, and once.
func TestRenew_EngineCannotBeKilled_OwnerIsToldOnce(t *testing.T) {
	sys := withoutCgroups()
	kill, held := sys.kill, true
	r := newRig(t, sys, Options{Engine: fake{}.engine()})
	sys.kill = func(pid int, others []int) error {
		r.Mover.mu.Lock()
		defer r.Mover.mu.Unlock()
		if held {
			return nil
		}
		return kill(pid, others)
	}
	r.killLimit = 50 * time.Millisecond
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	c, _ := r.engineOf("m")
	r.renew(r.slots["m"], c, &verdict{Silent, true, errors.New("silent")})
	r.renewed()
	r.mu.Lock()
	if err := r.crashes[0]; !errors.Is(err, tier.ErrStuck) {
		t.Errorf("the owner was told %v", err)
	}
	r.mu.Unlock()
	if err := r.try(m, tier.Storage, tier.RAM); !errors.Is(err, tier.ErrStuck) {
		t.Errorf("the next move returned %v", err)
	}
	r.Mover.mu.Lock()
	held = false
	r.Mover.mu.Unlock()
	c.killAll()
	<-c.done
	r.killLimit = killLimit
	r.move(m, tier.Storage, tier.RAM)
	if len(r.crashed) > 0 {
		t.Error("the owner was told twice")
	}
}

func TestEffort_OwnProcess_GrowsWithWork(t *testing.T) {
	p, own := proc("/proc"), []int{os.Getpid()}
	before, err := p.effort(own)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "its work is seen", func() bool {
		for range 1_000_000 {
			_ = os.Getpid()
		}
		after, err := p.effort(own)
		return err == nil && after.cpu >= before.cpu+50*time.Millisecond
	})
	if e, err := p.effort([]int{1 << 30}); err != nil || *e != (effort{}) {
		t.Errorf("of none: %+v, %v", e, err)
	}
}
