package ctl

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// progress tells a person how far something is: in a terminal by a line that changes,
// else by a line for each phase and each tenth.
type progress struct {
	w     io.Writer
	fd    int
	live  bool
	began time.Time
	shown bool   // a line stands in the terminal
	phase string // that was told last, and
	tenth int
}

// worthALine is how long something takes before lines are told of it that stay.
const worthALine = time.Second

// progress returns where to tell it; with --json nowhere.
func (s *session) progress() *progress {
	p := &progress{w: s.err, began: time.Now(), tenth: -1}
	if s.json {
		p.w = io.Discard
	}
	if p.fd, p.live = isTerminal(p.w); os.Getenv("TERM") == "dumb" {
		p.live = false
	}
	return p
}

const barWidth = 24

func (p *progress) tell(model string, l *loading) {
	if l == nil {
		return
	}
	words := clean(model + ": " + l.words())
	if !p.live {
		if tenth := int(10 * l.Progress); time.Since(p.began) >= worthALine && (l.Phase != p.phase || tenth > p.tenth) {
			p.phase, p.tenth = l.Phase, tenth
			fmt.Fprintln(p.w, words)
		}
		return
	}
	filled := int(barWidth * min(max(l.Progress, 0), 1))
	line := "[" + strings.Repeat("#", filled) + strings.Repeat("-", barWidth-filled) + "] " + words
	// A line that is longer than the terminal is wide could not be written over.
	if width, _, err := term.GetSize(p.fd); err == nil && width > 0 {
		if runes := []rune(line); len(runes) >= width {
			line = string(runes[:width-1])
		}
	}
	fmt.Fprintf(p.w, "\r%s\x1b[K", line)
	p.shown = true
}

// end takes the line away.
func (p *progress) end() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}
