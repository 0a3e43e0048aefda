// Package hotload finds and reads model files, and runs the public face of jobs.
//
// The three names that matter: [Jobs] starts and remembers background work and
// returns a [Job] for each piece of it; [Inspect] reads what the model is that a file,
// an index or a folder names; [Watch] reports the models that come and go in a folder
// ([Watcher] looks when its owner says so). [Scan] lists them once, [Gather] finds what belongs to models that are named,
// [Resolve] keeps a path from a client within a folder, and [Estimate] says what
// serving a model takes beyond its weights.
//
// A model is a set of files. This package alone decides which: sets.go groups shards,
// hub.go chooses among what a model hub's folder holds, projector.go pairs projectors,
// hubcache.go and ollama.go know two stores, leftover.go what is none of a model, digests.go
// what files should hold.
//
// It does not move weights, decide anything, or start a goroutine: callers wait.
// Headers are checked and weights are not read: a file of the right length with wrong
// content passes. Paths are checked at the moment of the call; a process that may
// write into the model folder can change what is behind them afterwards.
package hotload
