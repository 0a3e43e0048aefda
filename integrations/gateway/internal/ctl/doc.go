// Package ctl is the client side of the command modeltier: commands that ask a running
// server over HTTP what it holds, and change that.
//
// The names that matter: [AddTo] puts the commands under a root command, [Main] runs
// that and returns the exit code, [Failure] is an error as people and programs are told it.
//
// It speaks the JSON contract (POST /), GET /status, GET /v1/models/NAME and
// POST /v1/reservations, and starts no server. An answer is bounded in size, each but a
// wait for a model or for room is bounded in time, and a key goes to the server that was
// named and to no other. Nothing is kept between two runs.
package ctl
