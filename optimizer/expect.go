package optimizer

import (
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Expect implements tier.Expecter.
//
// A decayed rate is an average over as long as it looks back, so that of the rates those
// count which look back at least as far as the time that is asked about looks ahead, by
// their weights in the mixture. While the history is short, an average over more than
// there was is too low by 1 − e^(−T/τ), which is divided out as Adam does it for its
// moments (Kingma and Ba, ICLR 2015). For traffic whose rate does not change the result
// is unbiased then. The hazard of the gaps tells of the next request alone, and the prior
// of models that were never asked for, of which none is expected: both are left out. What
// hints announce comes on top, by the share of their time that is ahead.
func (l *Learned) Expect(v *tier.View, within time.Duration) []tier.Expectation {
	l.lock()
	defer l.unlock()
	return l.learner.expect(v, within)
}

func (l *learner) expect(v *tier.View, within time.Duration) []tier.Expectation {
	now, ahead := l.observe(v), max(within, 0).Seconds()
	out := make([]tier.Expectation, len(l.est.byIndex))
	for i, u := range l.est.byIndex {
		announced := l.hints.expected(u, now, ahead)
		out[i] = tier.Expectation{Requests: finite(l.est.expected(u, now, ahead)) + announced, Announced: announced}
	}
	return out
}

// expected returns how many requests for a model come within that many seconds after t.
func (e *estimator) expected(u *use, t, within float64) float64 {
	var r rates
	e.rate(u, t, &r)
	sum, weights := 0.0, 0.0
	for k, w := range e.mixture.Weights {
		switch {
		case k >= scales, k < scales-1 && spans[k] < within:
			continue
		}
		sum += w * r[k] / (1 - fade((t+youth)/spans[k]))
		weights += w
	}
	if !(weights > 0) {
		return 0
	}
	return sum / weights * within
}

// expected returns how many requests for a model the open hints promise within that many
// seconds after t.
func (h *hints) expected(u *use, t, within float64) float64 {
	for _, o := range h.open {
		if left := o.given + o.within - t; o.use == u && left > 0 {
			return o.p * h.trust(&u.Hints) * min(left, within) / o.within
		}
	}
	return 0
}
