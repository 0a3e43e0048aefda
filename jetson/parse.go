package jetson

import (
	"regexp"
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
// Parse never allocates in proportion to a number in the line. The Reading refers to
// parts of line.
func Parse(line string) (Reading, error) {
	p := parser{rest: line}
	if err := p.time(); err != nil {
		return Reading{}, err
	}
	for p.skip(); p.rest != ""; p.skip() {
		if err := p.item(); err != nil {
			return Reading{}, err
		}
	}
	if p.r.RAMTotal == 0 {
		return Reading{}, damaged("RAM", line, `must be in every line: "RAM used/totalMB (lfb NxSize)"`)
	}
	return p.r, nil
}

// parser reads one line, token by token, into a Reading.
type parser struct {
	rest string // what is not read yet
	r    Reading
}

const blanks = " \t\r\n"

func (p *parser) skip() { p.rest = strings.TrimLeft(p.rest, blanks) }

// next returns the next token; "" at the end.
func (p *parser) next() string {
	p.skip()
	return p.tail()
}

// tail returns what is left of the token at the cursor.
func (p *parser) tail() string {
	end := strings.IndexAny(p.rest, blanks)
	if end < 0 {
		end = len(p.rest)
	}
	token := p.rest[:end]
	p.rest = p.rest[end:]
	return token
}

// unknown adds what was read since start to Unknown.
func (p *parser) unknown(start string) {
	p.r.Unknown = append(p.r.Unknown, strings.TrimRight(start[:len(start)-len(p.rest)], blanks))
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

// time reads "05-13-2026 12:04:03" if the line begins with a token of that shape.
func (p *parser) time() error {
	p.skip()
	start := p.rest
	date := p.next()
	if len(date) != len("MM-DD-YYYY") || date[2] != '-' || date[5] != '-' {
		p.rest = start
		return nil
	}
	clock := p.next()
	at, err := time.ParseInLocation("01-02-2006 15:04:05", date+" "+clock, time.Local)
	if err != nil || len(clock) != len("HH:MM:SS") {
		return damaged("time", start, "must be MM-DD-YYYY HH:MM:SS")
	}
	p.r.Time = at
	return nil
}

// isName matches names of engines, sensors and rails.
var isName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*$`).MatchString

// item reads what the next token begins. The rest of an item of unknown form may be
// read as items again.
func (p *parser) item() error {
	start := p.rest
	word := p.next()
	p.skip()
	switch {
	case word == "RAM":
		return p.memory()
	case word == "SWAP":
		return p.swap()
	case word == "IRAM":
		return p.iram()
	case (word == "CPU" || word == "cpu") && strings.HasPrefix(p.rest, "["):
		// "CPU [" opens the cores; "CPU 311/311" is a rail of AGX Xavier.
		return p.cores(start)
	case p.temperature(word) || isName(word) && p.figure(word):
	case word == "MTS":
		p.mts(start)
	case word == "EDP":
		p.edp(start)
	default:
		p.unknown(start)
	}
	return nil
}

// amounts matches what follows RAM, SWAP and IRAM: "877/7620MB (lfb 14x4MB)",
// "25/2048MB (cached 1MB)", "0/252kB(lfb 252kB)".
var amounts = regexp.MustCompile(`^(\d+)/(\d+)([kKM]B)(?:\s*\(([a-z]+)\s*(?:(\d+)x)?(\d+)([kKM]B)\))?`)

// amount is what follows RAM, SWAP or IRAM.
type amount struct {
	used, total tier.Bytes
	word        string // in parentheses: "lfb" or "cached"; "": none
	blocks      string // number of blocks; "": not printed
	size        tier.Bytes
}

// amount reads an amount. It refuses used above total, which shows damage.
func (p *parser) amount() (amount, bool) {
	m := amounts.FindStringSubmatch(p.rest)
	if m == nil {
		return amount{}, false
	}
	p.rest = p.rest[len(m[0]):]
	s := amount{word: m[4], blocks: m[5]}
	var ok [3]bool
	s.used, ok[0] = parseSize(m[1], m[3])
	s.total, ok[1] = parseSize(m[2], m[3])
	s.size, ok[2] = parseSize(m[6], m[7])
	return s, ok[0] && ok[1] && (ok[2] || s.word == "") && s.used <= s.total
}

// parseSize returns that many of a unit. Each unit is binary: tegrastats prints a block of
// 512 KiB as "512kB".
func parseSize(digits, unit string) (tier.Bytes, bool) {
	n, ok := number(digits, 1<<32) // far beyond any board, and no overflow
	if unit == "MB" {
		return tier.Bytes(n) * tier.MiB, ok
	}
	return tier.Bytes(n) * tier.KiB, ok
}

// memory reads what follows RAM. A second RAM means that two lines are mixed.
func (p *parser) memory() error {
	from := p.rest
	if p.r.RAMTotal != 0 {
		return damaged("RAM", from, "must occur once")
	}
	s, ok := p.amount()
	if !ok || s.total == 0 {
		return damaged("RAM", from, "must be used/total with a unit, with used at most total")
	}
	p.r.RAMUsed, p.r.RAMTotal = s.used, s.total
	p.skip()
	if s.word == "" && !strings.HasPrefix(p.rest, "(") {
		return nil
	}
	blocks, ok := number(s.blocks, 1<<30)
	if !ok || s.word != "lfb" || s.size == 0 && blocks > 0 {
		return damaged("lfb", from, "must be (lfb NxSize)")
	}
	p.r.LargestFreeBlock, p.r.LargestFreeBlocks = s.size, int(blocks)
	return nil
}

func (p *parser) swap() error {
	from := p.rest
	s, ok := p.amount()
	if !ok || s.word != "cached" || s.blocks != "" || p.r.HasSwap {
		return damaged("SWAP", from, "must occur once, as used/total with a unit and (cached size)")
	}
	p.r.HasSwap, p.r.SwapUsed, p.r.SwapTotal, p.r.SwapCached = true, s.used, s.total, s.size
	return nil
}

func (p *parser) iram() error {
	from := p.rest
	s, ok := p.amount()
	if !ok || s.word != "lfb" || s.blocks != "" || p.r.IRAM.Known {
		return damaged("IRAM", from, "must occur once, as used/total with a unit and (lfb size)")
	}
	p.r.IRAM = Some(IRAM{Used: s.used, Total: s.total, LargestFreeBlock: s.size})
	return nil
}

// cores reads "[4%@729,off]", and the "@1734" that L4T R28 and older print after it
// for all cores. A list of another form goes to Unknown as a whole, from its word on; a
// list without an end and a second list are damage.
func (p *parser) cores(start string) error {
	list, rest, closed := strings.Cut(p.rest[1:], "]")
	if !closed || p.r.CPUs != nil {
		return damaged("CPU", p.rest, "must occur once, as [load%@MHz,…] with off for an unplugged core")
	}
	p.rest = rest
	var common Opt[Hertz]
	ok := true
	if after := p.tail(); after != "" {
		freq, at := strings.CutPrefix(after, "@")
		common, ok = parseMHz(freq)
		ok = ok && at
	}
	for core := range strings.SplitSeq(list, ",") {
		c := CPU{}
		if core = strings.Trim(core, blanks); core != "off" && ok {
			load, freq, printed := strings.Cut(core, "@")
			c.Freq = common
			c.Load, ok = parsePercent(load)
			if printed && ok {
				c.Freq, ok = parseMHz(freq)
			}
		}
		p.r.CPUs = append(p.r.CPUs, c)
	}
	if !ok {
		p.r.CPUs = nil
		p.unknown(start)
	}
	return nil
}

// temperature reads "gpu@39.843C" or "gpu@52.656C/52.75C". False: the token has another
// form.
func (p *parser) temperature(token string) bool {
	name, values, _ := strings.Cut(token, "@")
	now, highest, two := strings.Cut(values, "/")
	t := Temperature{Name: name}
	var ok bool
	if t.Now, ok = parseCelsius(now); !ok || !isName(name) {
		return false
	}
	if two {
		if t.Max.Value, t.Max.Known = parseCelsius(highest); !t.Max.Known {
			return false
		}
	}
	p.r.Temperatures = append(p.r.Temperatures, t)
	return true
}

// figure reads the token after the name of a rail or an engine. False: it has another
// form, and is not read.
func (p *parser) figure(name string) bool {
	start := p.rest
	value := p.next()
	if rail, ok := parseRail(name, value); ok {
		p.r.Rails = append(p.r.Rails, rail)
		return true
	}
	if engine, ok := parseEngine(name, value); ok {
		p.r.Engines = append(p.r.Engines, engine)
		return true
	}
	p.rest = start
	return false
}

// parseRail reads "4321mW/4286mW", "4321/4286" or "4321mW/4286mW/4400mW".
func parseRail(name, value string) (r Rail, ok bool) {
	parts := strings.SplitN(value, "/", 4)
	if len(parts) != 2 && len(parts) != 3 {
		return r, false
	}
	var power [3]Milliwatts
	for i, part := range parts {
		n, err := strconv.ParseInt(strings.TrimSuffix(part, "mW"), 10, 32)
		if err != nil {
			return r, false
		}
		power[i] = Milliwatts(n)
	}
	return Rail{Name: name, Now: power[0], Average: power[1], Peak: Opt[Milliwatts]{power[2], len(parts) == 3}}, true
}

// parseEngine reads one of
//
//	off   7%   716   @1556   7%@1300   7%@[305,305]   @[314,314,314]   [5%,9%]@704
//
// A bare number is a frequency in MHz.
func parseEngine(name, value string) (e Engine, ok bool) {
	loads, freqs, at := strings.Cut(value, "@")
	freq, bare := parseMHz(value)
	switch e.Name = name; {
	case value == "off":
		e.Off = true
		return e, true
	case bare:
		e.Freq = freq
		return e, true
	case value == "":
		return e, false
	}
	var byLoad, byFreq []Cluster
	if loads != "" {
		for _, text := range list(loads) {
			load, ok := parsePercent(text)
			if !ok {
				return e, false
			}
			e.Load = Some(max(e.Load.Value, load.Value))
			byLoad = append(byLoad, Cluster{Load: load})
		}
	}
	if at {
		for _, text := range list(freqs) {
			freq, ok := parseMHz(text)
			if !ok {
				return e, false
			}
			e.Freq = Some(max(e.Freq.Value, freq.Value))
			byFreq = append(byFreq, Cluster{Freq: freq})
		}
	}
	// One cluster alone adds nothing to the engine's own figure.
	if e.Clusters = byLoad; len(byFreq) > 1 {
		e.Clusters = byFreq
	} else if len(byLoad) < 2 {
		e.Clusters = nil
	}
	return e, true
}

// list returns the parts of "[305,305]", or the text if it has no brackets.
func list(text string) []string {
	inner, opened := strings.CutPrefix(text, "[")
	if inner, closed := strings.CutSuffix(inner, "]"); opened && closed {
		return strings.Split(inner, ",")
	}
	return []string{text}
}

// mts reads the rest of "MTS fg 1% bg 9%". Of another form, it goes to Unknown up to the
// wrong word: the words before that ("fg 1%") would otherwise read as items.
func (p *parser) mts(start string) {
	var load [2]Opt[Percent]
	for i, word := range []string{"fg", "bg"} {
		ok := p.next() == word
		if ok {
			load[i], ok = parsePercent(p.next())
		}
		if !ok {
			p.unknown(start)
			return
		}
	}
	p.r.MTS = Some(MTS{load[0].Value, load[1].Value})
}

// edp reads the rest of "EDP limit 1734", as mts does.
func (p *parser) edp(start string) {
	if p.next() == "limit" {
		if freq, ok := parseMHz(p.next()); ok {
			p.r.EDPLimit = freq
			return
		}
	}
	p.unknown(start)
}

// number reads digits, up to a limit.
func number(digits string, limit uint64) (uint64, bool) {
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && n <= limit
}

func parsePercent(text string) (Opt[Percent], bool) {
	digits, ok := strings.CutSuffix(text, "%")
	n, valid := number(digits, 999)
	return Opt[Percent]{Percent(n), ok && valid}, ok && valid
}

func parseMHz(digits string) (Opt[Hertz], bool) {
	n, ok := number(digits, 1_000_000)
	return Opt[Hertz]{Hertz(n) * MHz, ok}, ok
}

// parseCelsius reads a decimal number and "C".
func parseCelsius(text string) (Celsius, bool) {
	decimal, ok := strings.CutSuffix(text, "C")
	v, err := strconv.ParseFloat(decimal, 64)
	return Celsius(v), ok && err == nil && strings.Trim(decimal, "-.0123456789") == "" && v >= -1000 && v <= 1000
}
