package modeltier_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// An answer that needs an embedder, a reranker and a chat model at the same time takes
// them in one call: all or none.
func ExampleManager_AcquireAll() {
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{
			{Name: "embed", Size: 1 * tier.GiB, Capabilities: []string{"embeddings"}},
			{Name: "rerank", Size: 1 * tier.GiB, Capabilities: []string{"rerank"}},
			{Name: "chat", Size: 3 * tier.GiB, Capabilities: []string{"chat"}},
			{Name: "vision", Size: 4 * tier.GiB, Capabilities: []string{"vision"}},
		},
		Limits: tier.Limits{RAM: 6 * tier.GiB},
		// The models of this example are made up, as is the machine.
		Mover: &tiertest.Mover{OnlyRAM: true, Time: func(tier.Move) time.Duration { return time.Millisecond }},
		Probe: tiertest.NewProbe(tier.Memory{Total: 16 * tier.GiB, Available: 12 * tier.GiB}),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()

	ctx := context.Background()
	leases, err := m.AcquireAll(ctx,
		modeltier.Request{Capabilities: []string{"embeddings"}},
		modeltier.Request{Model: "rerank"},
		modeltier.Request{Model: "chat"},
	)
	if err != nil {
		log.Fatal(err)
	}
	for _, l := range leases { // in the order of the requests
		fmt.Println(l.Model().Name, "is in", l.Tier())
		l.Release()
	}

	_, err = m.AcquireAll(ctx, modeltier.Request{Model: "chat"}, modeltier.Request{Model: "vision"})
	fmt.Println(err)
	// Output:
	// embed is in ram
	// rerank is in ram
	// chat is in ram
	// Models 'chat' (3.0 GiB) and 'vision' (4.0 GiB) can never be in memory together: they take 7.0 GiB of 6.0 GiB
}
