package optimizer

import (
	"math"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// way is a pair of tiers that weights move between.
type way uint8

const (
	wayLoad    way = iota // storage to ram
	wayRefill             // storage to swap
	wayPromote            // up into ram from swap
	wayDemote             // down from ram
	ways
)

// wayOf returns the way of a move. A change of kept bytes counts as a promotion:
// what it reads goes up.
func wayOf(from, to tier.Tier) way {
	switch {
	case to == tier.Storage || from == tier.RAM:
		return wayDemote
	case from == tier.Storage && to == tier.RAM:
		return wayLoad
	case from == tier.Storage:
		return wayRefill
	}
	return wayPromote
}

// line is what a move takes: a fixed time, as an engine needs to start and a device to
// be opened, and a time for each byte that is read, both in nanoseconds.
type line struct{ Fixed, Each float32 }

func (l line) at(bytes float64) float64 { return float64(l.Fixed) + float64(l.Each)*bytes }

func (l line) times(x float64) line {
	return line{float32(min(float64(l.Fixed)*x, longest)), float32(min(float64(l.Each)*x, longest))}
}

// samples are the last few measurements of one way, and the line that fits them.
type samples struct {
	// Bytes that were read, nanoseconds that the move took, and those of them after the
	// last byte; 0: not known.
	Bytes, Took, Rest [sampled]float32
	Count, Next       uint8
	// Split: the measurements tell the fixed time from that of the bytes. If not, Line
	// divides them as the line before did.
	Split bool
	Line  line
}

const (
	// sampled is how many measurements are kept: their median withstands two that went
	// wrong.
	sampled = 5
	// devicePrior is how many of its own measurements make those of a model weigh as
	// much as those of the device, until there are enoughOwn: those stand alone.
	devicePrior = 1
	enoughOwn   = 3
	// Lines with another split have to fit better than the one before by simpler, in
	// logarithms for each measurement: of noise some line through two points always
	// fits a little better. A measurement that is off counts no more than maxOff.
	simpler = 0.05
	maxOff  = 3
	// apart is by how much of the larger two numbers of bytes have to differ for their
	// times to tell what a byte takes.
	apart = 0.2
	// minRest is the least share of a move that counts as fixed time after its last
	// byte: movers that report only at the end leave next to none.
	minRest = 0.01
	// longest bounds what is remembered of a move, in nanoseconds: three years.
	longest = 1e17
)

// add takes in a measurement. before is the line that was believed until then.
func (s *samples) add(bytes, took, rest float64, before line) {
	if rest < minRest*took {
		rest = 0
	}
	s.Bytes[s.Next], s.Took[s.Next], s.Rest[s.Next] = float32(bytes), float32(took), float32(rest)
	s.Next = (s.Next + 1) % sampled
	s.Count = min(s.Count+1, sampled)
	s.fit(before)
}

// median returns the median of what f returns for the measurements; those for which
// it is negative are left out. Without any it returns -1.
func (s *samples) median(f func(bytes, took, rest float64) float64) float64 {
	var a [sampled]float64
	v := a[:0]
	for i := range s.Count {
		if x := f(float64(s.Bytes[i]), float64(s.Took[i]), float64(s.Rest[i])); x >= 0 {
			v = append(v, x)
		}
	}
	if len(v) == 0 {
		return -1
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// scaled returns the line times what the measurements took of what it says.
func (s *samples) scaled(l line) line {
	x := s.median(func(bytes, took, _ float64) float64 {
		if said := l.at(bytes); said > 0 {
			return took / said
		}
		return -1
	})
	if x < 0 {
		return l
	}
	return l.times(x)
}

// off is by how much a line is off for one measurement, in logarithms.
func off(l line, bytes, took float64) float64 {
	if said := l.at(bytes); said > 0 {
		return min(math.Abs(math.Log(took/said)), maxOff)
	}
	return maxOff
}

// fit finds the line that is off by the least in sum: the one before, to scale; that
// by the times after the last byte; that with another fixed time; one without a time
// for bytes; or one through two of the measurements.
func (s *samples) fit(before line) {
	sum := func(l line) (sum float64) {
		for i := range s.Count {
			sum += off(l, float64(s.Bytes[i]), float64(s.Took[i]))
		}
		return sum
	}
	best, split := s.scaled(before), false
	least := sum(best)
	worse := simpler * float64(s.Count)
	if rest := s.median(func(_, _, rest float64) float64 {
		if rest == 0 {
			return -1
		}
		return rest
	}); rest > 0 {
		each := s.median(func(bytes, took, _ float64) float64 {
			if bytes == 0 {
				return -1
			}
			return max(took-rest, 0) / bytes
		})
		if l := (line{float32(rest), float32(max(each, 0))}); sum(l) < least+worse {
			best, least, split = l, sum(l), true
		}
	}
	bound := least - worse
	try := func(fixed, each float64) {
		if fixed < 0 || each < 0 {
			return
		}
		l := line{float32(fixed), float32(each)}
		if x := sum(l); x < bound {
			best, bound, split = l, x, true
		}
	}
	try(s.median(func(bytes, took, _ float64) float64 { return max(took-float64(before.Each)*bytes, 0) }), float64(before.Each))
	try(s.median(func(_, took, _ float64) float64 { return took }), 0)
	for i := range s.Count {
		for j := range i {
			more := float64(s.Bytes[i]) - float64(s.Bytes[j])
			if math.Abs(more) <= apart*float64(max(s.Bytes[i], s.Bytes[j])) {
				continue
			}
			each := (float64(s.Took[i]) - float64(s.Took[j])) / more
			try(max(float64(s.Took[i])-each*float64(s.Bytes[i]), 0), each)
		}
	}
	s.Line, s.Split = best, split || s.Split
}

// paces are measurements by way, of one model or of all models on the device.
type paces [ways]samples

// startPace is what moving weights takes until moves were measured, in seconds for
// each GB of 10^9 bytes: the recorded waits of a request, 1.5, 0.5 and 0.1 s for
// each GB in storage, swap and ram, less what it pays in any case. A demotion drops
// clean pages.
var startPace = [ways]float32{wayLoad: 1.4, wayRefill: 1, wayPromote: 0.4, wayDemote: 0.02}

// line returns what moves on a way take, of all models.
func (d *paces) line(w way) line {
	if d[w].Count == 0 {
		return line{Each: startPace[w]} // s/GB are ns/byte
	}
	return d[w].Line
}

// note takes in one measured move, of the device and of the model itself.
func (d *paces) note(own *paces, w way, m *tier.Moved) {
	if m.Took <= 0 {
		return
	}
	bytes, took, rest := min(float64(max(m.Bytes, 0)), longest), min(float64(m.Took), longest), 0.0
	if m.Read > 0 && m.Read < m.Took {
		rest = min(float64(m.Took-m.Read), longest)
	}
	d[w].add(bytes, took, rest, d.line(w))
	before := d.line(w)
	if own[w].Split {
		before = own[w].Line
	}
	own[w].add(bytes, took, rest, before)
}

// expect returns the line that is expected of a model on a way. d are the
// measurements of the device, own those of the model, which may be nil.
func (d *paces) expect(own *paces, w way) line {
	l := d.line(w)
	if own == nil || own[w].Count == 0 {
		return l
	}
	mine := own[w].Line
	if !own[w].Split {
		mine = own[w].scaled(l)
	}
	if own[w].Count >= enoughOwn {
		return mine
	}
	share := float64(own[w].Count) / float64(own[w].Count+devicePrior)
	a, b := mine.times(share), l.times(1-share)
	return line{a.Fixed + b.Fixed, a.Each + b.Each}
}

// predict returns the time that a move takes which has to read bytes, and the bounds
// within which nine in ten moves should stay.
func (d *paces) predict(own *paces, w way, bytes tier.Bytes) (took, lo, hi time.Duration) {
	l, seen := d.expect(own, w), &d[w]
	if own != nil && own[w].Count > 0 {
		seen = &own[w]
	}
	spread := max(seen.median(func(bytes, took, _ float64) float64 { return off(l, bytes, took) }), 0)
	if seen.Count == 0 {
		spread = math.Ln2
	} else if seen.Count < enoughOwn {
		spread = max(spread, math.Ln2/2)
	}
	// 2.44 median distances hold nine in ten of a normal distribution; few samples
	// know less than that.
	within := 2.44*max(spread, 0.03)*(1+2/(float64(seen.Count)+1)) + 0.02
	ns := l.at(float64(max(bytes, 0)))
	at := func(log float64) time.Duration {
		x := ns * math.Exp(log)
		if x >= math.MaxInt64 {
			return math.MaxInt64
		}
		return time.Duration(x)
	}
	return at(0), at(-within), at(within)
}
