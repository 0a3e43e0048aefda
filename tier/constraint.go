package tier

import (
	"math"
	"strconv"
	"strings"
)

// Op is how a Constraint compares.
type Op uint8

const (
	OpHas     Op = iota // the label is there and not "false", "no", "off" or "0", or the model has a capability of that name
	OpEqual             // one of the label's comma-separated values is the value
	OpNot               // none of them is; a model without the label will do
	OpAtLeast           // the label is one number, ≥ the value
	OpAtMost
	OpAbove
	OpBelow
)

var opSigns = [...]string{OpHas: "", OpEqual: "=", OpNot: "!=", OpAtLeast: ">=", OpAtMost: "<=", OpAbove: ">", OpBelow: "<"}

// Constraint bounds a label of the wanted model. As text it is "vision",
// "language = fr" or "context >= 8192".
type Constraint struct {
	Label string
	Op    Op
	// Value is empty with OpHas. Values compare without regard to case, and as
	// numbers where both are; the suffixes k and m mean 1024 and 1024².
	Value string
}

// ParseConstraint reads a Constraint from its text. The error unwraps to
// ErrInvalid.
func ParseConstraint(text string) (Constraint, error) {
	c := Constraint{Label: text}
	if i := strings.IndexAny(text, "<>=!≤≥≠"); i >= 0 {
		rest := text[i:]
		for _, sign := range [...]struct {
			text string
			op   Op
		}{
			{"==", OpEqual}, {">=", OpAtLeast}, {"<=", OpAtMost}, {"!=", OpNot}, {"≥", OpAtLeast},
			{"≤", OpAtMost}, {"≠", OpNot}, {"=", OpEqual}, {">", OpAbove}, {"<", OpBelow},
		} {
			if value, ok := strings.CutPrefix(rest, sign.text); ok {
				c = Constraint{Label: text[:i], Op: sign.op, Value: strings.TrimSpace(value)}
				break
			}
		}
	}
	c.Label = strings.TrimSpace(c.Label)
	return c, c.Validate()
}

// String returns the text that ParseConstraint reads.
func (c Constraint) String() string {
	if c.Op == OpHas || int(c.Op) >= len(opSigns) {
		return c.Label
	}
	return c.Label + " " + opSigns[c.Op] + " " + c.Value
}

// MarshalText implements encoding.TextMarshaler.
func (c Constraint) MarshalText() ([]byte, error) { return []byte(c.String()), c.Validate() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Constraint) UnmarshalText(text []byte) error {
	v, err := ParseConstraint(string(text))
	if err == nil {
		*c = v
	}
	return err
}

// Validate returns an *InvalidError that names the fault, or nil.
func (c Constraint) Validate() error {
	fault := func(rule string) error {
		return &InvalidError{
			Field: "constraint", Value: shorten(c.String()), Rule: rule,
			Help: []string{`Write a constraint like "vision", "language = fr" or "context >= 8192".`},
		}
	}
	switch {
	case CheckName("label", c.Label) != nil || strings.ContainsAny(c.Label, "<>=!≤≥≠") || strings.TrimSpace(c.Label) != c.Label:
		return fault("must begin with the name of a label")
	case int(c.Op) >= len(opSigns):
		return fault("must compare by one of =, !=, >=, <=, >, <")
	case c.Op == OpHas && c.Value != "":
		return fault("must have no value")
	case c.Op == OpHas:
		return nil
	case CheckName("value", c.Value) != nil || strings.ContainsAny(c.Value, "<>=!≤≥≠,") || strings.TrimSpace(c.Value) != c.Value:
		return fault("must end with one value")
	}
	if _, ok := number(c.Value); c.Op >= OpAtLeast && !ok {
		return fault("must compare with a number")
	}
	return nil
}

// Met reports whether the model satisfies the constraint.
func (c *Constraint) Met(m *Model) bool {
	label, ok := m.Labels[c.Label]
	switch c.Op {
	case OpHas:
		return ok && !isOff(label) || m.Can([]string{c.Label})
	case OpEqual, OpNot:
		found := false
		for v := range strings.SplitSeq(label, ",") {
			found = found || ok && same(strings.TrimSpace(v), c.Value)
		}
		return found == (c.Op == OpEqual)
	}
	have, ok := number(label)
	bound, valid := number(c.Value)
	return ok && valid && c.Op.holds(have, bound)
}

func (op Op) holds(have, bound float64) bool {
	switch op {
	case OpAtLeast:
		return have >= bound
	case OpAtMost:
		return have <= bound
	case OpAbove:
		return have > bound
	case OpBelow:
		return have < bound
	}
	return false
}

// contradicts reports whether no model at all can meet both constraints.
func (c Constraint) contradicts(d Constraint) bool {
	if c.Label != d.Label {
		return false
	}
	if c.Op > d.Op {
		c, d = d, c
	}
	a, ok := number(c.Value)
	b, _ := number(d.Value)
	upper := d.Op == OpAtMost || d.Op == OpBelow
	switch {
	case c.Op == OpEqual && d.Op == OpNot:
		return same(c.Value, d.Value)
	case c.Op == OpEqual && d.Op >= OpAtLeast:
		return !ok || !d.Op.holds(a, b)
	case c.Op == OpAtLeast && d.Op == OpAtMost:
		return a > b
	case c.Op == OpAtLeast && upper, c.Op == OpAbove && upper:
		return a >= b
	case c.Op == OpAtMost && d.Op == OpAbove:
		return a <= b
	}
	return false
}

func isOff(value string) bool {
	switch strings.ToLower(value) {
	case "false", "no", "off", "0":
		return true
	}
	return false
}

func same(a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	x, ok := number(a)
	y, ok2 := number(b)
	return ok && ok2 && x == y
}

// number reads "8192", "8k" or "1.5M".
func number(s string) (float64, bool) {
	unit := 1.0
	if n := len(s) - 1; n > 0 {
		switch s[n] {
		case 'k', 'K':
			s, unit = s[:n], 1<<10
		case 'm', 'M':
			s, unit = s[:n], 1<<20
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	return f * unit, err == nil && !math.IsNaN(f) && !math.IsInf(f*unit, 0)
}
