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

// What a Learned placement knows, as it is kept across restarts: a magic word, a
// header, and for each model its name and its history, in little endian, with a
// checksum behind.

const (
	stateMagic = "mtl2"
	// stateMost bounds what is taken in: four times the models that a plan is held
	// to.
	stateMost = 64 << 20
)

type savedHeader struct {
	StartSeconds, StartNanos int64
	Now, Count               float64
	Surprise, Asked          float64
	Last                     int32 // place of a model below, or -1
	Weights                  [mixed]float64
	Theta, Sum               feature
	TrendLog, TrendSpread    [ways]float64
	TrendCount               [ways]uint32
	Cost                     [estimates]float64
	Following                int32
	HintAll, HintNext        [2]float32
	HintDelay                float64
	Yield                    [3]float64
}

type savedUse struct {
	First, Last   float64
	Count         uint32
	Rates         [scales]float64
	Beyond        [gapBins]float32
	GapCount      uint32
	Usual         float32
	Follower      [followers]int32 // places of models below, or -1
	FollowerCount [followers]float32
	FollowerTotal float32
	Share         [mixed]float32
	ShareTotal    float32
	Word          [2]float32
	Bias, BiasSum float32
	Hours         [24]float32
	PaceLog       [ways][sampled]float32
	PaceCount     [ways]uint8
	PaceNext      [ways]uint8
}

// MarshalBinary returns what was learned, for UnmarshalBinary. It implements
// encoding.BinaryMarshaler.
func (l *Learned) MarshalBinary() ([]byte, error) {
	e := &l.est
	place := make([]int32, len(e.uses)) // by id
	n := int32(0)
	for id, u := range e.uses {
		if place[id] = -1; u != nil {
			place[id] = n
			n++
		}
	}
	h := savedHeader{
		StartSeconds: e.start.Unix(), StartNanos: int64(e.start.Nanosecond()),
		Now: e.now, Count: e.count, Surprise: e.surprise, Asked: e.asked, Last: -1,
		Weights: e.mixture.weights, Theta: e.logit.theta, Sum: e.logit.sum,
		Following: int32(l.guard.following),
		HintAll:   [2]float32{l.hints.all.promised, l.hints.all.kept},
		HintNext:  [2]float32{l.hints.next.promised, l.hints.next.kept},
		HintDelay: l.hints.delay, Yield: [3]float64{l.yield.expected, l.yield.brought, l.yield.at},
	}
	if e.last >= 0 {
		h.Last = place[e.last]
	}
	for w := range h.TrendLog {
		t := &l.device.recent[w]
		h.TrendLog[w], h.TrendSpread[w], h.TrendCount[w] = t.log, t.spread, t.count
	}
	for by := range h.Cost {
		h.Cost[by] = l.guard.shadows[by].cost
	}
	out := []byte(stateMagic)
	out, err := binary.Append(out, binary.LittleEndian, &h)
	if err != nil {
		return nil, err
	}
	for id, u := range e.uses {
		if u == nil {
			continue
		}
		out = binary.LittleEndian.AppendUint16(out, uint16(len(e.names[id])))
		out = append(out, e.names[id]...)
		s := u.save(place)
		if out, err = binary.Append(out, binary.LittleEndian, &s); err != nil {
			return nil, err
		}
	}
	return binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(out)), nil
}

// save returns the history with ids replaced by places.
func (u *use) save(place []int32) savedUse {
	s := savedUse{
		First: u.first, Last: u.last, Count: u.count, Rates: u.rates,
		Beyond: u.gaps.beyond, GapCount: u.gaps.count, Usual: u.usual,
		FollowerCount: u.next.count, FollowerTotal: u.next.total,
		Share: u.mix.count, ShareTotal: u.mix.total,
		Word: [2]float32{u.word.promised, u.word.kept}, Bias: u.bias, BiasSum: u.biasSum, Hours: u.hours,
	}
	for k, id := range u.next.who {
		s.Follower[k] = -1
		if u.next.count[k] > 0 && int(id) < len(place) {
			s.Follower[k] = place[id]
		}
	}
	for w := range u.paces {
		s.PaceLog[w], s.PaceCount[w], s.PaceNext[w] = u.paces[w].log, u.paces[w].count, u.paces[w].next
	}
	return s
}

