package main

import (
	"bufio"
	"fmt"
	"io"
	"iter"

	"github.com/modeltier/modeltier/jetson"
)

// readings yields the readings among the lines of a log. Lines that are none are
// stepped over.
func readings(in io.Reader) iter.Seq2[jetson.Reading, error] {
	return func(yield func(jetson.Reading, error) bool) {
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			r, err := jetson.Parse(lines.Text())
			if err != nil {
				continue
			}
			if !yield(r, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(jetson.Reading{}, fmt.Errorf("reading the log: %w", err))
		}
	}
}

// introduce says, where the lines begin and where they go over to another board,
// what board they seem to be of and what would be set on it.
func (v *view) introduce(r jetson.Reading) {
	limits := jetson.LimitsFor(r.RAMTotal)
	if v.limits == limits && v.family == jetson.Guess(r) {
		return
	}
	v.leave()
	v.family, v.limits = jetson.Guess(r), limits
	fmt.Fprintf(v.out, "\nBoard     %v by its sensors, %v seen by the system, %d cores\n", v.family, r.RAMTotal, len(r.CPUs))
	printLimits(v.out, limits)
	fmt.Fprintln(v.out)
}
