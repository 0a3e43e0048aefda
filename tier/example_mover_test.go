package tier_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// heapMover keeps weights in this process's heap. It has no optional interface, so
// the Manager moves whole models, serves them from ram only, and takes them to be
// gone as soon as Move has returned.
type heapMover struct {
	mu      sync.Mutex // guards weights
	weights map[string][]byte
}

// Move implements tier.Mover. A model is in the heap or it is not: both memory tiers
// hold all of it.
func (h *heapMover) Move(ctx context.Context, mv tier.Move, progress func(done tier.Bytes)) error {
	switch {
	case mv.To == tier.Storage:
		h.put(mv.Model.Name, nil)
		return nil
	case mv.From != tier.Storage:
		return nil
	}
	const chunk = 1 * tier.MiB
	weights := make([]byte, 0, mv.Model.Size)
	for done := tier.Bytes(0); done < mv.Model.Size; {
		if ctx.Err() != nil { // the model is still where it was
			return context.Cause(ctx)
		}
		n := min(chunk, mv.Model.Size-done)
		weights = append(weights, make([]byte, n)...) // here the weights would be read
		done += n
		if progress != nil {
			progress(done)
		}
	}
	h.put(mv.Model.Name, weights)
	return nil
}

func (h *heapMover) put(model string, weights []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.weights == nil {
		h.weights = make(map[string][]byte)
	}
	h.weights[model] = weights
}

// A Mover has one method. Config.Mover takes it.
func ExampleMover() {
	var mover tier.Mover = &heapMover{}
	model := tier.Model{Name: "tiny", Size: 3 * tier.MiB}
	load := tier.Move{Model: model, From: tier.Storage, To: tier.RAM}
	err := mover.Move(context.Background(), load, func(done tier.Bytes) {
		fmt.Println(done, "of", model.Size)
	})
	fmt.Println(load.Verb(), err)
	// Output:
	// 1.0 MiB of 3.0 MiB
	// 2.0 MiB of 3.0 MiB
	// 3.0 MiB of 3.0 MiB
	// load <nil>
}

func TestExampleMover_KeepsTheContract(t *testing.T) {
	tiertest.TestMover(t, tiertest.MoverOptions{
		New:    func(testing.TB) tier.Mover { return &heapMover{} },
		Models: exampleModels,
	})
}

func exampleModels(testing.TB) []tier.Model {
	return []tier.Model{{Name: "a", Size: 3 * tier.MiB}, {Name: "b", Size: 5*tier.MiB + 7}}
}
