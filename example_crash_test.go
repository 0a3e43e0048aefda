package modeltier_test

import (
	"context"
	"fmt"
	"log"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/process"
)

// Engines that are programs are there before the Manager, and tell it of their crashes.
// Who holds a lease meanwhile asks for another.
func ExampleManager_ReportCrash() {
	var m *modeltier.Manager
	made := make(chan struct{}) // closed when m is set
	engines, err := process.New(process.Options{
		Engine: process.Engine{Command: []string{"llama-server", "-m", "{path}", "--port", "{port}"}},
		Crashed: func(model string, err error) {
			<-made // New may have loads begin before it returns
			if m != nil {
				_ = m.ReportCrash(model, err) // it fails if m is closed, or no longer knows the model
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	m, err = modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "chat", Path: "models/chat.gguf"}},
		Mover:  engines, // which Close of m closes, too
	})
	close(made)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()

	for range 2 { // the second time if the engine crashed
		lease, err := m.Acquire(context.Background(), modeltier.Request{Model: "chat"})
		if err != nil {
			log.Fatal(err)
		}
		if engine, ok := modeltier.Instance[*process.Instance](lease); ok {
			if url, ok := engine.URL(); ok { // false as soon as it has exited
				fmt.Println("POST", url+"/v1/chat/completions")
				lease.Release()
				return
			}
		}
		<-lease.Done() // the Manager knows it now, and the next Acquire starts another
		lease.Release()
	}
}
