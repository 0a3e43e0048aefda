// Command server is the front end of an inference server that owns more models
// than its memory holds: it answers which model, makes it ready, and moves
// weights, over HTTP. It does not infer itself; alone, the digest of a model
// stands for that, as work that reads every byte of the weights.
//
// Alone, it makes a demo library in the user's cache folder and serves that:
//
//	go run ./examples/server
//
// With -models it serves a folder of GGUF and safetensors files. With -config it
// is the front end of engines that are programs, such as llama-server: it answers
// OpenAI's completions, chat completions and embeddings, streams included, starts
// and freezes engines as memory allows, and picks a model for "model": "auto":
//
//	go run ./examples/server -config examples/server/config.example.json
//
// It listens on the loopback interface; on any other it wants a token from its
// clients, and does not start without one.
//
// To read the code, begin with main.go. For a server of your own take handler.go
// or proxy.go, and stop.go; the rest is flags and demo.
package main
