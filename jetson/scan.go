package jetson

import (
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// scanner is a cursor over one line. Its methods that report false leave the
// cursor where the fault was seen.
type scanner struct {
	s string
	i int
}

// Classes of characters.
const (
	isBlank = 1 << iota
	isDigit
	isLetter
	isNameMark // may stand in a name, but does not begin one
)

// class is a table because every character of every line is looked up in it.
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

// skip steps over characters of a class and returns them. The loops of a scanner
// run on copies of its fields, which the compiler keeps in registers.
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

// name reads the name of an engine, a sensor or a rail: letters first. What is
// not a name gives "".
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

// number reads digits. False: there are none, or the number is above most.
func (s *scanner) number(most int64) (int64, bool) {
	line, i, n := s.s, s.i, int64(0)
	for ; i < len(line); i++ {
		d := line[i] - '0'
		if d > 9 {
			break
		}
		// most is far below 2^63/10 wherever it is used, so this cannot overflow.
		if n = n*10 + int64(d); n > most {
			return 0, false
		}
	}
	some := i > s.i
	s.i = i
	return n, some
}

// Bounds of what is believed. They are far beyond any board and small enough
// that no arithmetic on what was read overflows.
const (
	mostKilobytes  = 1 << 42 // 4 PiB
	mostPercent    = 999
	mostMHz        = 1_000_000
	mostMilliwatts = 1_000_000_000
	mostBlocks     = 1 << 30
	mostDigits     = 1e15 // decimal digits that a float64 holds exactly
)

func (s *scanner) percent() (Percent, bool) {
	n, ok := s.number(mostPercent)
	return Percent(n), ok && s.char('%')
}

func (s *scanner) mhz() (Hertz, bool) {
	n, ok := s.number(mostMHz)
	return Hertz(n) * MHz, ok
}

// unit reads a unit of bytes. Every unit is binary, however it is spelt:
// tegrastats divides by 1024 (field "kB" of a 512 KiB block is 512).
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
	n, ok := s.number(mostKilobytes)
	if !ok {
		return 0, false
	}
	return s.of(n)
}

// of reads the unit that n is in.
func (s *scanner) of(n int64) (tier.Bytes, bool) {
	u, ok := s.unit()
	if !ok || tier.Bytes(n) > mostKilobytes*tier.KiB/u {
		return 0, false
	}
	return tier.Bytes(n) * u, true
}

// share reads "used/total" and the unit of both. More used than there is in
// total is refused: such a line is damaged.
func (s *scanner) share() (used, total tier.Bytes, ok bool) {
	u, ok := s.number(mostKilobytes)
	if !ok || !s.char('/') {
		return 0, 0, false
	}
	t, ok := s.number(mostKilobytes)
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
			if digits, scale = digits*10+int64(d), scale*10; digits > mostDigits || scale > mostDigits {
				return 0, false
			}
		}
		if i == s.i {
			return 0, false
		}
		s.i = i
	}
	// Both are exact in a float64, so that the quotient is the float64 nearest to
	// what is printed, which is also what strconv prints again.
	v := Celsius(digits) / Celsius(scale)
	if minus {
		v = -v
	}
	return v, s.char('C')
}

// milliwatts reads a whole number, with its unit from JetPack 5 on.
func (s *scanner) milliwatts() (Milliwatts, bool) {
	minus := s.char('-')
	n, ok := s.number(mostMilliwatts)
	if !ok {
		return 0, false
	}
	s.lit("mW")
	if minus {
		n = -n
	}
	return Milliwatts(n), true
}
