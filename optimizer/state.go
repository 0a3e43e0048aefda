package optimizer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// What a Learned placement knows is kept across restarts as a magic word, a header, for
// each mover its name and its paces, and for each model its name, its mover and its
// history, in little endian, with a checksum at the end.
const (
	// stateMagic changes with the format. A state of another version is not read.
	stateMagic = "mtl6"
	// maxState bounds what is read: four times the models that a plan has a budget for.
	maxState = 64 << 20
)

type savedHeader struct {
	StartSeconds, StartNanos int64
	Now, Count               float64
	Surprise, Asked          float64
	Last                     int32 // place of a model below, or -1
	Mixture                  mixture
	Logit                    logit
	HintAll, HintNext        hintRecord
	Movers                   uint32
}

// MarshalBinary returns what was learned, for UnmarshalBinary. It implements
// encoding.BinaryMarshaler.
func (l *Learned) MarshalBinary() ([]byte, error) {
	l.lock()
	defer l.mu.Unlock()
	return l.learner.marshal()
}

// UnmarshalBinary takes in what MarshalBinary returned, in place of what was
// learned so far. Other data gives an error that unwraps to tier.ErrInvalid and
// changes nothing. It implements encoding.BinaryUnmarshaler.
func (l *Learned) UnmarshalBinary(data []byte) error {
	l.lock()
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
		Mixture: e.mixture, Logit: e.logit,
		HintAll: l.hints.all, HintNext: l.hints.next, Movers: uint32(len(l.devices)),
	}
	names := slices.Sorted(maps.Keys(e.uses))
	if e.last != nil {
		h.Last = int32(slices.IndexFunc(names, func(name string) bool { return e.uses[name] == e.last }))
	}
	out, err := binary.Append([]byte(stateMagic), binary.LittleEndian, &h)
	add := func(v any, names ...string) {
		for _, name := range names {
			out = binary.LittleEndian.AppendUint16(out, uint16(len(name)))
			out = append(out, name...)
		}
		if err == nil {
			out, err = binary.Append(out, binary.LittleEndian, v)
		}
	}
	for _, mover := range slices.Sorted(maps.Keys(l.devices)) {
		add(l.devices[mover], mover)
	}
	for _, name := range names {
		u := e.uses[name]
		add(&u.history, name, u.mover)
	}
	if err != nil {
		return nil, err
	}
	return binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(out)), nil
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
	// name reads a name; that of a mover may be empty.
	name := func(mover bool) (string, bool) {
		var n uint16
		if binary.Read(r, binary.LittleEndian, &n) != nil || int(n) > r.Len() {
			return "", false
		}
		b := make([]byte, n)
		r.Read(b)
		return string(b), mover && n == 0 || tier.CheckName("name", string(b)) == nil
	}
	for range h.Movers {
		mover, ok := name(true)
		d := new(paces)
		if !ok || binary.Read(r, binary.LittleEndian, d) != nil {
			return fault("must hold whole movers")
		}
		if next.devices[mover] != nil || !d.sane() {
			return fault("must hold numbers in range, and each mover once")
		}
		next.devices[mover] = d
	}
	e := &next.est
	for place := int32(0); r.Len() > 0; place++ {
		model, known := name(false)
		mover, ok := name(true)
		var u history
		if !known || !ok || binary.Read(r, binary.LittleEndian, &u) != nil {
			return fault("must hold whole models")
		}
		if _, twice := e.uses[model]; twice || !u.sane(h.Now) {
			return fault("must hold numbers in range, and each model once")
		}
		e.use(model).history, e.uses[model].mover = u, mover
		if place == h.Last {
			e.last = e.uses[model]
		}
	}
	if h.Last != -1 && e.last == nil {
		return fault("must name models that it holds")
	}
	return &next, nil
}

// takeHeader takes the header in, or reports false if it makes no sense.
func (l *learner) takeHeader(h *savedHeader) bool {
	ok := sane(h.Now, h.Count, h.Surprise, h.Asked) && h.HintAll.sane() && h.HintNext.sane() &&
		sane(h.Mixture.Weights[:]...) && sane(h.Logit.Sum[:]...) &&
		h.StartNanos >= 0 && h.StartNanos < 1e9
	for _, x := range h.Logit.Theta {
		ok = ok && math.Abs(x) <= maxTheta
	}
	if !ok {
		return false
	}
	e := &l.est
	e.start, e.now, e.count = time.Unix(h.StartSeconds, h.StartNanos), h.Now, h.Count
	e.surprise, e.asked = h.Surprise, h.Asked
	e.mixture, e.logit = h.Mixture, h.Logit
	l.hints.all, l.hints.next = h.HintAll, h.HintNext
	return true
}

// sane reports whether a history as of now makes sense.
func (u *history) sane(now float64) bool {
	return sane(u.Last) && u.Last <= now && sane(u.Rates[:]...) && sane(u.Gaps.Usual) &&
		sane(u.Gaps.Beyond[:]...) && u.Hints.sane() && u.Paces.sane()
}

func (r *hintRecord) sane() bool { return sane(r.Promised, r.Kept) }

func (p *paces) sane() bool {
	for i := range p {
		s := &p[i]
		if s.Count > sampled || s.Next >= sampled {
			return false
		}
		if !sane(s.Bytes[:]...) || !sane(s.Took[:]...) || !sane(s.Rest[:]...) || !sane(s.Line.Fixed, s.Line.Each) {
			return false
		}
	}
	return true
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
