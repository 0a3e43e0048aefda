package optimizer

import (
	"slices"
	"time"
)

// defaultWithin is how long a hint holds that does not say so.
const defaultWithin = time.Minute

// hint is one announcement that is still open.
type hint struct {
	use    *use // of the model that is announced
	p      float64
	given  float64 // when, in seconds
	within float64
	fresh  bool // nothing was asked for since, and it may be the next one
}

// hintRecord is how often hints came true: decayed sums of the probability that was
// promised, and of what came of it.
type hintRecord struct{ Promised, Kept float32 }

// hints weighs announcements by how often they came true. The record of each model
// counts beside that of all, so that false hints for one model are soon not believed
// and hurt the others little. No more than maxHints are open at once.
type hints struct {
	open []hint
	all  hintRecord
	// next is how often the model of a fresh hint was the very next one.
	next hintRecord
}

const (
	maxHints = 64
	// recordKeep: the last hundred hints count.
	recordKeep = 0.99
	// hintGrace is by how many seconds a request may be late.
	hintGrace = 1
	// maxFresh: a hint for as long as this does not say that the model is the next one.
	maxFresh = time.Hour
	// recordPrior is how many hints the record of a model needs to weigh as much as
	// that of all.
	recordPrior = 8
)

func (r *hintRecord) note(promised, kept float64) {
	r.Promised = r.Promised*recordKeep + float32(promised)
	r.Kept = r.Kept*recordKeep + float32(kept)
}

// trust is what a promise about a model is worth, from 0 to 1.
func (h *hints) trust(own *hintRecord) float64 {
	all := (float64(h.all.Kept) + 1) / (float64(h.all.Promised) + 2)
	return min((float64(own.Kept)+recordPrior*all)/(float64(own.Promised)+recordPrior), 1)
}

// give opens a hint.
func (h *hints) give(n hint) {
	h.expire(n.given)
	for i := range h.open {
		if o := &h.open[i]; o.use == n.use {
			// The share of its time that has passed counts as not kept, so that repeated
			// announcements of the same model are judged, too.
			passed := o.p * min((n.given-o.given)/o.within, 1)
			n.use.Hints.note(passed, 0)
			h.all.note(passed, 0)
			*o = n
			return
		}
	}
	if len(h.open) < maxHints {
		h.open = append(h.open, n)
	}
}

// expire closes the hints whose time has passed: they were not kept.
func (h *hints) expire(t float64) {
	left := h.open[:0]
	for _, o := range h.open {
		if t <= o.given+o.within+hintGrace {
			left = append(left, o)
			continue
		}
		o.use.Hints.note(o.p, 0)
		h.all.note(o.p, 0)
	}
	h.open = left
}

// forget drops the hint for a model that is gone: it was neither kept nor broken.
func (h *hints) forget(u *use) {
	h.open = slices.DeleteFunc(h.open, func(o hint) bool { return o.use == u })
}

// request closes the hint for a model that was asked for: it was kept.
func (h *hints) request(u *use, t float64) {
	h.expire(t)
	for i := range h.open {
		if o := &h.open[i]; o.fresh {
			o.fresh = false
			kept := 0.0
			if o.use == u {
				kept = 1
			}
			h.next.note(o.p, kept)
		}
	}
	for i, o := range h.open {
		if o.use != u {
			continue
		}
		u.Hints.note(o.p, 1)
		h.all.note(o.p, 1)
		h.open = slices.Delete(h.open, i, i+1)
		return
	}
}

// maxSure bounds how sure a hint can be of being next.
const maxSure = 0.95

// intensity returns the requests a second that the hints add for a model at t,
// if all models together are asked for total times a second. A model announced
// within some time comes once in it; one that will be next with probability q has
// the odds q/(1-q) against all others.
func (h *hints) intensity(u *use, t, total float64) float64 {
	for _, o := range h.open {
		if o.use != u || t > o.given+o.within+hintGrace {
			continue
		}
		sure := o.p * h.trust(&u.Hints)
		rate := sure / o.within
		if o.fresh {
			q := min(sure*float64(h.next.Kept)/(float64(h.next.Promised)+1), maxSure)
			rate = max(rate, total*q/(1-q))
		}
		return rate
	}
	return 0
}
