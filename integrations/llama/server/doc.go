// Package server answers HTTP requests with models of llama.cpp that live in this
// process, in the shapes of OpenAI and of llama-server.
//
// The three names that matter: [Handler] makes an http.Handler of a [Config], whose
// Acquire returns the [Use] of the model that a request names: of one that was loaded at
// the start, as the command engine does, or by a lease of a Manager, as
// examples/inprocess does.
//
// What it does not promise: all that llama-server can do. It has completions, chat by the
// template in the model's file, embeddings, streams, /tokenize, /health, /v1/models, and
// /slots with saving and restoring. An answer is greedy unless its request has a
// temperature.
package server
