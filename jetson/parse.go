package jetson

import (
	"strconv"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Parse reads one line of tegrastats, of any release from L4T R24 to R39.
//
// A line is a reading if it has RAM. Its head (time, RAM, SWAP, IRAM, and the cores up
// to their closing bracket) must be well formed; otherwise the line is damaged and the
// error, a *tier.InvalidError, names the field. The rest is read item by item, in any
// order; an item of unknown form goes to Unknown and does no harm.
//
// Parse allocates once for the lists of a reading of usual length, and never in
// proportion to a number in the line. The Reading refers to parts of line.
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
	// lists is the memory of the Reading's lists. A list that outgrows its part moves
	// alone.
	lists    *lists
	clusters []Cluster // of all engines
}

// lists is one allocation for all lists of a Reading, large enough for the longest
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
		return damaged("RAM", p.s, `must be in every line: "RAM used/totalMB (lfb NxSize)"`)
	}
	return nil
}

// unknown adds the token that began at from to Unknown.
func (p *parser) unknown(from int) {
	p.i = from
	p.r.Unknown = append(p.r.Unknown, p.rest(from))
}

// damaged returns the error of a damaged line, with a bounded part of it.
func damaged(field, value, rule string) error {
	const maxValue = 48
	quoted := strconv.Quote(value[:min(len(value), maxValue)])
	if len(value) > maxValue {
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
	// time.Date turns 31 April into 1 May.
	if !ok || !p.ended() || time.Date(f[2], time.Month(f[0]), f[1], 0, 0, 0, 0, time.UTC).Day() != f[1] {
		return damaged("time", p.s[from:], "must be MM-DD-YYYY HH:MM:SS")
	}
	p.r.Time = time.Date(f[2], time.Month(f[0]), f[1], f[3], f[4], f[5], 0, time.Local)
	return nil
}

// field reads a number from minValue to maxValue, of two digits or of four.
func (s *scanner) field(v *int, minValue, maxValue int) bool {
	from := s.i
	n, ok := s.number(int64(maxValue))
	*v = int(n)
	return ok && *v >= minValue && (s.i-from == 2 || s.i-from == 4 && maxValue > 99)
}

// memory reads "877/7620MB (lfb 14x4MB)". A second RAM means that two lines are
// mixed.
func (p *parser) memory() error {
	p.skip(isBlank)
	from := p.i
	if p.ram {
		return damaged("RAM", p.s[from:], "must occur once")
	}
	used, total, ok := p.share()
	if !ok || total == 0 {
		return damaged("RAM", p.s[from:], "must be used/total with a unit, with used at most total")
	}
	p.ram, p.r.RAMUsed, p.r.RAMTotal = true, used, total
	if p.peek() != '(' {
		return nil
	}
	from = p.i
	ok = p.lit("(lfb")
	p.skip(isBlank)
	blocks, ok1 := p.number(maxBlocks)
	ok = ok && ok1 && p.char('x')
	size, ok2 := p.bytes()
	if !(ok && ok2 && p.char(')')) || size == 0 && blocks > 0 {
		return damaged("lfb", p.s[from:], "must be (lfb NxSize)")
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
		return damaged("SWAP", p.s[from:], "must occur once, as used/total with a unit and (cached size)")
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
		return damaged("IRAM", p.s[from:], "must occur once, as used/total with a unit and (lfb size)")
	}
	p.r.IRAM = Some(IRAM{Used: used, Total: total, LargestFreeBlock: block})
	return nil
}

// parenthesis reads its opening text, a size, and ")".
func (s *scanner) parenthesis(open string) (tier.Bytes, bool) {
	s.skip(isBlank)
	ok := s.lit(open)
	s.skip(isBlank)
	n, ok2 := s.bytes()
	return n, ok && ok2 && s.char(')')
}

// cores reads "[4%@729,off]", and the "@1734" that L4T R28 and older print after it
// for all cores. A list of another form goes to Unknown as a whole, from its word on; a
// list without an end and a second list are damage.
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
		return damaged("CPU", p.s[from:], "must occur once, as [load%@MHz,…] with off for an unplugged core")
	}
	p.r.CPUs = nil
	p.i = from + length
	p.rest(p.i)
	p.r.Unknown = append(p.r.Unknown, p.s[word:p.i])
	return nil
}

// temperature reads the rest of "gpu@39.843C" or "gpu@52.656C/52.75C". False: it has
// another form.
func (p *parser) temperature(name string) bool {
	if name == "" || !p.char('@') {
		return false
	}
	t := Temperature{Name: name}
	var ok bool
	if t.Now, ok = p.celsius(); !ok {
		return false
	}
	if p.char('/') {
		if t.Max.Value, ok = p.celsius(); !ok {
			return false
		}
		t.Max.Known = true
	}
	if !p.ended() {
		return false
	}
	if p.r.Temperatures == nil {
		p.r.Temperatures = p.room().temperatures[:0]
	}
	p.r.Temperatures = append(p.r.Temperatures, t)
	return true
}

