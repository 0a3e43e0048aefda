// Package policies holds what the placements of package optimizer are measured
// against. Only the replay uses it.
//
// [LFU] and [GDSF] are classic placements of whole models. [Belady] computes how
// short the waits could have been, had the future been known: it replays requests
// on two memory tiers over storage, byte by byte and on demand. At each request
// the bytes of the wanted model may go anywhere, those of others only down, and
// the bytes whose model is asked for soonest stay highest.
//
// If the cost of a byte rises from ram over swap to storage and is the same for all
// models, no placement that moves bytes up only on demand waits less. For one tier
// that is Belady's theorem (IBM Systems Journal 5, 1966). Bytes of equal cost make
// division exact, and since the rule is a stack rule (Mattson and others, IBM
// Systems Journal 9, 1970: what a smaller memory keeps, a larger one keeps too) one
// order is best for ram and for ram and swap together at once.
//
// It is no bound on placements that prefetch, and moves cost it nothing.
package policies
