package core

// fault names a bug that a build with the tag "mutation" can plant, to show that
// the tests catch it. In every other build planted is constantly false, and
// nothing is left of it.
type fault string

const (
	missedRefund       fault = "missed refund"
	lateRefund         fault = "late refund"
	doubleCommit       fault = "double commit"
	evictionUnderLease fault = "eviction under lease"
	lostWaiter         fault = "lost waiter"
)
