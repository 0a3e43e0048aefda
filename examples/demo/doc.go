// Package demo makes a library of model files to try an inference server with:
// real llamas in a real format, with a tokenizer, and with random weights.
//
// The six models have the names, the capabilities and the home tiers of an 8 GB
// board's library, and a stated fraction of its sizes. [Library.Limits] are those
// of the board in the same fraction, so that what fits there fits here, and what
// has to give way there has to here. The three names that matter: [Library],
// [Library.Make] writes the files that are not there yet, and [Library.Models]
// says what they are. [Llama] is a single model of any shape.
//
// What it does not promise: sense. An engine can run these files, and says words
// that mean nothing.
package demo
