package selector

import (
	"slices"
	"time"
	"weak"

	"github.com/modeltier/modeltier/tier"
)

// standing is what is known of one slice of states: who is resident and who can't
// be served at all. It is made once for every slice of states and never changed.
type standing struct {
	index  *index
	limits tier.Limits
	// states identifies the slice by its first element. A View is not to be kept
	// past a Select, so the pointer is weak; nothing else ever compares equal to it.
	states weak.Pointer[tier.State]
	count  int
	// knowledge is what the records are from; nil where nothing is learned.
	knowledge *knowledge
	records   []*record // by model; nil where there are none
	now       time.Time // when it was made: no score is another while it holds
	latency   float64   // seconds per GB until first use, of a model that was not measured
	// Where timed, because some model failed lately, the standing holds from the one
	// moment until before the other; a zero until is no bound.
	timed       bool
	from, until time.Time
	// resident are the models that need no new memory, out those that can't be
	// served whatever memory there is; ascending, and nobody is in both.
	resident, out []int32
	// inFlight is the bytes that are being read on behalf of others: loads on one
	// device are serial.
	inFlight tier.Bytes
	rankings *rankings
}

// holds reports whether st still describes v.
func (st *standing) holds(v *tier.View, know *knowledge) bool {
	return st.index.lib == v.Library && st.limits == v.Limits && st.knowledge == know &&
		st.count == len(v.States) && st.states.Value() == &v.States[0] &&
		(!st.timed || !v.Now.Before(st.from) && (st.until.IsZero() || v.Now.Before(st.until)))
}

// stand returns the standing of v, whose library is not empty.
func (e *engine) stand(v *tier.View) *standing {
	know := e.knowledge.Load()
	was := e.standing.Load()
	if was != nil && was.holds(v, know) {
		return was
	}
	st := e.newStanding(v, know, was)
	e.standing.Store(st)
	return st
}

// newStanding takes time in proportion to the library, and keeps of the standing
// before whatever still holds.
func (e *engine) newStanding(v *tier.View, know *knowledge, was *standing) *standing {
	st := &standing{
		limits: v.Limits, states: weak.Make(&v.States[0]), count: len(v.States), knowledge: know, now: v.Now,
	}
	switch {
	case was == nil:
		st.index = newIndex(v.Library, &e.taxonomy, e.seed, nil)
	case was.index.lib != v.Library:
		st.index = newIndex(v.Library, &e.taxonomy, e.seed, was.index)
	default:
		st.index = was.index
	}
	for i := range st.index.entries {
		s, en := &v.States[i], &st.index.entries[i]
		if s.Moving && s.To > s.Tier {
			gone, _ := missing(en.size, s)
			st.inFlight = st.inFlight.Plus(gone)
		}
		switch {
		case stuck(s) || never(v, en.size, en.need, s):
			st.out = append(st.out, int32(i))
		case resident(s):
			st.resident = append(st.resident, int32(i))
		}
	}
	st.learn(v)
	if e.policy.stateless() && was != nil && was.index == st.index && slices.Equal(was.out, st.out) {
		st.rankings = was.rankings
	} else {
		st.rankings = &rankings{}
	}
	return st
}

// learn finds the records of the library's models.
func (st *standing) learn(v *tier.View) {
	know := st.knowledge
	if know == nil {
		return
	}
	st.latency = know.latency
	if len(know.records) == 0 {
		return
	}
	st.records = make([]*record, len(st.index.entries))
	for name, r := range know.records {
		i, ok := v.Library.Find(name)
		if !ok {
			continue
		}
		st.records[i] = r
		if !r.avoidUntil.IsZero() {
			st.changesAt(r.avoidUntil)
		}
		if r.bad > 0 {
			last, next := r.faded(v.Now)
			st.changesAt(last)
			st.changesAt(next)
		}
	}
	// What was measured of some models tells about the others; the constant counts
	// like two GB of them.
	seconds, gb := know.latency*prior, float64(prior)
	for i, r := range st.records { // in order, so that the sums are always the same
		if s := r.firstUse(); s > 0 {
			seconds += s
			gb += st.index.entries[i].size.GB()
		}
	}
	st.latency = seconds / gb
}

// changesAt notes a moment from which on some score is another.
func (st *standing) changesAt(t time.Time) {
	st.timed = true
	switch {
	case st.now.Before(t) && (st.until.IsZero() || t.Before(st.until)):
		st.until = t
	case !st.now.Before(t) && t.After(st.from):
		st.from = t
	}
}

// able are the models that memory allows.
func (st *standing) able(v *tier.View, c ceilings) []int32 {
	var list []int32
	out := st.out
	for i := range st.index.entries {
		en := &st.index.entries[i]
		switch {
		case len(out) > 0 && out[0] == en.model:
			out = out[1:]
		case en.size <= c[en.home] || resident(&v.States[i]):
			list = append(list, en.model)
		}
	}
	return list
}

// avoided reports whether the model is to be left alone.
func (st *standing) avoided(model int32) bool {
	return st.records != nil && st.records[model].avoided(st.now)
}

// candidate returns what is known of the model for the ranking.
func (st *standing) candidate(r *ranking, en *entry, v *tier.View) candidate {
	c := candidate{entry: en, points: r.points[en.set], state: &v.States[en.model]}
	if st.records != nil {
		c.record = st.records[en.model]
	}
	return c
}

// missing is how many bytes of weights are not present in memory, and the tier
// that they have to come from. A move that has begun is taken at its colder end:
// what leaves is as good as gone, and what comes is not there yet.
func missing(size tier.Bytes, s *tier.State) (gone tier.Bytes, from tier.Tier) {
	from = s.Tier
	if s.Moving {
		from = min(from, s.To)
	}
	switch from {
	case tier.RAM:
		return 0, from
	case tier.Swap:
		return size - min(max(s.Kept, 0), size), from
	}
	return size, from
}
