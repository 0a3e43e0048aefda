package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/modeltier/modeltier/jetson"
	"github.com/modeltier/modeltier/tier"
)

// view shows readings, each in place of the previous one on a terminal, otherwise line
// by line.
type view struct {
	out      *os.File
	terminal bool
	server   string

	limits tier.Limits
	family jetson.Family // of a replay
	notes  []string      // the last ones of the probe
	drawn  int           // terminal lines that the next reading replaces
}

func newView(out *os.File, server string) *view {
	info, err := out.Stat()
	return &view{out: out, server: server, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

// introduce prints the board that a replayed line seems to come from, and the limits
// for it, if they differ from those of the previous line.
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

// leave keeps what is on the terminal: further output goes below it.
func (v *view) leave() { v.drawn = 0 }

// show shows a reading, and the memory if there is a probe.
func (v *view) show(ctx context.Context, r jetson.Reading, m *tier.Memory) {
	tiers := fetchTiers(ctx, v.server)
	if m != nil {
		v.printNotes(m.Notes.All())
	}
	if !v.terminal {
		fmt.Fprintln(v.out, strings.Join(append(fields(r, m), tiers...), "  "))
		return
	}
	rows := v.rows(r, m, tiers)
	// Go back to the first row. Cut rows at the right margin: one that wraps would be
	// two.
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

// printNotes prints the new notes above the view.
func (v *view) printNotes(notes []string) {
	for _, n := range notes {
		if !slices.Contains(v.notes, n) {
			v.leave()
			fmt.Fprintln(v.out, "note   ", n)
		}
	}
	v.notes = notes
}

// fields returns the figures for a line of plain output.
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

// rows returns the lines for a terminal.
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

// fetchTiers returns a line for each tier of a modeltier server; none without a server.
// It sends the token of the environment variable that the server reads too.
func fetchTiers(ctx context.Context, server string) []string {
	if server == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server, strings.NewReader(`{"tier_status": true}`))
	if err != nil {
		return []string{"tiers    " + err.Error()}
	}
	req.Header.Set("Content-Type", "application/json")
	if token := os.Getenv("MODELTIER_TOKEN"); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return []string{"tiers    " + err.Error()}
	}
	defer resp.Body.Close()
	var status struct {
		Tiers map[string]struct {
			Used   float64 `json:"used_gb"`
			Limit  float64 `json:"limit_gb"`
			Models int     `json:"models"`
		} `json:"tiers"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 1<<20)).Decode(&status); err != nil {
		return []string{"tiers    this is not the answer of a modeltier server: " + err.Error()}
	}
	var out []string
	for _, name := range []string{"ram", "swap"} {
		if t, ok := status.Tiers[name]; ok {
			out = append(out, fmt.Sprintf("%-8s %s %.1f of %.1f GiB, %d models", "tier "+name, bar(t.Used, t.Limit), t.Used, t.Limit, t.Models))
		}
	}
	return out
}
