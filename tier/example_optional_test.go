package tier_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// arenaMover stands for an engine that keeps weights in an arena of its own and can
// give parts of it back. What it can do beyond Move it offers through optional
// interfaces; those that it leaves out are answered with no.
type arenaMover struct {
	mu      sync.Mutex // guards present
	present map[string]tier.Bytes
}

// The compiler checks the methods against the interfaces that are meant.
var _ interface {
	tier.Mover
	tier.Divider
	tier.InPlacer
	tier.Resident
	tier.ModelChecker
	tier.PartStatuser
	tier.Closer
} = (*arenaMover)(nil)

// Move implements tier.Mover. As the mover is a Divider, a move to swap leaves
// mv.Keep bytes present.
func (a *arenaMover) Move(ctx context.Context, mv tier.Move, progress func(done tier.Bytes)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := a.CheckModel(&mv.Model); err != nil {
		return err
	}
	present := map[tier.Tier]tier.Bytes{tier.Swap: mv.Keep, tier.RAM: mv.Model.Size}[mv.To]
	a.mu.Lock()
	defer a.mu.Unlock()
	a.present[mv.Model.Name] = present
	if progress != nil {
		progress(mv.Model.Size)
	}
	return nil
}

// Divisible implements tier.Divider: plans may keep a part of a model present.
func (a *arenaMover) Divisible(*tier.Model) bool { return true }

// InPlace implements tier.InPlacer: the engine answers from swap, slowly.
func (a *arenaMover) InPlace(*tier.Model) bool { return true }

// Resident implements tier.Resident: freed bytes are credited when the arena no
// longer has them. The system counts none of them as available.
func (a *arenaMover) Resident(_ context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.present[model], 0, nil
}

// CheckModel implements tier.ModelChecker: a model that cannot work is refused when
// it is added, not when it is first asked for.
func (a *arenaMover) CheckModel(m *tier.Model) error {
	if m.Size > 4*tier.GiB {
		return &tier.InvalidError{Model: m.Name, Field: "size", Value: m.Size.String(), Rule: "must fit the arena of 4.0 GiB"}
	}
	return nil
}

// PartStatus implements tier.PartStatuser. It returns a copy.
func (a *arenaMover) PartStatus() any {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.present)
}

// Close implements tier.Closer.
func (a *arenaMover) Close() error { return nil }

// A Mover can do more than move: the Manager finds what by type assertion.
func ExampleMover_optionalInterfaces() {
	mover := &arenaMover{present: map[string]tier.Bytes{}}
	model := tier.Model{Name: "small", Size: 3 * tier.GiB}
	ctx := context.Background()

	demote := tier.Move{Model: model, From: tier.RAM, To: tier.Swap, Keep: 1 * tier.GiB}
	fmt.Println(demote.Verb(), mover.Move(ctx, demote, nil))
	present, _, _ := mover.Resident(ctx, "small")
	fmt.Println(present, "stay present")
	fmt.Println(mover.CheckModel(&tier.Model{Name: "large", Size: 7 * tier.GiB}))
	_, ok := any(mover).(tier.FileBacker)
	fmt.Println("backed by files:", ok)
	// Output:
	// demote <nil>
	// 1.0 GiB stay present
	// model "large": size 7.0 GiB must fit the arena of 4.0 GiB
	// backed by files: false
}

func TestExampleMover_OptionalInterfaces_KeepTheirContracts(t *testing.T) {
	tiertest.TestMover(t, tiertest.MoverOptions{
		New:    func(testing.TB) tier.Mover { return &arenaMover{present: map[string]tier.Bytes{}} },
		Models: exampleModels,
		Bad: func(testing.TB) []tier.Model {
			return []tier.Model{{Name: "large", Size: 5 * tier.GiB}}
		},
	})
}
