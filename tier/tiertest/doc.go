// Package tiertest helps the author of a Selector, Placement, MemoryProbe or Mover to
// test it: conformance suites ([TestMover], [TestProbe], [TestSelector],
// [TestPlacement]) check a part, with the optional interfaces that it has, against
// the contracts in package tier, and fakes of the other parts ([Mover], [Probe], or both
// as a [Machine] with memory, disks and scripted faults) work in virtual time and fail on
// demand. Package modeltiertest has a whole Manager on such a machine.
//
// The three names that matter: [TestMover], [Mover] and [Probe]. A part that passes
// its suite keeps its contract; the suite does not promise that the part is any good.
package tiertest
