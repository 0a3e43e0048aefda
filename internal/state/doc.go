// Package state keeps what a Manager must remember across restarts in a folder.
//
// The three names that matter: [Open] takes the folder for this process and
// returns the [State] that was saved last; [Store.Save] makes a new one durable. A
// crash at any instant, of the process or of the machine, loses nothing that Save
// has acknowledged.
//
// It does not merge, retry or schedule saves, and it keeps one previous generation,
// no history. Two processes that share a network file system without working locks
// are not kept apart.
package state
