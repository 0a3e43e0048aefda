// Command embed is the shortest program that embeds a Manager: it makes one model
// ready, uses its weights and lets it go.
//
//	go run ./examples/embed [FILE]
//
// FILE is any file of weights. Without one, the program makes a file of noise and
// removes it again.
package main

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
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
	// A library of one model. Config.Limits says how much memory models may take; the
	// defaults suit a board with 8 GiB.
	manager, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "mine", Path: path, Capabilities: []string{"text-generation"}}},
	})
	if err != nil {
		return err
	}
	defer manager.Close()

	// Ask for capabilities, and get a lease on a model that has them. The model is in
	// storage: Acquire loads it and returns when it is ready. Other requests for it
	// would share the load.
	lease, err := manager.Acquire(ctx, modeltier.Request{Capabilities: []string{"text-generation"}})
	if err != nil {
		return err
	}
	// As long as the lease is held, the model stays where it is.
	defer lease.Release()

	// What serves the model is what its Mover made of it: by default, mapped files.
	weights, ok := modeltier.Instance[*mapped.Weights](lease)
	if !ok {
		return errors.New("the model has left by itself")
	}
	// An engine would run here. Each slice is one mapped file of the model: read-only,
	// and not to be used after the release.
	files, err := weights.Bytes()
	if err != nil {
		return err
	}
	for _, file := range files {
		fmt.Fprintf(out, "%s: %v of weights, checksum %08x, served from %v after %v\n", lease.Model().Name,
			tier.Bytes(len(file)), crc32.ChecksumIEEE(file), lease.Tier(), lease.Waited())
	}
	return nil
}

// weightFile returns the file named in args, or one that it makes and that remove
// deletes.
func weightFile(args []string) (path string, remove func(), err error) {
	switch {
	case len(args) > 1:
		return "", nil, fmt.Errorf("want one file at most, got %q", args)
	case len(args) == 1:
		return args[0], func() {}, nil
	}
	f, err := os.CreateTemp("", "weights-*.bin")
	if err != nil {
		return "", nil, err
	}
	remove = func() { os.Remove(f.Name()) }
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), 64*int64(tier.MiB))
	if err := errors.Join(err, f.Close()); err != nil {
		remove()
		return "", nil, err
	}
	return f.Name(), remove, nil
}
