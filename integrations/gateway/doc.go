// Package gateway is an HTTP front end over a modeltier.Manager: clients of OpenAI and of
// Anthropic ask for a model, which is made ready, and its engine answers.
//
// The names that matter: [New] makes an http.Handler of a Manager whose engines are reached
// by HTTP, as those of tier/process are; [ScopeOf] and [Deny] are what an access.Guard
// before it needs. What the command modeltier (cmd/modeltier) does beyond that is the file
// of a configuration (package config), its engines (package engines), and life as a
// service.
//
// A request names a model, or "auto" to have one selected by its path, by what it holds and
// by the headers X-Capabilities and X-Priority. X-Class (high, normal, low) says how soon it
// has its turn at a busy engine, and X-Keep-Alive how long its model stays in memory
// afterwards. A client that streams and sends X-Load-Progress is told how far its model is
// while that loads, in comments of the event stream:
//
//	: waiting {"model":"llama-7b","phase":"queued","position":1,"behind":["gpt2-large"],…}
//	: loading {"model":"llama-7b","phase":"loading","job_id":"…","progress":0.42,"bytes_done":…,"bytes_total":…,"time_left":3.1}
//	: ready {"model":"llama-7b","phase":"ready",…}
//
// The answer has begun with the first of these, so what goes wrong from then on is an event
// of the face's error. When an engine ends in the middle of its answer the stream is cut,
// with such an event before it unless the engine's own last event is not whole. GET
// /v1/models/NAME tells the same to any client. The answer's X-Model is the model that
// served, X-Request-Id the name of the request in logs.
//
// What it does not promise: TLS; limits by client beyond fair turns; or that what an engine
// answers is right.
package gateway
