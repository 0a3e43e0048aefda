// Package tiertest holds what an author of a Selector, Placement, MemoryProbe
// or Mover needs to test it: conformance suites ([TestMover], [TestProbe],
// [TestSelector], [TestPlacement]) that check a part against the contract in
// package tier, and fakes of the other parts ([Mover], [Probe]) that work in
// virtual time and fail on demand.
//
// A suite that passes does not promise that the part is good, only that it keeps
// its contract.
package tiertest
