package ctl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/modeltier/modeltier/tier"
	"golang.org/x/term"
)

// isTerminal returns the file descriptor of a writer that is a terminal.
func isTerminal(w io.Writer) (fd int, ok bool) {
	f, ok := w.(*os.File)
	if !ok {
		return 0, false
	}
	return int(f.Fd()), term.IsTerminal(int(f.Fd()))
}

// styled reports whether colours may be written (https://no-color.org).
func styled(w io.Writer) bool {
	_, ok := isTerminal(w)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// clean is what a server sent, without what would steer a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// table prints rows with aligned columns, of which those go that have a heading alone.
func table(w io.Writer, rows [][]string) error {
	for col := len(rows[0]) - 1; col >= 0; col-- {
		if !slices.ContainsFunc(rows[1:], func(row []string) bool { return row[col] != "" }) && len(rows) > 1 {
			for i := range rows {
				rows[i] = slices.Delete(rows[i], col, col+1)
			}
		}
	}
	var text bytes.Buffer
	tw := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = clean(cell)
		}
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	tw.Flush()
	for line := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// ago tells how long before now t was.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	if d < time.Second {
		return "now"
	}
	return rough(d) + " ago"
}

// until tells how long after now t is.
func until(now, t time.Time) string { return "in " + rough(max(t.Sub(now), 0)) }

// rough is a duration in its largest unit.
func rough(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return fmt.Sprintf("%dd", d/day)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	default:
		return fmt.Sprintf("%ds", d/time.Second)
	}
}

// seconds is a time of some seconds.
func seconds(s float64) string {
	switch {
	case s >= 120:
		return rough(time.Duration(s * float64(time.Second)))
	case s < 0.1:
		return fmt.Sprintf("%.0f ms", 1000*s)
	case s >= 10:
		return fmt.Sprintf("%.0f s", s)
	default:
		return fmt.Sprintf("%.1f s", s)
	}
}

// limitText is a limit, of which none is as good as no byte.
func limitText(b tier.Bytes) string {
	if b <= 1 {
		return "none"
	}
	return b.String()
}

// plural is "1 model", "2 models".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// writeJSON prints a value of ours or of the server's, indented.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
