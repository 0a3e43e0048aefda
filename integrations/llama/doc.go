// Package llama loads a released build of llama.cpp into this process, without cgo,
// through the binding github.com/hybridgroup/yzma, and serves models with it. It is
// a real engine for tests and first steps: modeltier's tests tier the weights of a
// live one, in this process by tier/mapped and in a child by tier/process.
//
// The three names that matter: [Fetch] gets the libraries with npm and checks them,
// [Open] loads them, and [Library.Load] opens a [Model], which generates and embeds
// in slots as llama-server does. The command in the folder engine serves a model
// over HTTP; examples/server/demo makes models of random weights to do it with.
//
// What it does not promise: speed, or all that llama-server can do. Slots take
// turns, a token each; they do not share a batch. It needs libffi.so.8, without
// which a program that imports it panics at its start, and on Linux glibc 2.34 or
// later. Only linux/amd64 and linux/arm64 have libraries to fetch.
package llama
