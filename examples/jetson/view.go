package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/modeltier/modeltier/jetson"
	"github.com/modeltier/modeltier/tier"
)

// view shows one reading after the other: in place on a terminal, line by line
// elsewhere.
type view struct {
	out      *os.File
	terminal bool
	server   string

	limits tier.Limits
	family jetson.Family // of a replay
	notes  []string      // of the probe, as they were last
	drawn  int           // lines on the terminal that the next reading replaces
}

func newView(out *os.File, server string) *view {
	info, err := out.Stat()
	return &view{out: out, server: server, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

// leave keeps what is on the terminal; what comes next goes below it.
func (v *view) leave() { v.drawn = 0 }

// show shows a reading, with what the probe says of memory where there is one.
func (v *view) show(ctx context.Context, r jetson.Reading, m *tier.Memory) {
	tiers := fetchTiers(ctx, v.server)
	if m != nil {
		v.tell(m.Notes)
	}
	if !v.terminal {
		fmt.Fprintln(v.out, strings.Join(append(fields(r, m), tiers...), "  "))
		return
	}
	rows := v.rows(r, m, tiers)
	// Back to the first row; rows are cut at the right margin, since one that wraps
	// would be two.
	if v.drawn > 0 {
		fmt.Fprintf(v.out, "\x1b[%dA", v.drawn)
	}
	fmt.Fprint(v.out, "\x1b[?7l")
	for _, row := range rows {
		fmt.Fprintf(v.out, "\x1b[2K%s\n", row)
	}
	fmt.Fprint(v.out, "\x1b[J\x1b[?7h")
	v.drawn = len(rows)
}

// tell prints the notes that were not there before, above the view.
func (v *view) tell(notes []string) {
	for _, n := range notes {
		if !slices.Contains(v.notes, n) {
			v.leave()
			fmt.Fprintln(v.out, "note   ", n)
		}
	}
	v.notes = notes
}

// fields are the figures of one line of plain output.
func fields(r jetson.Reading, m *tier.Memory) []string {
	var out []string
	if !r.Time.IsZero() {
		out = append(out, r.Time.Format("15:04:05"))
	}
	out = append(out, fmt.Sprintf("ram %.1f/%.1f GiB", r.RAMUsed.GB(), r.RAMTotal.GB()))
	if m != nil {
		out = append(out, fmt.Sprintf("available %.1f", m.Available.GB()))
	}
	if r.HasSwap {
		out = append(out, fmt.Sprintf("swap %.1f/%.1f", r.SwapUsed.GB(), r.SwapTotal.GB()))
	}
	out = append(out, "gpu "+percent(r.GPULoad()), "power "+watts(r.Power()))
	if hot, ok := r.Hottest(); ok {
		out = append(out, fmt.Sprintf("%s %.1f °C", hot.Name, hot.Now))
	}
	if r.LargestFreeBlock > 0 {
		out = append(out, fmt.Sprintf("lfb %d x %v", r.LargestFreeBlocks, r.LargestFreeBlock))
	}
	return out
}

// rows are the lines of the view on a terminal.
func (v *view) rows(r jetson.Reading, m *tier.Memory, tiers []string) []string {
	rows := []string{
		fmt.Sprintf("memory   %s %.1f of %.1f GiB used", bar(float64(r.RAMUsed), float64(r.RAMTotal)), r.RAMUsed.GB(), r.RAMTotal.GB()),
	}
	if m != nil {
		room := max(m.Available-v.limits.Reserved, 0)
		rows = append(rows, fmt.Sprintf("room     %s %v may be loaded now (%v available, %v reserved)", bar(float64(room), float64(v.limits.RAM)), room, m.Available, v.limits.Reserved))
	}
	if r.HasSwap {
		rows = append(rows, fmt.Sprintf("swap     %s %.1f of %.1f GiB, zram and disk", bar(float64(r.SwapUsed), float64(r.SwapTotal)), r.SwapUsed.GB(), r.SwapTotal.GB()))
	}
	load := r.GPULoad()
	rows = append(rows, fmt.Sprintf("gpu      %s %s", bar(float64(load.Value), 100), percent(load)))
	busy, on := 0, 0
	for _, c := range r.CPUs {
		if !c.Off() {
			busy, on = busy+int(c.Load.Value), on+1
		}
	}
	rows = append(rows, fmt.Sprintf("cpu      %s %d of %d cores on", bar(float64(busy), float64(100*on)), on, len(r.CPUs)))
	state := "power    " + watts(r.Power())
	if hot, ok := r.Hottest(); ok {
		state += fmt.Sprintf(", hottest %s at %.1f °C", hot.Name, hot.Now)
	}
	if r.LargestFreeBlock > 0 {
		state += fmt.Sprintf(", largest free block %v (%d)", r.LargestFreeBlock, r.LargestFreeBlocks)
	}
	rows = append(rows, state)
	return append(rows, tiers...)
}

func bar(part, whole float64) string {
	const width = 24
	n := 0
	if whole > 0 {
		n = min(max(int(part/whole*width+0.5), 0), width)
	}
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", width-n) + "]"
}

func percent(p jetson.Opt[jetson.Percent]) string {
	if v, ok := p.Get(); ok {
		return fmt.Sprintf("%d %%", v)
	}
	return "not known"
}

func watts(p jetson.Opt[jetson.Milliwatts]) string {
	if v, ok := p.Get(); ok {
		return fmt.Sprintf("%.1f W", float64(v)/1000)
	}
	return "not known"
}
