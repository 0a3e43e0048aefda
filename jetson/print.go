package jetson

import (
	"strconv"

	"github.com/modeltier/modeltier/tier"
)

// String returns the reading as a line of tegrastats.
func (r Reading) String() string {
	b, _ := r.AppendText(make([]byte, 0, 512)) // never fails
	return string(b)
}

// AppendText appends the reading as a line of tegrastats, without a newline. It
// implements encoding.TextAppender and never fails. Parse of the line gives the
// same Reading, but for Unknown, which is not printed. One form is used for
// everything: that of the newest releases.
func (r Reading) AppendText(b []byte) ([]byte, error) {
	if !r.Time.IsZero() {
		b = r.Time.AppendFormat(b, "01-02-2006 15:04:05 ")
	}
	b = append(b, "RAM "...)
	b = appendShare(b, r.RAMUsed, r.RAMTotal)
	if r.LargestFreeBlock != 0 {
		b = append(b, " (lfb "...)
		b = strconv.AppendInt(b, int64(r.LargestFreeBlocks), 10)
		b = append(b, 'x')
		b = appendBytes(b, r.LargestFreeBlock)
		b = append(b, ')')
	}
	if r.HasSwap {
		b = append(b, " SWAP "...)
		b = appendShare(b, r.SwapUsed, r.SwapTotal)
		b = append(b, " (cached "...)
		b = appendBytes(b, r.SwapCached)
		b = append(b, ')')
	}
	if m, ok := r.IRAM.Get(); ok {
		b = append(b, " IRAM "...)
		b = appendShare(b, m.Used, m.Total)
		b = append(b, "(lfb "...)
		b = appendBytes(b, m.LargestFreeBlock)
		b = append(b, ')')
	}
	if len(r.CPUs) > 0 {
		b = append(b, " CPU "...)
		for i, c := range r.CPUs {
			b = append(b, "[,"[min(i, 1)])
			b = appendCore(b, c)
		}
		b = append(b, ']')
	}
	for _, e := range r.Engines {
		b = append(b, ' ')
		b = append(b, e.Name...)
		b = append(b, ' ')
		b = appendEngine(b, e)
	}
	if m, ok := r.MTS.Get(); ok {
		b = append(b, " MTS fg "...)
		b = appendPercent(b, m.Foreground)
		b = append(b, " bg "...)
		b = appendPercent(b, m.Background)
	}
	if f, ok := r.EDPLimit.Get(); ok {
		b = append(b, " EDP limit "...)
		b = appendMHz(b, f)
	}
	for _, t := range r.Temperatures {
		b = append(b, ' ')
		b = append(b, t.Name...)
		b = append(b, '@')
		b = appendCelsius(b, t.Now)
		if highest, ok := t.Max.Get(); ok {
			b = append(b, '/')
			b = appendCelsius(b, highest)
		}
	}
	for _, rail := range r.Rails {
		b = append(b, ' ')
		b = append(b, rail.Name...)
		b = append(b, ' ')
		b = appendMilliwatts(b, rail.Now)
		b = append(b, '/')
		b = appendMilliwatts(b, rail.Average)
		if peak, ok := rail.Peak.Get(); ok {
			b = append(b, '/')
			b = appendMilliwatts(b, peak)
		}
	}
	return b, nil
}

func appendCore(b []byte, c CPU) []byte {
	load, ok := c.Load.Get()
	if !ok {
		return append(b, "off"...)
	}
	b = appendPercent(b, load)
	if f, ok := c.Freq.Get(); ok {
		b = append(b, '@')
		b = appendMHz(b, f)
	}
	return b
}

func appendEngine(b []byte, e Engine) []byte {
	if e.Off {
		return append(b, "off"...)
	}
	loads := len(e.Clusters) > 0 && e.Clusters[0].Load.Known
	freqs := len(e.Clusters) > 0 && e.Clusters[0].Freq.Known
	if loads {
		for i, c := range e.Clusters {
			b = append(b, "[,"[min(i, 1)])
			b = appendPercent(b, c.Load.Value)
		}
		b = append(b, ']')
	} else if load, ok := e.Load.Get(); ok {
		b = appendPercent(b, load)
	}
	if freqs {
		b = append(b, '@')
		for i, c := range e.Clusters {
			b = append(b, "[,"[min(i, 1)])
			b = appendMHz(b, c.Freq.Value)
		}
		b = append(b, ']')
	} else if f, ok := e.Freq.Get(); ok {
		b = append(b, '@')
		b = appendMHz(b, f)
	}
	return b
}

// appendShare appends "used/total" in the largest unit in which both are whole.
func appendShare(b []byte, used, total tier.Bytes) []byte {
	u, name := wholeUnit(used | total)
	b = strconv.AppendInt(b, int64(used/u), 10)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(total/u), 10)
	return append(b, name...)
}

func appendBytes(b []byte, n tier.Bytes) []byte {
	u, name := wholeUnit(n)
	b = strconv.AppendInt(b, int64(n/u), 10)
	return append(b, name...)
}

// wholeUnit returns the largest unit that tegrastats uses in which n is whole.
func wholeUnit(n tier.Bytes) (tier.Bytes, string) {
	switch {
	case n%tier.MiB == 0:
		return tier.MiB, "MB"
	case n%tier.KiB == 0:
		return tier.KiB, "kB"
	}
	return 1, "B"
}

func appendPercent(b []byte, p Percent) []byte {
	return append(strconv.AppendInt(b, int64(p), 10), '%')
}

func appendMHz(b []byte, f Hertz) []byte { return strconv.AppendInt(b, int64(f/MHz), 10) }

func appendCelsius(b []byte, c Celsius) []byte {
	return append(strconv.AppendFloat(b, float64(c), 'f', -1, 64), 'C')
}

func appendMilliwatts(b []byte, m Milliwatts) []byte {
	return append(strconv.AppendInt(b, int64(m), 10), "mW"...)
}
