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

// What happens is told as it happens, with what is needed to act on it.
func ExampleEvents() {
	path := exampleWeights() // of 1 MiB
	defer os.RemoveAll(filepath.Dir(path))
	ctx := context.Background()
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "first", Path: path}, {Name: "second", Path: path}},
		Limits: tier.Limits{RAM: tier.MiB + tier.MiB/2},
		Events: modeltier.Events{
			MoveEnded: func(ev modeltier.MoveEvent) {
				fmt.Println(ev.Model, "went from", ev.From, "to", ev.To, "for", ev.Reason)
			},
			Evicted: func(ev modeltier.EvictEvent) {
				fmt.Println(ev.Model, "gives way for", ev.For)
			},
			Refused: func(ev modeltier.RefuseEvent) {
				fmt.Println(ev.Code, ev.Request.Model, ev.Suggestions)
			},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range []string{"first", "second", "secnd"} {
		lease, err := m.Acquire(ctx, modeltier.Request{Model: name})
		if err == nil {
			lease.Release()
		}
	}
	m.Close() // the events that are queued are delivered
	// Output:
	// first went from storage to ram for demand
	// first gives way for second
	// first went from ram to swap for room
	// second went from storage to ram for demand
	// not_found secnd [Did you mean second?]
}