// UnmarshalBinary takes in what MarshalBinary returned, in place of what was
// learned so far. What it cannot make sense of gives an error that unwraps to
// tier.ErrInvalid and changes nothing. It implements encoding.BinaryUnmarshaler.
func (l *Learned) UnmarshalBinary(data []byte) error {
	fault := func(rule string) error {
		return &tier.InvalidError{Field: "placement state", Value: fmt.Sprint(len(data), " bytes"), Rule: rule}
	}
	const sum = 4
	switch {
	case len(data) > stateMost:
		return fault(fmt.Sprint("must be ", stateMost, " bytes at most"))
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
	next := NewLearned(l.options)
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
	for _, u := range e.uses {
		u.next.drop(func(id int32) bool { return id < 0 || int(id) >= len(e.uses) })
	}
	if e.last = h.Last; e.last < -1 || int(e.last) >= len(e.uses) {
		return fault("must name models that it holds")
	}
	*l = *next
	return nil
}

// takeHeader takes the header in, or reports that it makes no sense.
func (l *Learned) takeHeader(h *savedHeader) bool {
	ok := sane(h.Now, h.Count, h.Surprise, h.Asked, h.HintDelay) && sane(h.Weights[:]...) && sane(h.Sum[:]...) &&
		sane(h.TrendSpread[:]...) && sane(h.Cost[:]...) && sane(h.Yield[:]...) &&
		sane32(h.HintAll[:]...) && sane32(h.HintNext[:]...) &&
		h.Following >= 0 && h.Following < int32(estimates) && h.StartNanos >= 0 && h.StartNanos < 1e9
	for _, x := range h.Theta {
		ok = ok && math.Abs(x) <= thetaMost
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
	for by := range h.Cost {
		l.guard.shadows[by].cost = h.Cost[by]
	}
	l.guard.following = estimate(h.Following)
	l.hints.all = word{h.HintAll[0], h.HintAll[1]}
	l.hints.next = word{h.HintNext[0], h.HintNext[1]}
	l.hints.delay = h.HintDelay
	l.yield = yield{h.Yield[0], h.Yield[1], h.Yield[2]}
	return true
}

func (s *savedUse) use() use {
	u := use{
		first: s.First, last: s.Last, count: s.Count, rates: s.Rates,
		gaps: gaps{beyond: s.Beyond, count: s.GapCount}, usual: s.Usual,
		next: follows{who: s.Follower, count: s.FollowerCount, total: s.FollowerTotal},
		mix:  shares{count: s.Share, total: s.ShareTotal},
		word: word{s.Word[0], s.Word[1]}, bias: s.Bias, biasSum: s.BiasSum, hours: s.Hours,
	}
	for w := range u.paces {
		u.paces[w] = samples{log: s.PaceLog[w], count: s.PaceCount[w], next: s.PaceNext[w]}
	}
	return u
}

// sane reports whether a history as of now makes sense.
func (s *savedUse) sane(now float64) bool {
	ok := sane(s.First, s.Last) && s.Last <= now && s.First <= s.Last && sane(s.Rates[:]...) &&
		sane32(s.Beyond[:]...) && sane32(s.FollowerCount[:]...) && sane32(s.Share[:]...) && sane32(s.Hours[:]...) &&
		sane32(s.FollowerTotal, s.ShareTotal, s.Usual, s.Word[0], s.Word[1], s.BiasSum) && math.Abs(float64(s.Bias)) <= thetaMost
	for w := range s.PaceLog {
		ok = ok && s.PaceCount[w] <= sampled && s.PaceNext[w] < sampled
		for _, x := range s.PaceLog[w] {
			ok = ok && math.Abs(float64(x)) < 100
		}
	}
	return ok
}

// sane reports whether every number is one that counts and times can be.
func sane(xs ...float64) bool {
	for _, x := range xs {
		if !(x >= 0 && x < 1e18) {
			return false
		}
	}
	return true
}

func sane32(xs ...float32) bool {
	for _, x := range xs {
		if !(x >= 0 && x < 1e18) {
			return false
		}
	}
	return true
}
