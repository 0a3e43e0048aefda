package modeltier_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// Another program needs memory for a while: models give way for it.
func ExampleManager_Reserve() {
	path := exampleWeights() // of 1 MiB
	defer os.RemoveAll(filepath.Dir(path))
	ctx := context.Background()

	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "tiny", Path: path, Capabilities: []string{"chat"}}},
		Limits: tier.Limits{RAM: 8 * tier.MiB},
		Probe: tier.MemoryProbeFunc(func(context.Context) (tier.Memory, error) {
			return tier.Memory{Total: 8 * tier.GiB, Available: 6 * tier.GiB}, nil
		}),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	lease, err := m.Acquire(ctx, modeltier.Request{Model: "tiny"})
	if err != nil {
		log.Fatal(err)
	}
	lease.Release()

	room, err := m.Reserve(ctx, 8*tier.MiB, "a game")
	if err != nil {
		log.Fatal(err)
	}
	tiny, _ := m.Model("tiny")
	fmt.Println("the game has", room.Bytes(), "and tiny is in", tiny.Tier)
	room.Release() // when the game has ended
	<-room.Done()

	lease, err = m.Acquire(ctx, modeltier.Request{Model: "tiny"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("tiny is in", lease.Tier(), "again")
	lease.Release()
	// Output:
	// the game has 8.0 MiB and tiny is in swap
	// tiny is in ram again
}
