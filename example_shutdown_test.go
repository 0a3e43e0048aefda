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

// A server ends in order: what is in use may end within some time, and then it ends at once.
func ExampleManager_Shutdown() {
	path := exampleWeights()
	defer os.RemoveAll(filepath.Dir(path))
	m, err := modeltier.New(modeltier.Config{Models: []tier.Model{{Name: "tiny", Path: path}}})
	if err != nil {
		log.Fatal(err)
	}
	lease, err := m.Acquire(context.Background(), modeltier.Request{Model: "tiny"})
	if err != nil {
		log.Fatal(err)
	}

	soft, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	err = m.Shutdown(soft)
	fmt.Println("a lease is held:", errors.Is(err, context.DeadlineExceeded))
	_, err = m.Acquire(context.Background(), modeltier.Request{Model: "tiny"})
	fmt.Println("nothing is taken on:", errors.Is(err, modeltier.ErrClosed))

	lease.Release()
	if err := m.Shutdown(context.Background()); err != nil {
		_ = m.Close() // at once, whatever is held
		log.Fatal(err)
	}
	fmt.Println("nothing of it is left")
	// Output:
	// a lease is held: true
	// nothing is taken on: true
	// nothing of it is left
}
