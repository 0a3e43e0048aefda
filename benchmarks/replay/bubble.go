package main

import (
	"os"
	"testing"
	"testing/synctest"
)

// withBubbles calls fn, once, with a function that runs another in a bubble of
// virtual time; fn's result is the program's exit status. Bubbles come with tests
// only, so the program calls itself one.
func withBubbles(fn func(bubble func(name string, inside func(*testing.T))) int) {
	everything := func(string, string) (bool, error) { return true, nil }
	testing.Main(everything, []testing.InternalTest{{Name: "replay", F: func(t *testing.T) {
		os.Exit(fn(func(name string, inside func(*testing.T)) {
			t.Run(name, func(t *testing.T) { synctest.Test(t, inside) })
		}))
	}}}, nil, nil)
}
