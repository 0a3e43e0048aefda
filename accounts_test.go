package modeltier_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// deviceRig is a Manager with a third account: a device of 4 GiB, on which a model in
// ram takes its size.
func deviceRig(t *testing.T, available *atomic.Int64) *rig {
	t.Helper()
	available.Store(int64(4 * tier.GiB))
	cfg := modeltier.Config{
		Models: []tier.Model{model("a", 3), model("b", 3), model("c", 1), model("huge", 6)}, Mover: &tiertest.Mover{OnlyRAM: true},
		Limits: tier.Limits{RAM: 20 * tier.GiB, Swap: tier.None}, OptimizeEvery: -1, MaxWait: time.Minute,
	}
	cfg.AddAccount("device", 4*tier.GiB, func(m *tier.Model, at tier.Tier) tier.Bytes {
		if at == tier.RAM {
			return m.Size
		}
		return 0
	}, func(context.Context) (tier.Bytes, error) { return tier.Bytes(available.Load()), nil })
	return newRig(t, cfg)
}

func TestAccounts_ThirdOneFull_IdleModelsLeaveForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := deviceRig(t, new(atomic.Int64))
		r.use("c")
		time.Sleep(time.Second)
		r.use("a")
		time.Sleep(time.Second)
		if s := r.Status().Accounts["device"]; s.Used != 4*tier.GiB || s.Limit != 4*tier.GiB || s.Models != 2 || s.Percent != 100 {
			t.Errorf("device: %+v, want 4 GiB of 4 used by 2 models", s)
		}
		r.use("b") // c, used longest ago, is not enough
		time.Sleep(time.Second)
		if s := r.Status(); s.Accounts["device"].Used != 3*tier.GiB || s.RAM.Used != 3*tier.GiB || s.Accounts["device"].Peak > 4*tier.GiB {
			t.Errorf("device: %+v, ram: %v, want 3 GiB in both", s.Accounts["device"], s.RAM.Used)
		}
		r.wantAt("a", tier.Storage)
		r.wantAt("b", tier.RAM)
	})
}

func TestAccounts_ThirdOneLeased_RequestWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := deviceRig(t, new(atomic.Int64))
		l, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"})
		if err != nil {
			t.Fatal(err)
		}
		waits := r.begin("b")
		time.Sleep(2 * time.Second)
		if !waits.waits() {
			t.Fatal("b does not wait for a's lease")
		}
		l.Release()
		waits.served(6500 * time.Millisecond).Release() // two of them behind the lease
	})
}

func TestAccounts_ThirdOneTooSmall_RefusedForGoodByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := deviceRig(t, new(atomic.Int64))
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "huge"})
		if !errors.Is(err, modeltier.ErrTooLarge) || !strings.Contains(err.Error(), "device") {
			t.Errorf("err = %v, want ErrTooLarge that names the device", err)
		}
	})
}

// What others have taken of the device, only a reading shows.
func TestAccounts_ThirdOneTakenByOthers_NothingIsPromisedOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		available := new(atomic.Int64)
		r := deviceRig(t, available)
		available.Store(int64(2 * tier.GiB))
		time.Sleep(2 * time.Second)
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"}); !errors.Is(err, modeltier.ErrNoCapacity) {
			t.Errorf("err = %v, want ErrNoCapacity", err)
		}
		r.use("c")
	})
}
