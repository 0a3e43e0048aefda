// Command server is the front end of an inference server that owns more models
// than its memory holds: it answers which model, makes it ready, and moves
// weights, over HTTP. What it does not do is infer; the digest of a model stands
// for that, as work that reads every byte of the weights.
//
// Alone, it makes a demo library in the user's cache folder and serves that:
//
//	go run ./examples/server
//
// With -models it serves a folder of GGUF and safetensors files. It listens on
// the loopback interface; on any other it wants a token from its clients, and
// does not start without one.
//
// To read the code, begin with main.go. For a server of your own take handler.go
// and stop.go; the rest is flags and demo.
package main
