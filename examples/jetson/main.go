// Command jetson shows what modeltier sees on an NVIDIA Jetson: the board, the limits
// for it, advice for its owner, and its readings of memory, GPU, power and temperature.
//
// On a board:
//
//	go run ./examples/jetson
//	go run ./examples/jetson -models /ssd/models
//
// On any other machine, from a log of tegrastats:
//
//	go run ./examples/jetson -replay jetson/testdata/tegrastats.txt
//
// It changes nothing, and prints a line for each reading.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/modeltier/modeltier/jetson"
	"github.com/modeltier/modeltier/tier"
)

type options struct {
	replay   string
	models   string
	interval time.Duration
	lines    int
}

func main() {
	var o options
	flag.StringVar(&o.replay, "replay", "", "show the lines of this `file` instead of a board's; - means standard input")
	flag.StringVar(&o.models, "models", "", "`folder` of the models: give advice about its disk, and measure it")
	flag.DurationVar(&o.interval, "interval", time.Second, "time between readings")
	flag.IntVar(&o.lines, "n", 0, "number of readings; 0: until ^C or the end of the file")
	flag.Parse()

	ctx := context.Background()
	if o.replay == "" { // a replay just ends at ^C: it holds nothing
		var stop func()
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt)
		defer stop()
	}
	if err := run(ctx, os.Stdout, o); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, jetson.ErrNotJetson) {
			fmt.Fprintln(os.Stderr, "To see what it would look like: go run ./examples/jetson -replay jetson/testdata/tegrastats.txt")
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, o options) error {
	v := &view{out: out}
	if o.replay != "" {
		return replay(v, o)
	}
	if o.models != "" {
		folder, err := filepath.Abs(o.models)
		if err != nil {
			return err
		}
		o.models = folder
	}
	board, err := jetson.DetectIn(jetson.Options{Tegrastats: jetson.TegrastatsConfig{Interval: o.interval}})
	if err != nil {
		return err
	}
	report(out, board, o.models)
	if o.models != "" {
		measure(ctx, out, board, o.models)
	}
	return watch(ctx, v, board, o)
}

// watch shows the board's readings.
func watch(ctx context.Context, v *view, board *jetson.Board, o options) error {
	probe := board.Probe()
	defer probe.Close()
	reader := board.Tegrastats().Open()
	defer reader.Close()

	last := uint64(0)
	for shown := 0; o.lines == 0 || shown < o.lines; shown++ {
		wait, cancel := context.WithTimeout(ctx, 10*time.Second+o.interval)
		s, err := reader.Next(wait, last)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("tegrastats prints nothing: %w", err)
		}
		last = s.Number
		m, err := probe.Memory(ctx)
		if err != nil {
			return err
		}
		v.show(s.Reading, &m)
	}
	return nil
}

// replay shows the lines of a file.
func replay(v *view, o options) error {
	in := io.Reader(os.Stdin)
	if o.replay != "-" {
		f, err := os.Open(o.replay)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	shown := 0
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		r, err := jetson.Parse(lines.Text())
		if err != nil {
			continue // a log has other lines too
		}
		v.introduce(r)
		v.show(r, nil)
		if shown++; shown == o.lines {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	if shown == 0 {
		return fmt.Errorf("%s has no line of tegrastats", o.replay)
	}
	return nil
}

// report prints what detection found, the limits for it, and the advice.
func report(out io.Writer, b *jetson.Board, models string) {
	fmt.Fprintf(out, "Board     %v (%s)\n", b.Family, b.Model)
	fmt.Fprintf(out, "Memory    %v seen by the system\n", b.Memory)
	fmt.Fprintf(out, "Release   L4T %v", b.Release)
	if jp := b.Release.JetPack(); jp != "" {
		fmt.Fprintf(out, ", JetPack %s", jp)
	}
	fmt.Fprintln(out)
	if b.Power.Name != "" {
		fmt.Fprintf(out, "Power     mode %s\n", b.Power.Name)
	}
	disk, zram := b.SwapOn()
	fmt.Fprintf(out, "Swap      %v on disk, %v zram (which is memory and does not count)\n", disk, zram)
	fmt.Fprintf(out, "Root      %v, %s\n", b.Root.Kind, b.Root.FileSystem)
	if lock, ok := b.LockLimit.Get(); ok {
		fmt.Fprintf(out, "Locking   %v\n", lock)
	}
	for _, f := range b.Faults {
		fmt.Fprintln(out, "         ", f)
	}
	printLimits(out, b.Limits())

	advice := b.Advise(models)
	if len(advice) == 0 {
		fmt.Fprintln(out, "\nNothing to advise: the board is set up well.")
	} else {
		fmt.Fprintln(out, "\nWhat you could change (nothing was changed):")
	}
	for i, a := range advice {
		fmt.Fprintf(out, "%2d. %s\n    %s\n", i+1, a.What, a.Why)
		if a.Command != "" {
			fmt.Fprintf(out, "    $ %s\n", a.Command)
		}
	}
	fmt.Fprintln(out)
}

func printLimits(out io.Writer, l tier.Limits) {
	fmt.Fprintf(out, "Limits    ram %v, swap %v, reserved %v, largest model %v\n", l.RAM, l.Swap, l.Reserved, l.MaxModel)
}

// measure prints the read rate of the largest file of the folder.
func measure(ctx context.Context, out io.Writer, b *jetson.Board, models string) {
	on, _ := b.StorageOf(models) // unknown storage has figures too
	loading := on.Kind.Loading()
	rate, err := jetson.MeasureReadRate(ctx, largest(models), loading.Readers)
	if err != nil {
		fmt.Fprintln(out, "Reading   not measured:", err)
		return
	}
	fmt.Fprintf(out, "Reading   %v/s from %v with %d reads in flight (%v/s expected)\n\n", rate, on.Kind, loading.Readers, loading.Rate)
}

// largest returns the largest file below the folder; the folder itself if there is
// none.
func largest(folder string) string {
	best, size := folder, int64(-1)
	_ = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // skip what cannot be read
		}
		if info, err := d.Info(); err == nil && info.Size() > size {
			best, size = path, info.Size()
		}
		return nil
	})
	return best
}

// view shows readings, one in a line.
type view struct {
	out    io.Writer
	limits tier.Limits // of the last replayed line
	notes  []string    // the last ones of the probe
}

// introduce prints what the board of a replayed line has, and the limits for it, if they
// differ from those of the previous line.
func (v *view) introduce(r jetson.Reading) {
	limits := jetson.LimitsFor(r.RAMTotal)
	if v.limits == limits {
		return
	}
	v.limits = limits
	fmt.Fprintf(v.out, "\nBoard     %v seen by the system, %d cores\n", r.RAMTotal, len(r.CPUs))
	printLimits(v.out, limits)
	fmt.Fprintln(v.out)
}

// show shows a reading, and the memory and its new notes if there is a probe.
func (v *view) show(r jetson.Reading, m *tier.Memory) {
	if m != nil {
		for _, n := range m.Notes.All() {
			if !slices.Contains(v.notes, n) {
				fmt.Fprintln(v.out, "note   ", n)
			}
		}
		v.notes = m.Notes.All()
	}
	fmt.Fprintln(v.out, strings.Join(fields(r, m), "  "))
}

// fields returns the figures of a line.
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
