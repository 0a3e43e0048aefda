package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
)

// row is one run's line.
type row struct {
	run *run
	figures
	vsLRU, vsBound float64
}

// line is a row as -json prints it.
type line struct {
	Trace   string  `json:"trace"`
	RAM     float64 `json:"ram_gb"`
	Swap    float64 `json:"swap_gb"`
	Policy  string  `json:"policy"`
	Mean    float64 `json:"mean_wait_s"`
	P50     float64 `json:"p50_wait_s"`
	P99     float64 `json:"p99_wait_s"`
	Moved   float64 `json:"moved_gb_per_request"`
	VsLRU   float64 `json:"vs_lru"`
	VsBound float64 `json:"vs_bound"`
	Warm    float64 `json:"warm_share"`
}

// report prints rows as they come and keeps them for the ratios at the end.
type report struct {
	o    *options
	out  io.Writer
	json *json.Encoder
	rows []row
	wide int // of the longest name
	err  error
}

// The columns of the table: the first and the third are text.
const (
	headFormat = "%-*s %8s  %-8s %8s %8s %8s %8s %6s %7s %9s %6s\n"
	rowFormat  = "%-*s %8s  %-8s %8.3f %8.3f %8.3f %8.3f %6.3f %7.3f %9.3f %5.1fs\n"
)

func newReport(o *options, w io.Writer, traces []*trace) *report {
	r := &report{o: o, out: w}
	if o.json {
		r.json = json.NewEncoder(w)
		return r
	}
	for _, t := range traces {
		r.wide = max(r.wide, len(t.name))
	}
	fmt.Fprintf(w, headFormat, r.wide, "trace", "GB", "policy", "mean s", "p50 s", "p99 s", "GB/req", "warm", "vs LRU", "vs bound", "took")
	return r
}

// add takes the rows of one trace on one machine, LRU's first, and what the bound
// comes to there.
func (r *report) add(t *trace, c capacity, rows []row, bound figures) {
	rows = append(rows, row{run: &run{trace: t, capacity: c, policy: "bound"}, figures: bound})
	for _, x := range rows {
		x.vsLRU, x.vsBound = x.Mean/rows[0].Mean, x.Mean/bound.Mean
		r.rows = append(r.rows, x)
		if r.json != nil {
			if err := r.json.Encode(line{t.name, c.ram, c.swap, x.run.policy, x.Mean, x.P50, x.P99, x.Moved, x.vsLRU, x.vsBound, x.Warm}); err != nil {
				r.err = err
			}
			continue
		}
		fmt.Fprintf(r.out, rowFormat, r.wide, t.name, c, x.run.policy, x.Mean, x.P50, x.P99, x.Moved, x.Warm, x.vsLRU, x.vsBound, x.Took.Seconds())
	}
}

// close prints the geometric means of the ratios.
func (r *report) close() error {
	if r.json == nil {
		fmt.Fprintln(r.out, "\ngeometric means, as shares of LRU's but for the last")
		fmt.Fprintf(r.out, meansHead, "GB", "policy", "mean", "p99", "GB/req", "vs bound")
		for _, c := range r.o.capacities {
			for _, p := range append(r.o.policies, "bound") {
				r.means(c, p)
			}
		}
	}
	return r.err
}

const (
	meansHead = "%8s  %-8s %7s %7s %7s %9s\n"
	meansRow  = "%8s  %-8s %7.3f %7.3f %7.3f %9.3f\n"
)

// means prints one policy's line on one machine.
func (r *report) means(c capacity, policy string) {
	var mean, p99, moved, bound, n float64
	var base row
	for _, x := range r.rows {
		if x.run.capacity != c {
			continue
		}
		if x.run.policy == "lru" {
			base = x
		}
		if x.run.policy == policy {
			mean += math.Log(x.vsLRU)
			p99 += math.Log(x.P99 / base.P99)
			moved += math.Log(x.Moved / base.Moved)
			bound += math.Log(x.vsBound)
			n++
		}
	}
	if n > 0 {
		fmt.Fprintf(r.out, meansRow, c, policy, math.Exp(mean/n), math.Exp(p99/n), math.Exp(moved/n), math.Exp(bound/n))
	}
}
