package main

import (
	"errors"
	"io"

	"golang.org/x/sync/semaphore"
)

// maxPrompt bounds a body: a long context, or a few pictures.
const maxPrompt = 32 << 20

// maxPrompts bounds what is held of all bodies at once. A body is kept until its
// answer has ended, so without it a queue of long ones would be memory that stands
// in no account.
const maxPrompts = 256 << 20

// errPrompts is what reading a body ends with where the others leave it no room.
var errPrompts = errors.New("the bodies of the requests in progress are too large together")

// charged reads a body, and charges what it has read to the room of all of them
// until it is released. What is only announced costs nothing.
type charged struct {
	from io.Reader
	room *semaphore.Weighted
	held int64
}

// Read implements io.Reader.
func (c *charged) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	if !c.room.TryAcquire(int64(n)) {
		return 0, errPrompts
	}
	c.held += int64(n)
	return n, err
}

func (c *charged) release() {
	c.room.Release(c.held)
	c.held = 0
}
