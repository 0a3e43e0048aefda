package hotload

import (
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

// TestStore_PowerCutAtEveryStep_NothingAcknowledgedIsLost cuts the power at each
// step of a life of three saves, with many fates of what was not flushed.
func TestStore_PowerCutAtEveryStep_NothingAcknowledgedIsLost(t *testing.T) {
	const saves, fates = 3, 40
	last := 0
	for at := 1; ; at++ {
		reached := false
		for seed := range uint64(fates) {
			d := newFakeDisk(seed)
			acked, tried := uint64(0), uint64(0)
			d.crashAt = at
			cut := live(d, func(s *Store) {
				for n := uint64(1); n <= saves; n++ {
					tried = n
					if save(s, n) == nil {
						acked = n
					}
				}
			})
			reached = reached || cut
			d.reboot()
			_, st, warnings, err := openStore("/state", d)
			if err != nil || len(warnings) > 0 {
				t.Fatalf("cut at step %d, fate %d: error %v, warnings %v\n%s", at, seed, err, warnings, strings.Join(d.trace, "\n"))
			}
			if n := number(t, st); n < acked || n > tried {
				t.Fatalf("cut at step %d, fate %d: %d was read, %d acknowledged, %d tried\n%s", at, seed, n, acked, tried, strings.Join(d.trace, "\n"))
			}
		}
		if !reached {
			last = at - 1
			break
		}
	}
	if last < 3*6 {
		t.Errorf("only %d steps: does the store flush at all?", last)
	}
}

// live runs a process on the disk, and reports whether the power was cut.
func live(d *fakeDisk, work func(*Store)) (cut bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(powerCut); !ok {
				panic(r)
			}
			d.mu.TryLock() // a step panics with the lock held
			d.mu.Unlock()
			cut = true
		}
	}()
	s, _, _, err := openStore("/state", d)
	if err == nil {
		work(s)
	}
	return false
}

// TestStore_FaultsAndPowerCuts_NothingAcknowledgedIsLost mixes saves, errors of
// the disk and power cuts.
func TestStore_FaultsAndPowerCuts_NothingAcknowledgedIsLost(t *testing.T) {
	steps := []string{"lock", "mkdir", "stat", "open", "create", "write", "sync", "close", "rename", "remove", "syncdir"}
	rapid.Check(t, func(t *rapid.T) {
		d := newFakeDisk(rapid.Uint64().Draw(t, "fate"))
		var acked, tried uint64
		for range rapid.IntRange(1, 4).Draw(t, "lives") {
			d.steps, d.trace = 0, nil
			d.crashAt = rapid.IntRange(0, 60).Draw(t, "crash at")
			live(d, func(s *Store) {
				for range rapid.IntRange(0, 5).Draw(t, "saves") {
					faulty := rapid.SampledFrom(append(steps, "", "", "")).Draw(t, "fault")
					d.fail = func(step, _ string) error {
						if step == faulty {
							return syscall.ENOSPC
						}
						return nil
					}
					tried++
					if err := save(s, tried); err == nil {
						acked = tried
					} else if faulty == "" {
						t.Fatalf("save %d without a fault: %v", tried, err)
					}
				}
			})
			d.reboot()
			s, st, warnings, err := openStore("/state", d)
			if err != nil || len(warnings) > 0 {
				t.Fatalf("error %v, warnings %v", err, warnings)
			}
			n := number(t, st)
			if n < acked || n > tried {
				t.Fatalf("%d was read, %d acknowledged, %d tried\n%s", n, acked, tried, strings.Join(d.trace, "\n"))
			}
			acked = n
			s.Close()
		}
	})
}
