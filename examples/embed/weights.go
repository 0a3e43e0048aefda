package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"github.com/modeltier/modeltier/tier"
)

// weightFile returns the file that was named, or one that it makes and that
// remove takes away again.
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
