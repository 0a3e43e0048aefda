package tier_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// net stands for an engine in this process: it has its weights, and memory to work in.
type net struct{ weights, scratch []byte }

// loadNet reads in pieces. It ends with its context, and tells how far it is.
func loadNet(ctx context.Context, m tier.Model, progress func(done tier.Bytes)) (*net, error) {
	n := &net{scratch: make([]byte, 64*tier.KiB)}
	for done := tier.Bytes(0); done < m.Size; progress(done) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		piece := min(tier.MiB, m.Size-done)
		n.weights = append(n.weights, make([]byte, piece)...) // here the weights would be read
		done += piece
	}
	return n, nil
}

// netLoader is all that makes a Mover of it.
var netLoader = tier.Loader[*net]{
	Load:   loadNet,
	Unload: func(_ context.Context, _ tier.Model, n *net) error { *n = net{}; return nil },
	Size:   func(_ tier.Model, n *net) tier.Bytes { return tier.Bytes(len(n.weights) + len(n.scratch)) },
}

// An engine in this process is a Mover as soon as it has functions that load and unload.
func ExampleMoverFrom() {
	ctx, mover := context.Background(), tier.MoverFrom(netLoader)
	model := tier.Model{Name: "tiny", Size: 3 * tier.MiB}
	load := tier.Move{Model: model, From: tier.Storage, To: tier.RAM}
	err := mover.Move(ctx, load, func(done tier.Bytes) { fmt.Println(done) })
	now, _, _ := mover.(tier.Footprinter).Footprint("tiny")
	fmt.Println(err, now, len(mover.(tier.Instancer).Instance("tiny").(*net).weights))
	// Output:
	// 1.0 MiB
	// 2.0 MiB
	// 3.0 MiB
	// <nil> 3.1 MiB 3145728
}

func TestExampleMoverFrom_KeepsTheContract(t *testing.T) {
	tiertest.TestMover(t, tiertest.MoverOptions{
		New:    func(testing.TB) tier.Mover { return tier.MoverFrom(netLoader) },
		Models: exampleModels,
	})
}
