package jetson

import (
	"strconv"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Parse reads one line of tegrastats, of any release from L4T R24 to R39.
//
// A line is a reading if it has RAM. What opens the line (time, RAM, SWAP, IRAM, and
// the cores as far as their closing bracket) must be well formed: where it is not,
// the line is damaged and the error, a *tier.InvalidError, names the field. All the
// rest is read item by item, in any order; an item in a form that is not known goes
// to Unknown and harms nothing.
//
// Parse allocates once for the lists of a reading of usual length, and never in
// proportion to a number that the line claims. It keeps parts of line in the
// Reading.
func Parse(line string) (Reading, error) {
	p := parser{scanner: scanner{s: line}}
	if err := p.line(); err != nil {
		return Reading{}, err
	}
	return p.r, nil
}

// parser reads one line into a Reading.
type parser struct {
	scanner
	r   Reading
	ram bool
	// lists is where the Reading's lists begin. A line with more of a kind than
	// there is room for grows that list alone.
	lists    *lists
	clusters []Cluster // of all engines
}

// lists is one allocation for all lists of a Reading, with room for the longest
// real lines: Thor has 14 cores, 12 engines and 3 GPU clusters, Orin NX 9
// temperatures, TX2 6 rails.
type lists struct {
	cpus         [14]CPU
	engines      [14]Engine
	clusters     [4]Cluster
	temperatures [10]Temperature
	rails        [8]Rail
}

func (p *parser) room() *lists {
	if p.lists == nil {
		p.lists = new(lists)
	}
	return p.lists
}

func (p *parser) line() error {
	if c := p.peek(); class[c]&isDigit != 0 && p.dated() {
		if err := p.time(); err != nil {
			return err
		}
	}
	for p.peek() != 0 {
		var err error
		from := p.i
		switch word := p.name(); {
		case !p.ended():
			if !p.temperature(word) {
				p.unknown(from)
			}
		case word == "RAM":
			err = p.memory()
		case word == "SWAP":
			err = p.swap()
		case word == "IRAM":
			err = p.iram()
		case (word == "CPU" || word == "cpu") && p.peek() == '[':
			// "CPU [" opens the cores; "CPU 311/311" is a rail of AGX Xavier.
			err = p.cores(from)
		default:
			if !p.item(word, from) {
				p.unknown(from)
			}
		}
		if err != nil {
			return err
		}
	}
	if !p.ram {
		return fault("RAM", p.s, `must be in every line: "RAM used/totalMB (lfb NxSize)"`)
	}
	return nil
}

// unknown sets the token that began at from aside.
func (p *parser) unknown(from int) {
	p.i = from
	p.r.Unknown = append(p.r.Unknown, p.rest(from))
}

// fault is a damaged line. The value in it is bounded, however long the line is.
func fault(field, value, rule string) error {
	const most = 48
	quoted := strconv.Quote(value[:min(len(value), most)])
	if len(value) > most {
		quoted += "…"
	}
	return &tier.InvalidError{Field: "tegrastats " + field, Value: quoted, Rule: rule}
}

// dated reports whether the token that begins here has the shape MM-DD-YYYY.
func (p *parser) dated() bool {
	at := p.i
	tok := p.rest(at)
	p.i = at
	return len(tok) == len("MM-DD-YYYY") && tok[2] == '-' && tok[5] == '-'
}

// time reads "05-13-2026 12:04:03".
func (p *parser) time() error {
	from := p.i
	var f [6]int
	ok := p.field(&f[0], 1, 12) && p.char('-') && p.field(&f[1], 1, 31) && p.char('-') && p.field(&f[2], 1970, 9999)
	ok = ok && p.peek() != 0
	ok = ok && p.field(&f[3], 0, 23) && p.char(':') && p.field(&f[4], 0, 59) && p.char(':') && p.field(&f[5], 0, 59)
	if !ok || !p.ended() || f[1] > daysIn(f[0], f[2]) {
		return fault("time", p.s[from:], "must be MM-DD-YYYY HH:MM:SS")
	}
	p.r.Time = time.Date(f[2], time.Month(f[0]), f[1], f[3], f[4], f[5], 0, time.Local)
	return nil
}

// field reads a number between least and most, of two digits or of four.
func (s *scanner) field(v *int, least, most int) bool {
	from := s.i
	n, ok := s.number(int64(most))
	*v = int(n)
	return ok && *v >= least && (s.i-from == 2 || s.i-from == 4 && most > 99)
}

func daysIn(month, year int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// memory reads "877/7620MB (lfb 14x4MB)". A second RAM means that two lines ran
// into each other.
func (p *parser) memory() error {
	p.skip(isBlank)
	from := p.i
	if p.ram {
		return fault("RAM", p.s[from:], "must be there once")
	}
	used, total, ok := p.share()
	if !ok || total == 0 {
		return fault("RAM", p.s[from:], "must be used/total with a unit, and no more used than there is")
	}
	p.ram, p.r.RAMUsed, p.r.RAMTotal = true, used, total
	if p.peek() != '(' {
		return nil
	}
	from = p.i
	ok = p.lit("(lfb")
	p.skip(isBlank)
	blocks, ok1 := p.number(mostBlocks)
	ok = ok && ok1 && p.char('x')
	size, ok2 := p.bytes()
	if !(ok && ok2 && p.char(')')) || size == 0 && blocks > 0 {
		return fault("lfb", p.s[from:], "must be (lfb NxSize)")
	}
	p.r.LargestFreeBlock, p.r.LargestFreeBlocks = size, int(blocks)
	return nil
}

// swap reads "25/2048MB (cached 1MB)".
func (p *parser) swap() error {
	p.skip(isBlank)
	from := p.i
	used, total, ok1 := p.share()
	cached, ok2 := p.parenthesis("(cached")
	if !(ok1 && ok2) || p.r.HasSwap {
		return fault("SWAP", p.s[from:], "must be there once, used/total with a unit and (cached size)")
	}
	p.r.HasSwap, p.r.SwapUsed, p.r.SwapTotal, p.r.SwapCached = true, used, total, cached
	return nil
}

// iram reads "0/252kB(lfb 252kB)", which has no blank before the parenthesis.
func (p *parser) iram() error {
	p.skip(isBlank)
	from := p.i
	used, total, ok1 := p.share()
	block, ok2 := p.parenthesis("(lfb")
	if !(ok1 && ok2) || p.r.IRAM.Known {
		return fault("IRAM", p.s[from:], "must be there once, used/total with a unit and (lfb size)")
	}
	p.r.IRAM = Some(IRAM{Used: used, Total: total, LargestFreeBlock: block})
	return nil
}

// parenthesis reads what opens it, a size, and ")".
func (s *scanner) parenthesis(open string) (tier.Bytes, bool) {
	s.skip(isBlank)
	ok := s.lit(open)
	s.skip(isBlank)
	n, ok2 := s.bytes()
	return n, ok && ok2 && s.char(')')
}

// cores reads "[4%@729,off]", and the "@1734" after it that L4T R28 and older
// print once for all cores. The item, which began at word, is set aside whole where
// it is in another form: a list without its end is a damaged line, and so is a
// second list.
func (p *parser) cores(word int) error {
	from, again := p.i, p.r.CPUs != nil
	ok := !again
	p.r.CPUs = p.room().cpus[:0]
	for more := p.char('['); ok && more; more = p.char(',') {
		p.skip(isBlank)
		var c CPU
		if !p.lit("off") {
			c.Load.Value, ok = p.percent()
			c.Load.Known = true
			if ok && p.char('@') {
				c.Freq.Value, ok = p.mhz()
				c.Freq.Known = true
			}
		}
		p.r.CPUs = append(p.r.CPUs, c)
		p.skip(isBlank)
	}
	ok = ok && p.char(']')
	if ok && p.char('@') {
		var freq Hertz
		freq, ok = p.mhz()
		for i := range p.r.CPUs {
			if c := &p.r.CPUs[i]; !c.Off() && !c.Freq.Known {
				c.Freq = Some(freq)
			}
		}
	}
	if ok && p.ended() {
		return nil
	}
	length := strings.IndexByte(p.s[from:], ']')
	if again || length < 0 {
		return fault("CPU", p.s[from:], "must be there once, as [load%@MHz,…] or off for each core")
	}
	p.r.CPUs = nil
	p.i = from + length
	p.rest(p.i)
	p.r.Unknown = append(p.r.Unknown, p.s[word:p.i])
	return nil
}
