// Command embed is the shortest program that embeds a Manager: it makes one model
// ready, uses its weights and lets it go.
//
//	go run ./examples/embed [FILE]
//
// FILE is any file of weights. Without one, the program makes a file of noise for
// the occasion.
package main

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/mapped"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "embed:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	path, remove, err := weightFile(args)
	if err != nil {
		return err
	}
	defer remove()
	return embed(context.Background(), path, out)
}

func embed(ctx context.Context, path string, out io.Writer) error {
	// The mover is what moves the bytes and later hands them out. Left to itself, the
	// Manager makes one like this.
	weights, err := mapped.New(mapped.Options{})
	if err != nil {
		return err
	}
	// A library of one model. How much memory it may take is in Config.Limits; the
	// defaults are those of an 8 GB board.
	manager, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "mine", Path: path, Capabilities: []string{"text-generation"}}},
		Mover:  weights,
	})
	if err != nil {
		return err
	}
	defer manager.Close()

	// Ask for what you need, and get a lease on a model that can do it. The model was
	// in storage; Acquire returns when it is ready, and other requests for it in the
	// meantime would have shared the load.
	lease, err := manager.Acquire(ctx, modeltier.Request{Capabilities: []string{"text-generation"}})
	if err != nil {
		return err
	}
	// While the lease is held, the model stays where it is. Afterwards it may go.
	defer lease.Release()

	// Here an engine would infer. The slices are the file itself, mapped: one for
	// each file of the model, read-only, and not to be touched after the release.
	files, err := weights.Bytes(lease.Model().Name)
	if err != nil {
		return err
	}
	for _, file := range files {
		fmt.Fprintf(out, "%s: %v of weights, checksum %08x, served from %v after %v\n", lease.Model().Name,
			tier.Bytes(len(file)), crc32.ChecksumIEEE(file), lease.Tier(), lease.Waited())
	}
	return nil
}
