package modeltier_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// A model is added while the Manager runs, and its load is watched.
func ExampleManager_HotLoad() {
	dir, err := os.MkdirTemp("", "modeltier")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "tiny.bin")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	m, err := modeltier.New(modeltier.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()

	job, err := m.HotLoad(ctx, tier.Model{Name: "tiny", Path: path, Home: tier.RAM})
	if err != nil {
		log.Fatal(err)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-tick.C:
			p := job.Progress()
			log.Printf("%v: %v of %v, %v left", job.Phase(), p.Done, p.Total, job.Left())
		case <-job.Done():
			running = false
		}
	}
	if err := job.Err(); err != nil {
		log.Fatal(err)
	}
	tiny, _ := m.Model("tiny")
	fmt.Println(tiny.Name, "is in", tiny.Tier)
	// Output: tiny is in ram
}
