package modeltier_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// translator stands for an engine in this process.
type translator struct{ language string }

func (t *translator) say(text string) string { return t.language + ": " + text }

// loadTranslator would read m.Path here, and free what it has if ctx ends meanwhile.
func loadTranslator(ctx context.Context, m tier.Model, progress func(done tier.Bytes)) (*translator, error) {
	progress(m.Size)
	return &translator{strings.TrimPrefix(m.Name, "to-")}, nil
}

// The holder of a lease calls an engine in this process by its own type.
func ExampleInstance() {
	mover := tier.MoverFrom(tier.Loader[*translator]{
		Load:   loadTranslator,
		Unload: func(context.Context, tier.Model, *translator) error { return nil },
	})
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "to-french", Size: 200 * tier.MiB}, {Name: "to-greek", Size: 300 * tier.MiB}},
		Limits: tier.Limits{RAM: 400 * tier.MiB}, // of one at a time
		Mover:  mover, Probe: exampleProbe,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	for _, model := range []string{"to-french", "to-greek"} {
		lease, err := m.Acquire(context.Background(), modeltier.Request{Model: model})
		if err != nil {
			log.Fatal(err)
		}
		t, ok := modeltier.Instance[*translator](lease)
		if !ok {
			log.Fatal("the model has left by itself")
		}
		fmt.Println(t.say("water"))
		lease.Release() // t is not to be used any more
	}
	// Output:
	// french: water
	// greek: water
}

// exampleProbe stands for a machine with memory to spare, so that an example runs
// everywhere.
var exampleProbe = tier.MemoryProbeFunc(func(context.Context) (tier.Memory, error) {
	return tier.Memory{Total: 8 * tier.GiB, Available: 6 * tier.GiB}, nil
})
