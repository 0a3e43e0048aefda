// Package llama loads a released build of llama.cpp into this process, without cgo,
// through the binding github.com/hybridgroup/yzma, and serves models with it: in this
// process, as instances of a [Mover], or by a small engine that is a program.
//
// The names that matter: [Fetch] gets the libraries with npm and checks them, [Open]
// loads them, and [NewMover] makes the Mover of a Manager with which the holder of a
// lease has a [Model], which generates and embeds in slots as llama-server does:
//
//	library, err := llama.Open(dir)
//	mover, err := llama.NewMover(llama.MoverOptions{Library: library})
//	m, err := modeltier.New(modeltier.Config{Models: models, Mover: mover})
//	lease, err := m.Acquire(ctx, modeltier.Request{Model: "tiny"})
//	model, ok := modeltier.Instance[*llama.Model](lease)
//	answer, err := model.Generate(ctx, llama.Request{Prompt: tokens, MaxTokens: 64, Slot: llama.AnySlot}, emit)
//
// The package server answers HTTP requests with such models; examples/inprocess is a whole
// program, and engine a command that serves one model, for tests. examples/demo of
// modeltier makes models of random weights to do it with.
//
// What it does not promise: speed, or all that llama-server can do. Slots take
// turns, a token each; they do not share a batch. It needs libffi.so.8, without
// which a program that imports it panics at its start, and on Linux glibc 2.34 or
// later. It does not keep the program from a bad file: one that llama.cpp asserts on, or
// that is truncated while it is mapped, ends the whole process, and a chat template may
// loop without end. Who does not trust the files runs engines with tier/process.
// Only linux/amd64 and linux/arm64 have libraries to fetch.
package llama
