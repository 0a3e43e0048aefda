package jetson

// temperature reads the rest of "gpu@39.843C" or "gpu@52.656C/52.75C". It
// reports false where that is not what follows the name.
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

// item reads the value of a rail or an engine, or what else the name, which began
// at from, opens. It reports false where that is not what follows the name.
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

// broken sets aside an item of several words, from its first to the one that is
// wrong: the words in between ("fg 1%") would read as items of their own.
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
		n, ok = p.number(mostMHz)
		switch {
		case !ok:
		case !p.char('%'):
			e.Freq = Some(Hertz(n) * MHz)
		case n <= mostPercent:
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
			p.apart(e, first)
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
			p.apart(e, first)
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

// apart gives e the clusters from first on. One alone says no more than the
// engine's own figure does.
func (p *parser) apart(e *Engine, first int) {
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

// after reads the word and then a percentage.
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
