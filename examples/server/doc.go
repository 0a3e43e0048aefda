// Command server is the front end of an inference server that owns more models
// than its memory holds: it answers which model, makes it ready, and moves
// weights, over HTTP. It does not infer itself; alone, the digest of a model
// stands for that, as work that reads every byte of the weights.
//
// Alone, it makes a demo library in the user's cache folder and serves that:
//
//	go run ./examples/server
//
// With -models it serves a folder of GGUF and safetensors files. With -engine it is
// the front end of engines that are programs, such as llama-server: it answers
// OpenAI's completions, chat completions and embeddings, streams included, starts
// and freezes engines as memory allows, and picks a model for "model": "auto". One
// over llama.cpp it makes itself:
//
//	go run ./examples/server -engine llamacpp
//	go run ./examples/server -models FOLDER -engine 'llama-server -m {path} --mmproj {mmproj} --port {port}'
//
// With -config a file says which models there are, and which engine each has; see
// config.example.json. A hot load then names its engine ("engine" in model_config), if
// there are several. The server reloads it, by difference, when it changes, as it does
// the folder of -models, and on SIGHUP, which never ends a server. SIGINT and SIGTERM end it in order, a second one at once.
//
// A service of systemd may have Type=notify: the server tells when it is ready, reloads
// and stops. As the first process of a container it starts itself once more, passes
// signals on to that process, and reaps what engines leave behind.
//
// A client that streams and sends the header X-Load-Progress is told how far its
// model is while that loads, in comments of the event stream:
//
//	: waiting {"model":"llama-7b","phase":"queued","position":1,"behind":["gpt2-large"],…}
//	: loading {"model":"llama-7b","phase":"loading","job_id":"…","progress":0.42,"bytes_done":…,"bytes_total":…,"time_left":3.1}
//	: ready {"model":"llama-7b","phase":"ready",…}
//
// The phases are queued, making room, loading and starting: all bytes are read, and
// the engine is not ready yet.
//
// The answer has begun with the first of these, so what goes wrong from then on, up
// to the engine's answer, is an event of OpenAI's error object. When an engine ends
// in the middle of its answer the stream is cut, with such an event before it unless the
// engine's own last event is not whole. A model that is ready
// at once, or an answer that is no stream, is as without. GET /v1/models/NAME says
// the same to any client.
//
// It listens on the loopback interface; on any other it wants a token from its
// clients, and does not start without one. /healthz and /readyz, which supervisors ask,
// want none.
//
// To read the code, begin with main.go. For a server of your own take its serve, and
// handler.go or proxy.go (with request.go); the rest is flags and demo.
package main
