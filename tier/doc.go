// Package tier holds the vocabulary of modeltier and the contracts between its
// parts. It imports the standard library only and starts nothing.
//
// The three names that matter: [Model] is what is kept, [Tier] is where its
// weights are, and [View] is the immutable picture of the whole that a
// [Selector] and a [Placement] decide from. [Ledger] is the account of bytes
// that makes a promise of memory one that can be kept.
//
// Whoever extends modeltier implements one of four small interfaces:
// [Selector], [Placement], [MemoryProbe] or [Mover]. What an implementation may
// offer beyond its contract is an optional interface, found by type assertion
// ([Resident], [Divider], [InPlacer], [FileBacker], [Learner]). Conformance suites for all of
// them are in tier/tiertest.
//
// The package does not promise thread safety for anything but what says so:
// values are plain values, and a [View] and a [Library] are never changed once
// published.
package tier
