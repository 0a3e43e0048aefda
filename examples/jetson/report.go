package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/modeltier/modeltier/jetson"
	"github.com/modeltier/modeltier/tier"
)

// report prints what was found, what would be set, and what could be changed.
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
	fmt.Fprintf(out, "Swap      %v on disk, %v zram (which is memory, and not counted)\n", disk, zram)
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

// measure reads the largest file of the folder and prints how fast that went.
func measure(ctx context.Context, out io.Writer, b *jetson.Board, models string) {
	on, _ := b.StorageOf(models) // an unknown kind has figures too
	loading := on.Kind.Loading()
	rate, err := jetson.MeasureReadRate(ctx, largest(models), loading.Readers)
	if err != nil {
		fmt.Fprintln(out, "Reading   not measured:", err)
		return
	}
	fmt.Fprintf(out, "Reading   %v/s from %v with %d reads in flight (%v/s expected)\n\n", rate, on.Kind, loading.Readers, loading.Rate)
}

// largest returns the largest file below the folder, the folder itself where
// there is none.
func largest(folder string) string {
	best, most := folder, int64(-1)
	_ = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // what cannot be read is not measured
		}
		if info, err := d.Info(); err == nil && info.Size() > most {
			best, most = path, info.Size()
		}
		return nil
	})
	return best
}
