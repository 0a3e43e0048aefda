package optimizer

import "time"

// defaultWithin is how long a hint holds that says nothing about it.
const defaultWithin = time.Minute

// hint is one announcement that is still open.
type hint struct {
	id     int32
	p      float64
	given  float64 // when, in seconds
	within float64
	fresh  bool // nothing was asked for since
}

// word is how often hints came true: by decayed sums of the probability that was
// promised, and of what came of it.
type word struct{ promised, kept float32 }

// hints weighs announcements by how often they came true. A model's own record
// counts beside that of all, so that who lies about one model is soon not
// believed about it and hurts the others little; and no more than hintsMost are
// open at once.
type hints struct {
	open []hint
	all  word
	// next is how often the model of a fresh hint was the very next one.
	next word
	// delay is the decayed mean time in seconds from a hint to the request that
	// made it true.
	delay float64
}

const (
	hintsMost = 64
	// wordKeep: the last hundred hints count.
	wordKeep = 0.99
	// hintGrace is by how many seconds a request may be late.
	hintGrace = 1
	// wordPrior is how many hints of its own a model's record needs to weigh as
	// much as that of all.
	wordPrior = 8
)

func (w *word) note(promised, kept float64) {
	w.promised = w.promised*wordKeep + float32(promised)
	w.kept = w.kept*wordKeep + float32(kept)
}

// trust is what a promise about a model is worth, from 0 to 1.
func (h *hints) trust(own *word) float64 {
	all := (float64(h.all.kept) + 1) / (float64(h.all.promised) + 2)
	return min((float64(own.kept)+wordPrior*all)/(float64(own.promised)+wordPrior), 1)
}

// give opens a hint.
func (h *hints) give(n hint, own func(id int32) *word) {
	h.expire(n.given, own)
	for i := range h.open {
		if o := &h.open[i]; o.id == n.id {
			// As much of it as has passed was not kept: who announces the same thing
			// over and over is held to it.
			passed := o.p * min((n.given-o.given)/o.within, 1)
			own(n.id).note(passed, 0)
			h.all.note(passed, 0)
			*o = n
			return
		}
	}
	if len(h.open) < hintsMost {
		h.open = append(h.open, n)
	}
}

// expire closes the hints whose time has passed: they were not kept.
func (h *hints) expire(t float64, own func(id int32) *word) {
	left := h.open[:0]
	for _, o := range h.open {
		if t <= o.given+o.within+hintGrace {
			left = append(left, o)
			continue
		}
		if w := own(o.id); w != nil {
			w.note(o.p, 0)
		}
		h.all.note(o.p, 0)
	}
	h.open = left
}

// request closes the hint for a model that was asked for: it was kept.
func (h *hints) request(id int32, t float64, own func(id int32) *word) {
	h.expire(t, own)
	for i := range h.open {
		if o := &h.open[i]; o.fresh {
			o.fresh = false
			kept := 0.0
			if o.id == id {
				kept = 1
			}
			h.next.note(o.p, kept)
		}
	}
	for i, o := range h.open {
		if o.id != id {
			continue
		}
		own(id).note(o.p, 1)
		h.all.note(o.p, 1)
		if h.delay == 0 {
			h.delay = t - o.given
		}
		h.delay += 0.05 * (t - o.given - h.delay)
		h.open = append(h.open[:i], h.open[i+1:]...)
		return
	}
}

// surest bounds how sure a hint can be of being next.
const surest = 0.95

// intensity returns the requests a second that the hints add for a model at t,
// where all models together are asked for total times a second. A model that is
// to come within some time comes once in it; one that is to be next, with
// probability q, has the odds q/(1-q) against all others.
func (h *hints) intensity(id int32, t, total float64, own *word) float64 {
	for _, o := range h.open {
		if o.id != id || t > o.given+o.within+hintGrace {
			continue
		}
		span := o.within
		if h.delay > 0 {
			span = min(span, max(h.delay, 1))
		}
		sure := o.p * h.trust(own)
		rate := sure / span
		if o.fresh {
			q := min(sure*float64(h.next.kept)/(float64(h.next.promised)+1), surest)
			rate = max(rate, total*q/(1-q))
		}
		return rate
	}
	return 0
}
