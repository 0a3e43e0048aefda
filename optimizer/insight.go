package optimizer

import (
	"time"
)

// Insight is what a Learned placement knows of its traffic and of itself.
type Insight struct {
	// Requests that it has seen.
	Requests uint64
	// Surprise is the bits by which the next model was a surprise, on the average of
	// the last thousand requests: 0 where it can be told in advance, the logarithm to
	// base 2 of the number of models where nothing can. It is the negative
	// log-likelihood of the next request, the objective that is learned.
	Surprise float64
	// Following is the estimate that places models: "logit", "mixture", "rate 10
	// min", "rate 6 h" or "recency".
	Following string
	// Prefetch is what bytes that were moved up for nobody have saved, as a share of
	// what was expected: 1 where they are used as foreseen; near 0 nothing is
	// prefetched any more.
	Prefetch float64
	// Hints is the share of the announcements that came true.
	Hints float64
}

// Insight returns what is known by now.
func (l *Learned) Insight() Insight {
	return Insight{
		Requests: uint64(l.est.count), Surprise: l.est.bits(), Following: l.guard.following.String(),
		Prefetch: l.yield.factor(), Hints: l.hints.trust(&word{}),
	}
}

// Usage returns how a model is used, as of now. It reports false for a model that
// is not known.
func (l *Learned) Usage(model string, now time.Time) (Usage, bool) {
	id, known := l.est.ids[model]
	if !known {
		return Usage{}, false
	}
	// A moment before the last access reads as that; asking does not move the clock.
	t := max(now.Sub(l.est.start).Seconds(), l.est.now)
	u := l.est.uses[id]
	out := Usage{Model: model, Accesses: u.count, Trend: 1}
	if u.count == 0 {
		return out, true
	}
	var f feature
	s := l.est.score(id, t, l.est.hourOf(t), &f)
	out.Frequency = 3600 * finite(s.lambda)
	if s.hour > 0 {
		out.Trend = s.minute / s.hour
	}
	out.LastUse = l.est.start.Add(time.Duration(u.last * float64(time.Second)))
	return out, true
}
