package mapped

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// needLock returns a system that locks any amount, for real or, where the
// process may not, in name.
func needLock(t *testing.T) *system {
	t.Helper()
	sys := needPopulate(t)
	if sys.lockLimit() < 64*tier.MiB {
		sys.lock, sys.unlock = func([]byte) error { return nil }, func([]byte) error { return nil }
		sys.lockLimit = func() tier.Bytes { return tier.Unlimited }
	}
	return sys
}

func TestPin_Limits_AreKeptAndTold(t *testing.T) {
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
			lock, unlock := sys.lock, sys.unlock
			var locked tier.Bytes
			sys.lock = func(b []byte) error {
				if locked+tier.Bytes(len(b)) > tt.kernel {
					return syscall.ENOMEM
				}
				locked += tier.Bytes(len(b))
				return lock(b)
			}
			sys.unlock = func(b []byte) error { return unlock(b) }
			m := newTestMover(t, sys, Options{Lock: tt.limit})
			mustMove(t, m, a, tier.RAM, 0)
			mustMove(t, m, b, tier.RAM, 0)
			s := m.Status()
			if s.Locked > tt.most || s.Locked < tt.most-pinnedLeast || s.Locked != locked {
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

// The kernel agrees with the account.
func TestPin_WhatIsLocked_IsWhatTheKernelSays(t *testing.T) {
	sys := needPopulate(t)
	if sys.lockLimit() < 64*tier.MiB {
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
