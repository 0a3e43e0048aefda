// Package offline computes how little people could have waited, had the future
// been known: what the placements of package optimizer are measured against.
//
// The one name that matters is [Belady]. It replays requests on two memory tiers
// over storage, byte by byte and on demand: at each request the bytes of the
// wanted model may go anywhere, everybody else's only down, and the bytes whose
// model is asked for soonest stay highest.
//
// With a cost per byte that rises from ram over swap to storage and is the same
// for all models, no placement that moves bytes up only when they are asked for
// waits less. For one tier that is Belady's theorem (IBM Systems Journal 5, 1966);
// bytes of equal cost make division exact, and since the rule is a stack rule
// (Mattson and others, IBM Systems Journal 9, 1970: what a smaller memory keeps, a
// larger one keeps too) one order is best for ram and for ram and swap together at
// once.
//
// It is no bound on placements that prefetch, and moves cost it nothing.
package offline
