package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"text/tabwriter"
)

// row is one run's line.
type row struct {
	run *run
	figures
	vsLRU float64
}

// line is a row as -json prints it.
type line struct {
	Trace  string  `json:"trace"`
	RAM    float64 `json:"ram_gb"`
	Swap   float64 `json:"swap_gb"`
	Policy string  `json:"policy"`
	Mean   float64 `json:"mean_wait_s"`
	P50    float64 `json:"p50_wait_s"`
	P99    float64 `json:"p99_wait_s"`
	Moved  float64 `json:"moved_gb_per_request"`
	VsLRU  float64 `json:"vs_lru"`
	Warm   float64 `json:"warm_share"`
}

// report prints rows as they come and keeps them for the ratios at the end.
type report struct {
	o    *options
	out  *tabwriter.Writer
	json *json.Encoder
	rows []row
	err  error
}

func newReport(o *options, w io.Writer) *report {
	r := &report{o: o}
	if o.json {
		r.json = json.NewEncoder(w)
		return r
	}
	r.out = tabwriter.NewWriter(w, 2, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(r.out, "trace\tram/swap GB\tpolicy\tmean s\tp50 s\tp99 s\tGB/request\twarm\tvs LRU\ttook\t")
	return r
}

// add takes the rows of one trace on one machine, LRU's first.
func (r *report) add(t *trace, c capacity, rows []row) {
	for _, x := range rows {
		x.vsLRU = x.Mean / rows[0].Mean
		r.rows = append(r.rows, x)
		if r.json != nil {
			if err := r.json.Encode(line{t.name, c.ram, c.swap, x.run.policy, x.Mean, x.P50, x.P99, x.Moved, x.vsLRU, x.Warm}); err != nil {
				r.err = err
			}
			continue
		}
		fmt.Fprintf(r.out, "%s\t%g/%g\t%s\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.1fs\t\n", t.name, c.ram, c.swap, x.run.policy, x.Mean, x.P50, x.P99, x.Moved, x.Warm, x.vsLRU, x.Took.Seconds())
		r.out.Flush()
	}
}

// close prints the geometric means of the ratios, and the plot.
func (r *report) close() error {
	if r.json == nil {
		fmt.Fprintln(r.out)
		for _, c := range r.o.capacities {
			for _, p := range policies {
				lru, p99, n := 0.0, 0.0, 0
				var base row
				for _, x := range r.rows {
					if x.run.capacity != c {
						continue
					}
					if x.run.policy == "lru" {
						base = x
					}
					if x.run.policy == p.name {
						lru += math.Log(x.vsLRU)
						p99 += math.Log(x.P99 / base.P99)
						n++
					}
				}
				if n > 0 {
					f := float64(n)
					fmt.Fprintf(r.out, "geometric mean\t%g/%g\t%s\t\t\tp99 %.3f\t\t\t%.3f\t\t\n", c.ram, c.swap, p.name, math.Exp(p99/f), math.Exp(lru/f))
				}
			}
		}
		r.out.Flush()
	}
	if r.err == nil && r.o.plot != "" {
		r.err = os.WriteFile(r.o.plot, plot(r.rows), 0o644)
	}
	return r.err
}
