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

func Example() {
	path := exampleWeights()
	defer os.RemoveAll(filepath.Dir(path))
	ctx := context.Background()

	m, err := modeltier.New(modeltier.Config{Models: []tier.Model{
		{Name: "tiny", Path: path, Capabilities: []string{"chat"}},
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	lease, err := m.Acquire(ctx, modeltier.Request{Capabilities: []string{"chat"}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(lease.Model().Name, "from", lease.Tier())
	lease.Release()
	// Output: tiny from ram
}

// exampleWeights writes a file of weights.
func exampleWeights() string {
	dir, err := os.MkdirTemp("", "modeltier")
	if err != nil {
		log.Fatal(err)
	}
	path := filepath.Join(dir, "tiny.gguf")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		log.Fatal(err)
	}
	return path
}
