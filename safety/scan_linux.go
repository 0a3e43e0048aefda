package safety

import (
	"bytes"
	"fmt"
	"math"
	"strconv"

	"github.com/modeltier/modeltier/tier"
)

// lines yields the lines of a text, without their ends, and allocates nothing.
type lines struct{ rest []byte }

func (l *lines) next() (line []byte, ok bool) {
	if len(l.rest) == 0 {
		return nil, false
	}
	line, l.rest, _ = bytes.Cut(l.rest, []byte{'\n'})
	return line, true
}

// word returns the first word of a line and what follows it. Blanks and tabs
// part words; where there is none, the word is empty.
func word(line []byte) (w, rest []byte) {
	start := 0
	for start < len(line) && blank(line[start]) {
		start++
	}
	end := start
	for end < len(line) && !blank(line[end]) {
		end++
	}
	return line[start:end], line[end:]
}

func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }

// number returns the value of a text of decimal digits, and whether it is one
// that fits.
func number(text []byte) (uint64, bool) {
	if len(text) == 0 {
		return 0, false
	}
	n := uint64(0)
	for _, c := range text {
		d := uint64(c - '0')
		if c < '0' || c > '9' || n > (math.MaxUint64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

// amount returns text, a number of units, as Bytes.
func amount(text []byte, unit tier.Bytes) (tier.Bytes, bool) {
	n, ok := number(text)
	if !ok || n > uint64(math.MaxInt64/unit) {
		return 0, false
	}
	return tier.Bytes(n) * unit, true
}

// percent returns the value of a decimal number from 0 to 100.
func percent(text []byte) (float64, bool) {
	whole, fraction, dotted := bytes.Cut(text, []byte{'.'})
	n, ok := number(whole)
	if !ok || n > 100 || len(fraction) > 9 || dotted != (len(fraction) > 0) {
		return 0, false
	}
	p := float64(n)
	scale := 1.0
	for _, c := range fraction {
		if c < '0' || c > '9' {
			return 0, false
		}
		scale /= 10
		p += float64(c-'0') * scale
	}
	return p, p <= 100
}

// invalid returns the error of a file that holds what it should not.
func invalid(path string, text []byte, rule string) error {
	const most = 80
	value := ""
	if len(text) > most {
		value = strconv.Quote(string(text[:most])) + "…"
	} else {
		value = strconv.Quote(string(text))
	}
	return &tier.InvalidError{
		Field: path, Value: value, Rule: rule,
		Reason: fmt.Sprintf("%s: %s %s", path, value, rule),
		Help:   []string{"Memory cannot be read on this machine as it stands: see that " + path + " is the kernel's own file, or pass another probe."},
	}
}