// item reads the rest of a rail, an engine, MTS or EDP, whose name began at from.
// False: it has another form.
func (p *parser) item(name string, from int) bool {
	p.skip(isBlank)
	value := p.i
	if p.rail(name) {
		return true
	}
	p.i = value
	if p.engine(name) {
		return true
	}
	p.i = value
	switch name {
	case "MTS":
		return p.mts() || p.broken(from)
	case "EDP":
		return p.edp() || p.broken(from)
	}
	return false
}

// broken adds an item of several words to Unknown, up to the wrong word: the words
// before that ("fg 1%") would otherwise read as items.
func (p *parser) broken(from int) bool {
	p.r.Unknown = append(p.r.Unknown, p.rest(from))
	return true
}

// rail reads "4321mW/4286mW", "4321/4286" or "4321mW/4286mW/4400mW".
func (p *parser) rail(name string) bool {
	r := Rail{Name: name}
	var ok bool
	if r.Now, ok = p.milliwatts(); !ok || !p.char('/') {
		return false
	}
	if r.Average, ok = p.milliwatts(); !ok {
		return false
	}
	if p.char('/') {
		if r.Peak.Value, ok = p.milliwatts(); !ok {
			return false
		}
		r.Peak.Known = true
	}
	if !p.ended() {
		return false
	}
	if p.r.Rails == nil {
		p.r.Rails = p.room().rails[:0]
	}
	p.r.Rails = append(p.r.Rails, r)
	return true
}

// engine reads one of
//
//	off   7%   716   @1556   7%@1300   7%@[305,305]   @[314,314,314]   [5%,9%]@704
//
// A bare number is a frequency in MHz.
func (p *parser) engine(name string) bool {
	e := Engine{Name: name}
	ok := true
	switch {
	case p.lit("off"):
		e.Off = true
	case p.char('['):
		ok = p.loads(&e) && (!p.char('@') || p.frequency(&e))
	case p.char('@'):
		ok = p.frequency(&e)
	default:
		var n int64
		n, ok = p.number(maxMHz)
		switch {
		case !ok:
		case !p.char('%'):
			e.Freq = Some(Hertz(n) * MHz)
		case n <= maxPercent:
			e.Load = Some(Percent(n))
			ok = !p.char('@') || p.frequency(&e)
		default:
			ok = false
		}
	}
	if !ok || !p.ended() {
		return false
	}
	if p.r.Engines == nil {
		p.r.Engines = p.room().engines[:0]
	}
	p.r.Engines = append(p.r.Engines, e)
	return true
}

// loads reads the rest of "[5%,9%]".
func (p *parser) loads(e *Engine) bool {
	for first := len(p.clusters); ; {
		load, ok := p.percent()
		if !ok {
			return false
		}
		e.Load = Some(max(e.Load.Value, load))
		p.cluster(Cluster{Load: Some(load)})
		if !p.char(',') {
			p.keep(e, first)
			return p.char(']')
		}
	}
}

// frequency reads "1300" or "[305,305]".
func (p *parser) frequency(e *Engine) bool {
	if !p.char('[') {
		freq, ok := p.mhz()
		e.Freq = Some(freq)
		return ok
	}
	for first := len(p.clusters); ; {
		freq, ok := p.mhz()
		if !ok {
			return false
		}
		e.Freq = Some(max(e.Freq.Value, freq))
		p.cluster(Cluster{Freq: Some(freq)})
		if !p.char(',') {
			p.keep(e, first)
			return p.char(']')
		}
	}
}

func (p *parser) cluster(c Cluster) {
	if p.clusters == nil {
		p.clusters = p.room().clusters[:0]
	}
	p.clusters = append(p.clusters, c)
}

// keep gives e the clusters from first on. One alone adds nothing to the engine's own
// figure.
func (p *parser) keep(e *Engine, first int) {
	if own := p.clusters[first:]; len(own) > 1 {
		e.Clusters = own[:len(own):len(own)]
	} else {
		p.clusters = p.clusters[:first]
	}
}

// mts reads the rest of "MTS fg 1% bg 9%".
func (p *parser) mts() bool {
	var m MTS
	if p.after("fg", &m.Foreground) && p.after("bg", &m.Background) {
		p.r.MTS = Some(m)
		return true
	}
	return false
}

// after reads the word and a percentage after it.
func (p *parser) after(word string, v *Percent) bool {
	p.skip(isBlank)
	ok := p.lit(word) && p.ended()
	p.skip(isBlank)
	if ok {
		*v, ok = p.percent()
	}
	return ok && p.ended()
}

// edp reads the rest of "EDP limit 1734".
func (p *parser) edp() bool {
	ok := p.lit("limit") && p.ended()
	p.skip(isBlank)
	freq, ok2 := p.mhz()
	if ok = ok && ok2 && p.ended(); ok {
		p.r.EDPLimit = Some(freq)
	}
	return ok
}
