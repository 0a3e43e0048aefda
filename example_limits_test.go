package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// A limit is changed while models are resident: idle ones leave for it, and one that is in
// use keeps it from being lowered.
func ExampleManager_UpdateLimits() {
	path := exampleWeights() // of 1 MiB
	defer os.RemoveAll(filepath.Dir(path))
	ctx := context.Background()
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "tiny", Path: path}},
		Limits: tier.Limits{RAM: 8 * tier.MiB},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	lease, err := m.Acquire(ctx, modeltier.Request{Model: "tiny"})
	if err != nil {
		log.Fatal(err)
	}
	_, _, err = m.UpdateLimits(ctx, tier.Limits{RAM: tier.MiB / 2})
	fmt.Println("in use:", errors.Is(err, modeltier.ErrLimits))

	lease.Release()
	old, now, err := m.UpdateLimits(ctx, tier.Limits{RAM: tier.MiB / 2}) // the others stay
	if err != nil {
		log.Fatal(err)
	}
	tiny, _ := m.Model("tiny")
	fmt.Println("idle:", old.RAM, "became", now.RAM, "and tiny is in", tiny.Tier)
	// Output:
	// in use: true
	// idle: 8.0 MiB became 512.0 KiB and tiny is in swap
}
