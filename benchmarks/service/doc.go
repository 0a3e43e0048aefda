// Package service holds one HTTP service twice: package with is over modeltier,
// package without is what a Go programmer writes in an afternoon. Both have the
// engines of package engines, of three kinds, two in the process and one a
// program of its own, and more models than their memory holds.
//
//	go test ./benchmarks/service                     # a few seconds: what with promises
//	MODELTIER_LONG=1 go test -v -run Long ./benchmarks/service   # both, side by side
//
// README.md in the folder above has the figures.
package service
