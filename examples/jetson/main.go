// Command jetson shows what modeltier sees on an NVIDIA Jetson: what board it is,
// the limits that it would set, what its owner could change, and a live view of
// memory, GPU, power and temperature.
//
// On a board:
//
//	go run ./examples/jetson
//	go run ./examples/jetson -models /ssd/models -server http://localhost:8080
//
// Anywhere else, the same from lines that tegrastats has printed:
//
//	go run ./examples/jetson -replay jetson/testdata/tegrastats.txt
//
// It changes nothing. On a terminal the view stays in place; elsewhere it is one
// line for each reading.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/modeltier/modeltier/jetson"
)

type options struct {
	replay   string
	models   string
	server   string
	interval time.Duration
	lines    int
}

func main() {
	var o options
	flag.StringVar(&o.replay, "replay", "", "show the lines of this `file` instead of a board's; - is standard input")
	flag.StringVar(&o.models, "models", "", "`folder` of the models: advise about its disk, and measure it")
	flag.StringVar(&o.server, "server", "", "`URL` of a running modeltier server, to show its tiers as well")
	flag.DurationVar(&o.interval, "interval", time.Second, "time between readings")
	flag.IntVar(&o.lines, "n", 0, "end after so many readings; 0: at ^C, or at the end of the file")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, o); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, jetson.ErrNotJetson) {
			fmt.Fprintln(os.Stderr, "To see what it would look like: go run ./examples/jetson -replay jetson/testdata/tegrastats.txt")
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, out *os.File, o options) error {
	v := newView(out, o.server)
	if o.replay != "" {
		return replay(ctx, v, o)
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

// watch shows the board's readings as they come.
func watch(ctx context.Context, v *view, board *jetson.Board, o options) error {
	v.limits = board.Limits()
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
		v.show(ctx, s.Reading, &m)
	}
	return nil
}

// replay shows the lines of a file, at the pace of the interval on a terminal and
// at once elsewhere.
func replay(ctx context.Context, v *view, o options) error {
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
	for r, err := range readings(in) {
		if err != nil {
			return err
		}
		v.introduce(r)
		v.show(ctx, r, nil)
		if shown++; shown == o.lines {
			return nil
		}
		if v.terminal {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(o.interval):
			}
		}
	}
	if shown == 0 {
		return fmt.Errorf("%s holds no line of tegrastats", o.replay)
	}
	return nil
}
