package jetson

import (
	"slices"
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
// Parse allocates once for a line of usual length, and never in proportion to a number
// in the line. The Reading refers to parts of line.
func Parse(line string) (Reading, error) {
	p := parser{line: line, room: new(room)}
	p.clusters = p.room.clusters[:0]
	err := p.time()
	for p.skip(); err == nil && p.at < len(line); p.skip() {
		err = p.item()
	}
	if err == nil && p.r.RAMTotal == 0 {
		err = damaged("RAM", line, `must be in every line: "RAM used/totalMB (lfb NxSize)"`)
	}
	if err != nil {
		return Reading{}, err
	}
	return p.r, nil
}

// parser reads one line into a Reading.
type parser struct {
	line     string
	at       int        // the cursor
	wrong    int        // where the last failed read saw another form than expected
	unit     tier.Bytes // of the last size
	r        Reading
	room     *room
	clusters []Cluster // of all engines
}

// room is one allocation for the lists of a Reading, for as many entries as any known
// line has. A longer list moves out of it.
type room struct {
	cpus         [14]CPU
	engines      [14]Engine
	clusters     [6]Cluster
	temperatures [14]Temperature
	rails        [8]Rail
}

func add[T any](list *[]T, room []T, v T) {
	if *list == nil {
		*list = room[:0]
	}
	*list = append(*list, v)
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

// ended reports whether the cursor is at the end of a token.
func (p *parser) ended() bool {
	if p.at == len(p.line) {
		return true
	}
	c := p.line[p.at]
	return c == ' ' || c == '\t' || c == '\r' || c == '\n'
}

// skip steps over blanks.
func (p *parser) skip() {
	for p.at < len(p.line) && p.ended() {
		p.at++
	}
}

// token steps over what is left of the token at the cursor, and returns it.
func (p *parser) token() string {
	from := p.at
	for !p.ended() {
		p.at++
	}
	return p.line[from:p.at]
}

// name steps over the name of an engine, sensor or rail, and returns it; "": there is
// none.
func (p *parser) name() string {
	rest := p.line[p.at:]
	n := 0
	for ; n < len(rest); n++ {
		c := rest[n]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (n == 0 || (c < '0' || c > '9') && c != '_' && c != '.' && c != '-') {
			break
		}
	}
	p.at += n
	return rest[:n]
}

// read steps over what its parts describe. A part is a text, in which a blank at the
// front is any number of blanks; the end of a token; or a pointer to a figure, which is
// set. False: the line has another form, and the cursor stays.
func (p *parser) read(parts ...any) bool {
	from := p.at
	for _, part := range parts {
		if !p.part(part) {
			p.wrong, p.at = p.at, from
			return false
		}
	}
	return true
}

// end is the part that is the end of a token.
type end struct{}

func (p *parser) part(part any) bool {
	switch v := part.(type) {
	case string:
		if v[0] == ' ' {
			p.skip()
			v = v[1:]
		}
		return v == "" || p.text(v)
	case end:
		return p.ended()
	case *tier.Bytes: // each unit is binary: a block of 512 KiB is printed as "512kB"
		n, ok := p.number(1 << 32) // far beyond any board, and no overflow
		if p.unit = tier.KiB; p.text("MB") {
			p.unit = tier.MiB
		} else {
			ok = ok && (p.text("kB") || p.text("KB"))
		}
		*v = tier.Bytes(n) * p.unit
		return ok
	case *int:
		n, ok := p.number(1 << 30)
		*v = int(n)
		return ok
	case *Percent:
		n, ok := p.number(999)
		*v = Percent(n)
		return ok && p.text("%")
	case *Hertz:
		n, ok := p.number(1_000_000)
		*v = Hertz(n) * MHz
		return ok
	case *Milliwatts:
		sign := Milliwatts(1)
		if p.text("-") {
			sign = -1
		}
		n, ok := p.number(1<<31 - 1)
		*v = sign * Milliwatts(n)
		p.text("mW") // since JetPack 5
		return ok
	case *Celsius:
		from := p.at
		for p.at < len(p.line) && '-' <= p.line[p.at] && p.line[p.at] <= '9' && p.line[p.at] != '/' {
			p.at++
		}
		f, err := strconv.ParseFloat(p.line[from:p.at], 64)
		*v = Celsius(f)
		return err == nil && f >= -1000 && f <= 1000 && p.text("C")
	case *Engine:
		return p.engine(v)
	case *Opt[Hertz]:
		return option(p, "@", v)
	case *Opt[Milliwatts]:
		return option(p, "/", v)
	case *Opt[Celsius]:
		return option(p, "/", v)
	}
	return false
}

// option reads a text and a figure, or nothing if the text is not there.
func option[T any](p *parser, lead string, v *Opt[T]) bool {
	v.Known = p.text(lead)
	return !v.Known || p.part(&v.Value)
}

func (p *parser) text(text string) bool {
	rest := p.line[p.at:]
	ok := rest != "" && rest[0] == text[0] && strings.HasPrefix(rest, text) // mostly it is not there
	if ok {
		p.at += len(text)
	}
	return ok
}

// number reads digits, up to a limit.
func (p *parser) number(limit int64) (n int64, ok bool) {
	rest := p.line[p.at:]
	digits := 0
	for ; digits < len(rest) && '0' <= rest[digits] && rest[digits] <= '9'; digits++ {
		n = min(10*n+int64(rest[digits]-'0'), limit+1) // limits are far below 2^63/10
	}
	p.at += digits
	return n, digits > 0 && n <= limit
}

// time reads "05-13-2026 12:04:03" if the line begins with a token of that shape.
func (p *parser) time() error {
	p.skip()
	start := p.at
	date := p.token()
	if len(date) != len("MM-DD-YYYY") || date[2] != '-' || date[5] != '-' {
		p.at = start
		return nil
	}
	p.skip()
	clock := p.token()
	at, err := time.ParseInLocation("01-02-2006 15:04:05", date+" "+clock, time.Local)
	if err != nil || len(clock) != len("HH:MM:SS") {
		return damaged("time", p.line[start:], "must be MM-DD-YYYY HH:MM:SS")
	}
	p.r.Time = at
	return nil
}

// item reads what the next token begins, or adds it to Unknown. What follows a name of
// unknown form may be read as items again.
func (p *parser) item() error {
	start := p.at
	name := p.name()
	if !p.ended() {
		t := Temperature{Name: name}
		if name != "" && p.read("@", &t.Now, &t.Max, end{}) {
			add(&p.r.Temperatures, p.room.temperatures[:], t)
		} else {
			p.unknown(start)
		}
		return nil
	}
	after := p.at
	p.skip()
	rail, engine := Rail{Name: name}, Engine{Name: name}
	var mts MTS
	switch {
	case name == "RAM" || name == "SWAP" || name == "IRAM":
		return p.memory(name)
	case (name == "CPU" || name == "cpu") && p.read("["):
		// "CPU [" opens the cores; "CPU 311/311" is a rail of AGX Xavier.
		return p.cores(start)
	case p.read(&rail.Now, "/", &rail.Average, &rail.Peak, end{}):
		add(&p.r.Rails, p.room.rails[:], rail)
	case p.read(&engine, end{}):
		add(&p.r.Engines, p.room.engines[:], engine)
	case name == "MTS" && p.read("fg", end{}, " ", &mts.Foreground, end{}, " bg", end{}, " ", &mts.Background, end{}):
		p.r.MTS = Some(mts)
	case name == "EDP" && p.read("limit", end{}, " ", &engine.Freq.Value, end{}):
		p.r.EDPLimit = Some(engine.Freq.Value)
	case name == "MTS" || name == "EDP":
		after = p.wrong // the words before that, "fg 1%", would read as items
		fallthrough
	default:
		p.at = after
		p.unknown(start)
	}
	return nil
}

// unknown adds to Unknown what was read since start, with the rest of its last token.
func (p *parser) unknown(start int) {
	p.token()
	p.r.Unknown = append(p.r.Unknown, strings.TrimRight(p.line[start:p.at], " \t\r\n"))
}

// memory reads what follows RAM, SWAP and IRAM. Used above total and a second one show
// damage: two lines are mixed.
func (p *parser) memory(name string) error {
	from, r := p.line[p.at:], &p.r
	var n int
	var total, block tier.Bytes
	ok := p.read(&n, "/", &total)
	used := tier.Bytes(n) * p.unit
	ok = ok && used <= total
	rule := ""
	switch name {
	case "RAM":
		rule = "must occur once, as used/total with a unit, with used at most total"
		ok = ok && r.RAMTotal == 0 && total > 0
		r.RAMUsed, r.RAMTotal = used, total
		blocks, size := &r.LargestFreeBlocks, &r.LargestFreeBlock
		if ok && (!p.read(" (lfb", " ", blocks, "x", size, ")") && p.read(" (") || *size == 0 && *blocks > 0) {
			name, rule, ok = "lfb", "must be (lfb NxSize)", false
		}
	case "SWAP":
		rule = "must occur once, as used/total with a unit and (cached size)"
		ok = ok && !r.HasSwap && p.read(" (cached", " ", &r.SwapCached, ")")
		r.HasSwap, r.SwapUsed, r.SwapTotal = true, used, total
	case "IRAM":
		rule = "must occur once, as used/total with a unit and (lfb size)"
		ok = ok && !r.IRAM.Known && p.read(" (lfb", " ", &block, ")")
		r.IRAM = Some(IRAM{used, total, block})
	}
	if !ok {
		return damaged(name, from, rule)
	}
	return nil
}

// cores reads the rest of "CPU [4%@729,off]", and the "@1734" that L4T R28 and older
// print after it for all cores. A list of another form goes to Unknown as a whole, from
// start on; a list without an end and a second list are damage.
func (p *parser) cores(start int) error {
	from := p.at
	length := strings.IndexByte(p.line[from:], ']')
	if length < 0 || p.r.CPUs != nil {
		return damaged("CPU", p.line[from-1:], "must occur once, as [load%@MHz,…] with off for an unplugged core")
	}
	var common Opt[Hertz]
	ok := true
	for more := true; ok && more; more = p.read(",") {
		var c CPU
		if !p.read(" off", " ") {
			c.Load.Known = true
			ok = p.read(" ", &c.Load.Value, &c.Freq, " ")
		}
		add(&p.r.CPUs, p.room.cpus[:], c)
	}
	if !ok || !p.read("]", &common, end{}) {
		p.r.CPUs = nil
		p.at = from + length
		p.unknown(start)
	}
	for i := range p.r.CPUs {
		if c := &p.r.CPUs[i]; !c.Off() && !c.Freq.Known {
			c.Freq = common
		}
	}
	return nil
}

// engine reads one of
//
//	off   7%   716   @1556   7%@1300   7%@[305,305]   @[314,314,314]   [5%,9%]@704
//
// A bare number is a frequency in MHz.
func (p *parser) engine(e *Engine) bool {
	e.Off = p.text("off")
	load, freq := Cluster{Load: Some[Percent](0)}, Cluster{Freq: Some[Hertz](0)}
	switch {
	case e.Off:
		return true
	case p.read(&freq.Freq.Value, end{}):
		e.Freq = freq.Freq
		return true
	case p.text("@"):
		return p.figures(e, &freq, &freq.Freq.Value)
	}
	return p.figures(e, &load, &load.Load.Value) && (!p.text("@") || p.figures(e, &freq, &freq.Freq.Value))
}

// figures reads a figure of an engine, or in brackets one of each of its clusters. figure
// is the one in c.
func (p *parser) figures(e *Engine, c *Cluster, figure any) bool {
	first, several := len(p.clusters), p.text("[")
	for more := true; more; more = several && p.text(",") {
		if !p.part(figure) {
			return false
		}
		p.clusters = append(p.clusters, *c)
		e.Load = Opt[Percent]{max(e.Load.Value, c.Load.Value), e.Load.Known || c.Load.Known}
		e.Freq = Opt[Hertz]{max(e.Freq.Value, c.Freq.Value), e.Freq.Known || c.Freq.Known}
	}
	// One cluster alone adds nothing to the engine's own figure.
	if all := p.clusters[first:]; len(all) > 1 {
		e.Clusters = slices.Clip(all)
	} else {
		p.clusters = p.clusters[:first]
	}
	return !several || p.text("]")
}
