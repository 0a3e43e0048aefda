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

// Mapped files and models that another server holds share one account: the remote ones
// take 4 MiB each here, whatever they take there.
func ExampleConfig_movers() {
	path := exampleWeights() // of 1 MiB
	defer os.RemoveAll(filepath.Dir(path))
	ctx := context.Background()

	remote := tier.MoverFunc(func(_ context.Context, mv tier.Move, _ func(tier.Bytes)) error {
		fmt.Println("remote:", mv.Verb(), mv.Model.Name)
		return nil
	})
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{
			{Name: "tiny", Path: path},
			{Name: "large", Size: 4 * tier.MiB, Mover: "remote"},
		},
		Movers: map[string]tier.Mover{"remote": remote}, // and mapped files, for those that name none
		Limits: tier.Limits{RAM: 4 * tier.MiB},
		Probe: tier.MemoryProbeFunc(func(context.Context) (tier.Memory, error) {
			return tier.Memory{Total: 8 * tier.GiB, Available: 6 * tier.GiB}, nil
		}),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	for _, name := range []string{"tiny", "large"} {
		lease, err := m.Acquire(ctx, modeltier.Request{Model: name})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(name, "is in", lease.Tier())
		lease.Release()
	}
	tiny, _ := m.Model("tiny")
	fmt.Println("tiny gave way to", tiny.Tier)

	if _, err := m.HotLoad(ctx, tier.Model{Name: "other", Size: tier.MiB, Mover: "remotes"}); err != nil {
		fmt.Println(err)
	}
	// Output:
	// tiny is in ram
	// remote: load large
	// large is in ram
	// tiny gave way to swap
	// model "other": mover "remotes" must be one of remote
}
