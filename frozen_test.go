package modeltier_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// frozenMover has models that keep memory of their own while they are in swap, as
// frozen engines do.
type frozenMover struct {
	*tiertest.Mover
	own tier.Bytes
}

func (f frozenMover) Resident(_ context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	switch f.At(model) {
	case tier.RAM:
		return 300 * tier.MiB, 0, nil
	case tier.Swap:
		return f.own, 0, nil
	}
	return 0, 0, nil
}

func TestAcquire_FrozenEnginesKeepMemory_RoomIsMadeAllTheSame(t *testing.T) {
	for _, own := range []tier.Bytes{14 * tier.MiB, 57 * tier.MiB, 150 * tier.MiB} { // of the last, not all fit at once
		synctest.Test(t, func(t *testing.T) {
			fake := &tiertest.Mover{OnlyRAM: true}
			var models []tier.Model
			for i := range 20 {
				models = append(models, tier.Model{Name: fmt.Sprint("m", i), Size: 300 * tier.MiB, Runtime: 64 * tier.MiB})
			}
			r := newRig(t, modeltier.Config{
				Models: models, Mover: frozenMover{fake, own},
				Limits: tier.Limits{RAM: 2_000_000_000, Swap: 32 * tier.GiB, Reserved: tier.MiB},
			})
			r.mover = fake
			dice := rand.New(rand.NewPCG(1, 2))
			zipf := rand.NewZipf(dice, 1.1, 1, 19)
			for range 300 {
				r.use(fmt.Sprint("m", zipf.Uint64()))
				time.Sleep(time.Duration(dice.IntN(3000)) * time.Millisecond)
			}
			for _, mv := range fake.Moves() {
				if mv.From == tier.Swap && mv.To == tier.Swap {
					t.Fatalf("%s moves within swap, which gives nothing back", mv.Model.Name)
				}
			}
		})
	}
}
