// Command jetson shows what modeltier sees on an NVIDIA Jetson: the board, the limits
// for it, advice for its owner, and its readings of memory, GPU, power and temperature.
//
// On a board:
//
//	go run ./examples/jetson
//	go run ./examples/jetson -model /ssd/models/chat.gguf
//
// On any other machine, from a log of tegrastats:
//
//	go run ./examples/jetson -replay jetson/testdata/tegrastats.txt
//
// It changes nothing, and prints a line for each reading.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"github.com/modeltier/modeltier/jetson"
	"github.com/modeltier/modeltier/tier"
)

func main() {
	log := flag.String("replay", "", "show the lines of this `file` instead of a board's")
	model := flag.String("model", "", "`file` of a model: give advice about its disk, and measure it")
	flag.Parse()

	var err error
	if *log != "" {
		err = replay(os.Stdout, *log)
	} else {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		err = inspect(ctx, os.Stdout, *model)
		stop()
	}
	if errors.Is(err, jetson.ErrNotJetson) {
		err = fmt.Errorf("%w\nTo see what it would look like: go run ./examples/jetson -replay jetson/testdata/tegrastats.txt", err)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// inspect shows the board that it runs on, and its readings until ctx ends.
func inspect(ctx context.Context, out io.Writer, model string) error {
	board, err := jetson.DetectIn(jetson.Options{Tegrastats: jetson.TegrastatsConfig{Interval: time.Second}})
	if err != nil {
		return err
	}
	if model == "" {
		report(out, board, "")
	} else {
		if model, err = filepath.Abs(model); err != nil {
			return err
		}
		report(out, board, filepath.Dir(model))
		measure(ctx, out, board, model)
	}
	probe := board.Probe()
	defer probe.Close()
	reader := board.Tegrastats().Open()
	defer reader.Close()
	var notes tier.Notes
	for last := uint64(0); ; {
		wait, cancel := context.WithTimeout(ctx, 10*time.Second)
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
		printNotes(out, m.Notes, notes)
		notes = m.Notes
		fmt.Fprintf(out, "%s  available %.1f\n", figures(s.Reading), m.Available.GB())
	}
}

// printNotes prints the notes that the reading before did not have.
func printNotes(out io.Writer, notes, before tier.Notes) {
	for _, n := range notes.All() {
		if !slices.Contains(before.All(), n) {
			fmt.Fprintln(out, "note   ", n)
		}
	}
}

// replay shows the lines of a file, and the limits for the board that printed them.
func replay(out io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var limits tier.Limits // of the board of the previous line
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		r, err := jetson.Parse(lines.Text())
		if err != nil {
			continue // a log has other lines too
		}
		if l := jetson.LimitsFor(r.RAMTotal); l != limits {
			limits = l
			fmt.Fprintf(out, "\nBoard     %v seen by the system, %d cores\n", r.RAMTotal, len(r.CPUs))
			printLimits(out, limits)
			fmt.Fprintln(out)
		}
		fmt.Fprintln(out, figures(r))
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	if limits == (tier.Limits{}) {
		return fmt.Errorf("%s has no line of tegrastats", path)
	}
	return nil
}

// report prints what detection found, the limits for it, and the advice.
func report(out io.Writer, b *jetson.Board, models string) {
	fmt.Fprintf(out, "Board     %v (%s)\n", b.Family, b.Model)
	fmt.Fprintf(out, "Memory    %v seen by the system\n", b.Memory)
	fmt.Fprintf(out, "Release   L4T %v, JetPack %s\n", b.Release, cmp.Or(b.Release.JetPack(), "not known"))
	fmt.Fprintf(out, "Power     mode %s\n", cmp.Or(b.Power.Name, "not known"))
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

// measure prints the read rate of a model.
func measure(ctx context.Context, out io.Writer, b *jetson.Board, model string) {
	on, _ := b.StorageOf(model) // unknown storage has figures too
	loading := on.Kind.Loading()
	rate, err := jetson.MeasureReadRate(ctx, model, loading.Readers)
	if err != nil {
		fmt.Fprintln(out, "Reading   not measured:", err)
		return
	}
	fmt.Fprintf(out, "Reading   %v/s from %v with %d reads in flight (%v/s expected)\n\n", rate, on.Kind, loading.Readers, loading.Rate)
}

// figures returns the figures of a line.
func figures(r jetson.Reading) string {
	gpu, power := "not known", "not known"
	if v, ok := r.GPULoad().Get(); ok {
		gpu = fmt.Sprintf("%d %%", v)
	}
	if v, ok := r.Power().Get(); ok {
		power = fmt.Sprintf("%.1f W", float64(v)/1000)
	}
	out := fmt.Sprintf("ram %.1f/%.1f GiB  gpu %s  power %s", r.RAMUsed.GB(), r.RAMTotal.GB(), gpu, power)
	if !r.Time.IsZero() {
		out = r.Time.Format("15:04:05  ") + out
	}
	if r.HasSwap {
		out += fmt.Sprintf("  swap %.1f/%.1f", r.SwapUsed.GB(), r.SwapTotal.GB())
	}
	if hot, ok := r.Hottest(); ok {
		out += fmt.Sprintf("  %s %.1f °C", hot.Name, hot.Now)
	}
	if r.LargestFreeBlock > 0 {
		out += fmt.Sprintf("  lfb %d x %v", r.LargestFreeBlocks, r.LargestFreeBlock)
	}
	return out
}
