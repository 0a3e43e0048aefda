package modeltier_test

import (
	"context"
	"fmt"
	"log"
	"sync"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// farm is a Mover of one's own: it has other machines load models, here with a line of
// text for each call. Where tier.MoverFrom does, it is less code.
type farm struct {
	mu    sync.Mutex // guards ready
	ready map[string]*machine
}

// machine is what serves a model of the farm.
type machine struct{ address string }

// Move implements tier.Mover.
func (f *farm) Move(ctx context.Context, mv tier.Move, progress func(done tier.Bytes)) error {
	if ctx.Err() != nil { // a real one asks again while it waits
		return context.Cause(ctx)
	}
	fmt.Println(mv.Verb(), mv.Model.Name)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ready, mv.Model.Name)
	if mv.To == tier.RAM {
		f.ready[mv.Model.Name] = &machine{"http://" + mv.Model.Labels["machine"]}
	}
	return nil
}

// Instance implements tier.Instancer: a model is served where it is ready.
func (f *farm) Instance(model string) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m, ok := f.ready[model]; ok {
		return m
	}
	return nil
}

// A Mover of one's own moves models as it likes, and says what serves them.
func ExampleMover() {
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "far", Size: tier.GiB, Labels: map[string]string{"machine": "box-7"}}},
		Mover:  &farm{ready: map[string]*machine{}}, Probe: exampleProbe,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	lease, err := m.Acquire(context.Background(), modeltier.Request{Model: "far"})
	if err != nil {
		log.Fatal(err)
	}
	box, _ := modeltier.Instance[*machine](lease)
	fmt.Println(box.address)
	lease.Release()
	_, ok := modeltier.Instance[*machine](lease)
	fmt.Println(ok)
	// Output:
	// load far
	// http://box-7
	// false
}
