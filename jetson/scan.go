package jetson

import (
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// scanner is a cursor over one line. A method that reports false leaves the cursor at
// the fault.
type scanner struct {
	s string
	i int
}

// Classes of characters.
const (
	isBlank = 1 << iota
	isDigit
	isLetter
	isNameMark // in a name, but not at its start
)

// class is a table for speed: each character of each line is looked up.
var class = func() (t [256]uint8) {
	for _, c := range " \t\r\n" {
		t[c] = isBlank
	}
	for c := '0'; c <= '9'; c++ {
		t[c] = isDigit | isNameMark
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = isLetter, isLetter
	}
	for _, c := range "_-." {
		t[c] = isNameMark
	}
	return t
}()

// skip steps over characters of a class and returns them. The loops of a scanner use
// copies of its fields, which the compiler keeps in registers.
func (s *scanner) skip(of uint8) string {
	line, i := s.s, s.i
	for i < len(line) && class[line[i]]&of != 0 {
		i++
	}
	from := s.i
	s.i = i
	return line[from:i]
}

// rest steps over the rest of the token and returns the token, which began at
// from.
func (s *scanner) rest(from int) string {
	for s.i < len(s.s) && class[s.s[s.i]]&isBlank == 0 {
		s.i++
	}
	return s.s[from:s.i]
}

// peek steps over blanks and returns the character after them, 0 at the end.
func (s *scanner) peek() byte {
	s.skip(isBlank)
	if s.i == len(s.s) {
		return 0
	}
	return s.s[s.i]
}

// ended reports whether the token ends here.
func (s *scanner) ended() bool { return s.i == len(s.s) || class[s.s[s.i]]&isBlank != 0 }

// name reads the name of an engine, a sensor or a rail, which begins with a letter.
// "": there is none.
func (s *scanner) name() string {
	if s.i == len(s.s) || class[s.s[s.i]]&isLetter == 0 {
		return ""
	}
	return s.skip(isLetter | isNameMark)
}

// char steps over c if it is next.
func (s *scanner) char(c byte) bool {
	if s.i == len(s.s) || s.s[s.i] != c {
		return false
	}
	s.i++
	return true
}

// lit steps over text if it is next.
func (s *scanner) lit(text string) bool {
	if !strings.HasPrefix(s.s[s.i:], text) {
		return false
	}
	s.i += len(text)
	return true
}

// number reads digits. False: there are none, or the number is above limit.
func (s *scanner) number(limit int64) (int64, bool) {
	line, i, n := s.s, s.i, int64(0)
	for ; i < len(line); i++ {
		d := line[i] - '0'
		if d > 9 {
			break
		}
		// Each limit is far below 2^63/10, so this cannot overflow.
		if n = n*10 + int64(d); n > limit {
			return 0, false
		}
	}
	some := i > s.i
	s.i = i
	return n, some
}

// Bounds of accepted numbers: far beyond any board, and small enough that arithmetic on
// them does not overflow.
const (
	maxKilobytes  = 1 << 42 // 4 PiB
	maxPercent    = 999
	maxMHz        = 1_000_000
	maxMilliwatts = 1_000_000_000
	maxBlocks     = 1 << 30
	maxDigits     = 1e15 // decimal digits that a float64 holds exactly
)

func (s *scanner) percent() (Percent, bool) {
	n, ok := s.number(maxPercent)
	return Percent(n), ok && s.char('%')
}

func (s *scanner) mhz() (Hertz, bool) {
	n, ok := s.number(maxMHz)
	return Hertz(n) * MHz, ok
}

// unit reads a unit of bytes. Each one is binary: tegrastats prints a block of 512 KiB
// as "512kB".
func (s *scanner) unit() (tier.Bytes, bool) {
	switch {
	case s.lit("MB"):
		return tier.MiB, true
	case s.lit("kB"), s.lit("KB"):
		return tier.KiB, true
	case s.lit("GB"):
		return tier.GiB, true
	case s.lit("B"):
		return 1, true
	}
	return 0, false
}

// bytes reads a number and its unit.
func (s *scanner) bytes() (tier.Bytes, bool) {
	n, ok := s.number(maxKilobytes)
	if !ok {
		return 0, false
	}
	return s.of(n)
}

// of reads the unit of n.
func (s *scanner) of(n int64) (tier.Bytes, bool) {
	u, ok := s.unit()
	if !ok || tier.Bytes(n) > maxKilobytes*tier.KiB/u {
		return 0, false
	}
	return tier.Bytes(n) * u, true
}

// share reads "used/total" and the unit of both. It refuses used above total, which
// shows damage.
func (s *scanner) share() (used, total tier.Bytes, ok bool) {
	u, ok := s.number(maxKilobytes)
	if !ok || !s.char('/') {
		return 0, 0, false
	}
	t, ok := s.number(maxKilobytes)
	if !ok || u > t {
		return 0, 0, false
	}
	at := s.i
	if total, ok = s.of(t); !ok {
		return 0, 0, false
	}
	s.i = at
	used, ok = s.of(u)
	return used, total, ok
}

// celsius reads a decimal number and "C".
func (s *scanner) celsius() (Celsius, bool) {
	minus := s.char('-')
	whole, ok := s.number(1000)
	if !ok {
		return 0, false
	}
	digits, scale := whole, int64(1)
	if s.char('.') {
		line, i := s.s, s.i
		for ; i < len(line); i++ {
			d := line[i] - '0'
			if d > 9 {
				break
			}
			if digits, scale = digits*10+int64(d), scale*10; digits > maxDigits || scale > maxDigits {
				return 0, false
			}
		}
		if i == s.i {
			return 0, false
		}
		s.i = i
	}
	// Both are exact in a float64, so the quotient is the float64 nearest to the decimal
	// number, which strconv prints as that number.
	v := Celsius(digits) / Celsius(scale)
	if minus {
		v = -v
	}
	return v, s.char('C')
}

// milliwatts reads a whole number, with its unit from JetPack 5 on.
func (s *scanner) milliwatts() (Milliwatts, bool) {
	minus := s.char('-')
	n, ok := s.number(maxMilliwatts)
	if !ok {
		return 0, false
	}
	s.lit("mW")
	if minus {
		n = -n
	}
	return Milliwatts(n), true
}
