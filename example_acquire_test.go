package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// A request by what the model has to be able to do, one that falls back, and one that
// cannot be served. The first two wait for the load, and are told how far it is if that
// takes longer than a tenth of a second.
func ExampleManager_Acquire() {
	path := exampleWeights()
	defer os.RemoveAll(filepath.Dir(path))
	m, err := modeltier.New(modeltier.Config{Models: []tier.Model{
		{Name: "tiny", Path: path, Capabilities: []string{"chat"}},
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, req := range []modeltier.Request{
		{Capabilities: []string{"chat"}, Priority: modeltier.Speed, Progress: func(w tier.Waiting) {
			log.Printf("%s: %v, %v of %v, %v left", w.Model, w.Phase, w.Done, w.Total, w.Left)
		}},
		{Preferred: "large", Fallback: true},
		{Model: "tiny", Capabilities: []string{"vision"}},
	} {
		lease, err := m.Acquire(ctx, req)
		if errors.Is(err, modeltier.ErrNoCapableModel) {
			status, _ := modeltier.HTTPStatus(err)
			fmt.Println(status, err)
			continue
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(lease.Model().Name, "from", lease.Tier()) // and it stays there
		lease.Release()
	}
	// Output:
	// tiny from ram
	// tiny from ram
	// 404 Explicit model 'tiny' lacks vision
}
