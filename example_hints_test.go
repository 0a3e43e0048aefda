package modeltier_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
)

// What a program knows that the Manager cannot learn: what comes next, and the week of
// the owner. Forecast tells what is made of it.
func ExampleManager_Hint() {
	path := exampleWeights()
	defer os.RemoveAll(filepath.Dir(path))
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "chat", Path: path}, {Name: "eyes", Path: path, Capabilities: []string{"vision"}}},
		Schedules: []optimizer.Schedule{{
			Hours: optimizer.Hours{
				Days: []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday},
				From: 8 * time.Hour, To: 18 * time.Hour, // by the clock on the wall
			},
			Capability: "vision", Certainty: 0.9,
		}},
		Quiet: []optimizer.Hours{{From: 22 * time.Hour, To: 6 * time.Hour}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()

	// A page was opened from which one in two users goes on to chat.
	if err := m.Hint("chat", 0.5, time.Minute); err != nil {
		log.Fatal(err)
	}
	f, err := m.Forecast(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	chat := f.Models[0]
	fmt.Printf("%s: %.2f requests are expected within %v, as hints are trusted by half at first\n", chat.Name, chat.Requests, f.Within)
	// Output:
	// chat: 0.25 requests are expected within 1h0m0s, as hints are trusted by half at first
}
