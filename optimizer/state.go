package optimizer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// What a Learned placement knows is kept across restarts as a magic word, a header,
// and for each model its name and its history, in little endian, with a checksum at
// the end.
const (
	// stateMagic changes with the format. A state of another version is not read.
	stateMagic = "mtl3"
	// maxState bounds what is read: four times the models that a plan has a budget for.
	maxState = 64 << 20
)

type savedHeader struct {
	StartSeconds, StartNanos int64
	Now, Count               float64
	Surprise, Asked          float64
	Last                     int32 // place of a model below, or -1
	Weights                  [components]float64
	Theta, Sum               feature
	TrendLog, TrendSpread    [ways]float64
	TrendCount               [ways]uint32
	HintAll, HintNext        [2]float32
	HintDelay                float64
}

type savedUse struct {
	First, Last float64
	Count       uint32
	Rates       [scales]float64
	Beyond      [gapBins]float32
	GapCount    uint32
	Usual       float32
	Hints       [2]float32
	PaceLog     [ways][sampled]float32
	PaceCount   [ways]uint8
	PaceNext    [ways]uint8
}

// MarshalBinary returns what was learned, for UnmarshalBinary. It implements
// encoding.BinaryMarshaler.
func (l *Learned) MarshalBinary() ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.learner.marshal()
}

// UnmarshalBinary takes in what MarshalBinary returned, in place of what was
// learned so far. Other data gives an error that unwraps to tier.ErrInvalid and
// changes nothing. It implements encoding.BinaryUnmarshaler.
func (l *Learned) UnmarshalBinary(data []byte) error {
	l.mu.Lock()
	defer l.unlock()
	next, err := unmarshal(data, l.learner.options)
	if err == nil {
		l.learner = *next
	}
	return err
}

func (l *learner) marshal() ([]byte, error) {
	e := &l.est
	h := savedHeader{
		StartSeconds: e.start.Unix(), StartNanos: int64(e.start.Nanosecond()),
		Now: e.now, Count: e.count, Surprise: e.surprise, Asked: e.asked, Last: -1,
		Weights: e.mixture.weights, Theta: e.logit.theta, Sum: e.logit.sum,
		HintAll:   [2]float32{l.hints.all.promised, l.hints.all.kept},
		HintNext:  [2]float32{l.hints.next.promised, l.hints.next.kept},
		HintDelay: l.hints.delay,
	}
	place := int32(0)
	for id, u := range e.uses {
		if int32(id) == e.last {
			h.Last = place
		}
		if u != nil {
			place++
		}
	}
	for w := range h.TrendLog {
		t := &l.device.recent[w]
		h.TrendLog[w], h.TrendSpread[w], h.TrendCount[w] = t.log, t.spread, t.count
	}
	out, err := binary.Append([]byte(stateMagic), binary.LittleEndian, &h)
	for id, u := range e.uses {
		if u == nil || err != nil {
			continue
		}
		out = binary.LittleEndian.AppendUint16(out, uint16(len(e.names[id])))
		out = append(out, e.names[id]...)
		s := u.save()
		out, err = binary.Append(out, binary.LittleEndian, &s)
	}
	if err != nil {
		return nil, err
	}
	return binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(out)), nil
}

func (u *use) save() savedUse {
	s := savedUse{
		First: u.first, Last: u.last, Count: u.count, Rates: u.rates,
		Beyond: u.gaps.beyond, GapCount: u.gaps.count, Usual: u.gaps.usual,
		Hints: [2]float32{u.hints.promised, u.hints.kept},
	}
	for w := range u.paces {
		s.PaceLog[w], s.PaceCount[w], s.PaceNext[w] = u.paces[w].log, u.paces[w].count, u.paces[w].next
	}
	return s
}

