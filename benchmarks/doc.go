// Package benchmarks measures what modeltier costs, by the rows of the design's
// table of budgets. It holds no code of its own: run
//
//	go test -bench . ./benchmarks
//
// and read README.md beside this file for figures that were taken.
package benchmarks
