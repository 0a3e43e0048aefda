package tier

import (
	"cmp"
	"slices"
	"strings"
)

// Nearest returns up to three of names that look like name, best first: one
// holds the other, or few edits lie between them. It is for error messages, and
// costs time in proportion to the names.
func Nearest(name string, names []string) []string {
	const (
		most    = 3
		longest = 64 // bytes that are compared; the rest of a name tells little
	)
	type near struct {
		name string
		off  int
	}
	fold := func(s string) string { return strings.ToLower(s[:min(len(s), longest)]) }
	want := fold(name)
	var found []near
	for _, n := range names {
		have := fold(n)
		off := distance(want, have)
		if want != "" && have != "" && (strings.Contains(have, want) || strings.Contains(want, have)) {
			off = min(off, 1)
		}
		if off <= 1+len(want)/4 {
			found = append(found, near{n, off})
		}
	}
	slices.SortStableFunc(found, func(a, b near) int { return cmp.Compare(a.off, b.off) })
	out := make([]string, 0, most)
	for _, f := range found[:min(len(found), most)] {
		out = append(out, f.name)
	}
	return out
}

// distance is the least number of bytes to insert, delete or replace that turn a
// into b (Levenshtein 1966), by the usual row of dynamic programming.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