func unmarshal(data []byte, o Options) (*learner, error) {
	fault := func(rule string) (*learner, error) {
		return nil, &tier.InvalidError{Field: "placement state", Value: fmt.Sprint(len(data), " bytes"), Rule: rule}
	}
	const sum = 4
	switch {
	case len(data) > maxState:
		return fault(fmt.Sprint("must be ", maxState, " bytes at most"))
	case len(data) < len(stateMagic)+sum || string(data[:len(stateMagic)]) != stateMagic:
		return fault("must be of a version that is known")
	case crc32.ChecksumIEEE(data[:len(data)-sum]) != binary.LittleEndian.Uint32(data[len(data)-sum:]):
		return fault("must match its checksum")
	}
	r := bytes.NewReader(data[len(stateMagic) : len(data)-sum])
	var h savedHeader
	if err := binary.Read(r, binary.LittleEndian, &h); err != nil {
		return fault("must hold a whole header")
	}
	next := newLearner(o)
	if !next.takeHeader(&h) {
		return fault("must hold numbers in range")
	}
	e := &next.est
	for r.Len() > 0 {
		var n uint16
		var s savedUse
		if binary.Read(r, binary.LittleEndian, &n) != nil || int(n) > r.Len() {
			return fault("must hold whole models")
		}
		name := make([]byte, n)
		r.Read(name)
		if tier.CheckName("name", string(name)) != nil || binary.Read(r, binary.LittleEndian, &s) != nil {
			return fault("must hold whole models")
		}
		if _, twice := e.ids[string(name)]; twice || !s.sane(h.Now) {
			return fault("must hold numbers in range, and each model once")
		}
		*e.uses[e.id(string(name))] = s.use()
	}
	if e.last = h.Last; e.last < -1 || int(e.last) >= len(e.uses) {
		return fault("must name models that it holds")
	}
	return &next, nil
}

// takeHeader takes the header in, or reports false if it makes no sense.
func (l *learner) takeHeader(h *savedHeader) bool {
	ok := sane(h.Now, h.Count, h.Surprise, h.Asked, h.HintDelay) && sane(h.Weights[:]...) && sane(h.Sum[:]...) &&
		sane(h.TrendSpread[:]...) &&
		sane(h.HintAll[:]...) && sane(h.HintNext[:]...) &&
		h.StartNanos >= 0 && h.StartNanos < 1e9
	for _, x := range h.Theta {
		ok = ok && math.Abs(x) <= maxTheta
	}
	for _, x := range h.TrendLog {
		ok = ok && math.Abs(x) < 100
	}
	if !ok {
		return false
	}
	e := &l.est
	e.start, e.now, e.count = time.Unix(h.StartSeconds, h.StartNanos), h.Now, h.Count
	e.surprise, e.asked = h.Surprise, h.Asked
	e.mixture.weights, e.logit = h.Weights, logit{theta: h.Theta, sum: h.Sum}
	for w := range h.TrendLog {
		l.device.recent[w] = trend{log: h.TrendLog[w], spread: h.TrendSpread[w], count: h.TrendCount[w]}
	}
	l.hints.all = hintRecord{h.HintAll[0], h.HintAll[1]}
	l.hints.next = hintRecord{h.HintNext[0], h.HintNext[1]}
	l.hints.delay = h.HintDelay
	return true
}

func (s *savedUse) use() use {
	u := use{
		first: s.First, last: s.Last, count: s.Count, rates: s.Rates,
		gaps:  interarrival{beyond: s.Beyond, count: s.GapCount, usual: s.Usual},
		hints: hintRecord{s.Hints[0], s.Hints[1]},
	}
	for w := range u.paces {
		u.paces[w] = samples{log: s.PaceLog[w], count: s.PaceCount[w], next: s.PaceNext[w]}
	}
	return u
}

// sane reports whether a history as of now makes sense.
func (s *savedUse) sane(now float64) bool {
	ok := sane(s.First, s.Last) && s.Last <= now && s.First <= s.Last && sane(s.Rates[:]...) &&
		sane(s.Beyond[:]...) && sane(s.Hints[:]...) &&
		sane(s.Usual)
	for w := range s.PaceLog {
		ok = ok && s.PaceCount[w] <= sampled && s.PaceNext[w] < sampled
		for _, x := range s.PaceLog[w] {
			ok = ok && math.Abs(float64(x)) < 100
		}
	}
	return ok
}

// sane reports whether every number is one that counts and times can be.
func sane[F float32 | float64](xs ...F) bool {
	for _, x := range xs {
		if !(x >= 0 && x < 1e18) {
			return false
		}
	}
	return true
}
