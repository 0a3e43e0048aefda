package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/modeltier/modeltier/examples/server/demo"
	"github.com/modeltier/modeltier/tier"
)

// bar shows the making of the demo library: as a bar that moves on a terminal,
// else as a plain line for each file.
type bar struct {
	to       io.Writer
	title    string
	terminal bool

	began, drawn time.Time
	file         string
}

func newBar(to io.Writer, title string) *bar {
	b := &bar{to: to, title: title}
	if f, ok := to.(*os.File); ok {
		info, err := f.Stat()
		b.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return b
}

// show is the progress function of demo.Library.Make.
func (b *bar) show(p demo.Progress) {
	now := time.Now()
	if b.began.IsZero() {
		b.began = now
		fmt.Fprintf(b.to, "%s: %v, once\n", b.title, p.Total)
	}
	switch {
	case b.terminal && (now.Sub(b.drawn) >= 100*time.Millisecond || p.Done == p.Total):
		const width = 24 // with the rest, less than the 80 columns of a small terminal
		full := int(width * p.Done / p.Total)
		fmt.Fprintf(b.to, "\r[%s%s] %3d%%  %10v  %10v/s  %-18s",
			strings.Repeat("#", full), strings.Repeat(".", width-full), 100*p.Done/p.Total, p.Done, b.rate(p, now), p.File)
		b.drawn = now
	case !b.terminal && p.File != b.file:
		fmt.Fprintf(b.to, "writing %s (%v of %v done)\n", p.File, p.Done, p.Total)
	}
	b.file = p.File
}

func (b *bar) rate(p demo.Progress, now time.Time) tier.Bytes {
	return tier.Bytes(float64(p.Done) / max(now.Sub(b.began).Seconds(), 0.001))
}

// end leaves the cursor on a line of its own.
func (b *bar) end() {
	if b.terminal && !b.began.IsZero() {
		fmt.Fprintln(b.to)
	}
}
