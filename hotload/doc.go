// Package hotload finds and reads model files, and runs the public face of jobs.
//
// The three names that matter: [Jobs] starts and remembers background work and
// returns a [Job] for each piece of it; [Inspect] reads what a GGUF or safetensors
// file, or a folder of shards, is; [Watch] reports the models that come and go in a
// folder. [Scan] lists them once, [Resolve] keeps a path from a client within a folder,
// and [Estimate] says what serving a model takes beyond its weights.
//
// It does not move weights, decide anything, or start a goroutine: callers wait.
// Headers are checked and weights are not read: a file of the right length with wrong
// content passes. Paths are checked at the moment of the call; a process that may
// write into the model folder can change what is behind them afterwards.
package hotload
