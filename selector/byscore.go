package selector

import (
	"math"
	"runtime/debug"

	"github.com/modeltier/modeltier/tier"
)

// policyScore is the name of the one policy of a selector that ByScore made.
const policyScore = "score"

// ScoreFunc says how good a model is for a request: the higher, the better. NaN and −Inf
// mean that it is not to be chosen. It is called on the callers' goroutines, by any number
// at once, once for each model that may serve a request that names none; equal arguments
// are to get equal scores. It neither changes nor keeps what it is given, and does not
// block: a request waits for it.
type ScoreFunc func(req *tier.Request, m *tier.Model, s *tier.State) float64

// ByScore returns a selector that chooses the model with the highest score, among those
// that the default selector of New would choose from: the same capabilities and
// constraints, the same measure of what memory and limits allow, the same treatment of
// deadlines and of requests that name a model. Of equal scores the model wins that can be
// served soonest, then the one that is listed first. If no model is wanted, the error is
// ErrNoCapableModel. A panic of score is the error of that request, a *tier.PanicError.
//
// Nothing is allocated beside what score allocates, once a question was asked before. A
// request takes time in proportion to the models that have what it requires. A nil score
// makes the selector of New.
func ByScore(score ScoreFunc) *Policies {
	p := New()
	if score != nil {
		p.policies, p.score = []string{policyScore}, score
	}
	return p
}

// autoByScore chooses by the score function.
func (q *query) autoByScore(matches []pick, c *tier.Choice) (err error) {
	defer q.caught(&err)
	best := pick{model: -1}
	for _, p := range matches {
		this := q.candidate(p)
		if this.why, _ = q.admit(this.m, this.state, false); this.why != eligible {
			continue
		}
		if q.rate(&this); this.why == eligible && (best.model < 0 || this.compare(best) < 0) {
			best = this.pick
		}
	}
	if best.model < 0 {
		return q.noModel(matches)
	}
	q.choose(best, c)
	return nil
}

// rateByScore completes the score of a candidate.
func (q *query) rateByScore(c *candidate) {
	c.score = q.p.score(q.req, c.m, c.state)
	if c.why == eligible && (math.IsNaN(c.score) || math.IsInf(c.score, -1)) {
		c.why = unwanted
	}
}

// caught makes a panic of the score function an error. It is deferred.
func (q *query) caught(err *error) {
	if v := recover(); v != nil {
		*err = &tier.PanicError{Part: "score function", Value: v, Stack: debug.Stack()}
	}
}
