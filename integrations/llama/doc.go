// Package llama loads a released build of llama.cpp into this process, without
// cgo, and generates text with it. It is here to hold modeltier against a real
// engine: its tests tier the weights of a live one, in this process by
// tier/mapped and in a child by tier/process.
//
// The three names that matter: [Fetch] gets the libraries with npm and checks
// them, [Open] loads them, and [Model.Generate] generates, greedily, so that the
// same prompt gives the same tokens. The command in the folder engine serves a model
// over HTTP; examples/server/demo makes models of random weights to do it with.
//
// What it does not promise: to be a binding. It knows a dozen functions of one
// release, on linux/amd64 and linux/arm64 with glibc 2.34 or later; elsewhere Open
// returns an error that says so.
package llama

import "errors"

// ErrClosed: the model was closed. ErrTooLong: a prompt leaves no room in the
// model's context.
var (
	ErrClosed  = errors.New("the model is closed")
	ErrTooLong = errors.New("the prompt is too long")
)

var errElsewhere = errors.New("llama.cpp is loaded on linux/amd64 and linux/arm64 only")
