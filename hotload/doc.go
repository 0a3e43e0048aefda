// Package hotload holds what a manager needs to take models in while it runs:
// jobs, the state that outlives a crash, the headers of model files, and a folder
// that is watched.
//
// The three names that matter: [Jobs] starts and remembers background work and
// hands out a [Job] for each piece of it; [Store] keeps models, limits and home
// tiers through a kill at any instant; [Inspect] says what a GGUF or safetensors
// file, or a folder of shards, really is. [Scan] and [Watch] find models in a
// folder, [Resolve] keeps a path from outside within one.
//
// It does not move weights, decide anything, or start a goroutine: whoever calls
// does the waiting. Headers are checked, weights are not read: a file of the
// right length with wrong contents passes. Paths are checked at the moment of the
// call; somebody who may write into the model folder can change what is behind
// them afterwards.
package hotload
