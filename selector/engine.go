package selector

import (
	"cmp"
	"errors"
	"hash/maphash"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// engine is what every policy has in common: the modes of a request, who may
// serve it, and the rankings. It may be used by any number of goroutines.
type engine struct {
	policy    policy
	taxonomy  taxonomy
	fractions fractions
	seed      maphash.Seed // of the rankings' keys; no answer depends on it
	standing  atomic.Pointer[standing]
	knowledge atomic.Pointer[knowledge]
	// explore may replace the best model by another that may serve the request. nil:
	// never.
	explore func(req *tier.Request, v *tier.View, st *standing, r *ranking, best pick) pick
}

// init takes options that are filled.
func (e *engine) init(p policy, o *Options) {
	e.policy = p
	e.taxonomy, _ = o.Taxonomy.compile() // validated before
	e.fractions = o.Safety.fractions()
	e.seed = maphash.MakeSeed()
}

var errStates = errors.New("selector: the view has fewer states than models")

// choose answers a request into c, which is zero. Choices are filled in place:
// handing one up through the layers would take as long as choosing.
func (e *engine) choose(req *tier.Request, v *tier.View, c *tier.Choice) error {
	if suspect(req) || req.Policy != "" && req.Policy != e.policy.name() {
		if err := e.fault(req); err != nil {
			return err
		}
	}
	if v.Library == nil || v.Library.Len() == 0 {
		return e.fromNothing(req, v)
	}
	if len(v.States) < v.Library.Len() {
		return errStates
	}
	if req.Explain {
		return e.explained(req, v, c)
	}
	return e.decide(req, v, c)
}

// suspect reports whether Validate has to look at the request at once. Otherwise
// it does when a question is new, or a named model does not meet it.
func suspect(req *tier.Request) bool {
	return len(req.Preferences) > 0 && (req.Model != "" || req.Preferred != "") || req.Priority > tier.Quality ||
		req.Deadline < 0 || req.Deadline > tier.MaxDeadline ||
		req.Model != "" && req.Preferred != "" || len(req.Capabilities) > tier.MaxCapabilities ||
		len(req.Preferences) > tier.MaxCapabilities || len(req.Constraints) > tier.MaxConstraints
}

// fault returns what is wrong with a request that is suspect.
func (e *engine) fault(req *tier.Request) error {
	if err := req.Validate(); err != nil {
		return err
	}
	if req.Policy != "" && req.Policy != e.policy.name() {
		return unknownPolicy(req.Policy, e.policy.name())
	}
	return nil
}

func (e *engine) decide(req *tier.Request, v *tier.View, c *tier.Choice) error {
	switch {
	case req.Model != "":
		return e.manual(req, v, req.Model, c)
	case req.Preferred == "":
		return e.auto(req, v, c)
	case !req.Fallback:
		return e.manual(req, v, req.Preferred, c)
	}
	return e.hybrid(req, v, c)
}

// manual leaves it to the Manager, who knows since when, to refuse a model that
// is stuck.
func (e *engine) manual(req *tier.Request, v *tier.View, name string, c *tier.Choice) error {
	i, ok := v.Library.Find(name)
	if !ok || e.obstacle(req, v, i) != none {
		return e.refuse(req, v, name)
	}
	c.Model, c.Index, c.Mode, c.Score = v.Library.At(i).Name, i, tier.Manual, math.NaN()
	return nil
}

func (e *engine) hybrid(req *tier.Request, v *tier.View, c *tier.Choice) error {
	i, ok := v.Library.Find(req.Preferred)
	if ok && e.obstacle(req, v, i) == none && !stuck(&v.States[i]) {
		c.Model, c.Index, c.Mode, c.Score = v.Library.At(i).Name, i, tier.Hybrid, math.NaN()
		return nil
	}
	if err := e.auto(req, v, c); err != nil {
		return err
	}
	c.Mode, c.FellBack = tier.Hybrid, true
	c.Why = e.why(req, v, req.Preferred, preferred)
	return nil
}

func (e *engine) auto(req *tier.Request, v *tier.View, c *tier.Choice) error {
	st := e.stand(v)
	hash := hashOf(e.seed, req)
	r := st.rankings.find(hash, req)
	if r == nil {
		if err := req.Validate(); err != nil {
			return err
		}
		r = newRanking(req, st, v, e)
		if !r.able {
			return e.nobody(req, v, st, r)
		}
		st.rankings.add(hash, r, v.Library.Len())
	}
	best := e.best(req, v, st, r)
	if !best.found {
		return e.nobody(req, v, st, r)
	}
	if e.explore != nil {
		best = e.explore(req, v, st, r, best)
	}
	c.Index, c.Mode, c.Score = int(best.model), tier.Auto, best.score
	c.Model = v.Library.At(c.Index).Name
	return nil
}

// best returns the best model that may serve the request.
func (e *engine) best(req *tier.Request, v *tier.View, st *standing, r *ranking) pick {
	c := e.fractions.ceilings(v)
	if req.Deadline > 0 {
		return e.bestWithin(req.Deadline, v, st, r, c)
	}
	best := r.bestCold(c)
	if len(st.resident) > 0 {
		if p := e.bestResident(v, st, r); p.better(best) {
			best = p
		}
	}
	return best
}

// bestResident returns the best of the models that need no new memory. It looks
// at them once for every standing.
func (e *engine) bestResident(v *tier.View, st *standing, r *ranking) pick {
	if known := r.resident.Load(); known != nil && known.of == st {
		return known.best
	}
	var best pick
	for _, i := range st.resident {
		if en := &st.index.entries[i]; r.admits(en, v.Library) {
			if p := e.pick(r, st.candidate(r, en, v), st); p.better(best) {
				best = p
			}
		}
	}
	r.resident.Store(&residentPick{of: st, best: best})
	return best
}

// bestWithin returns the best of the models that are expected to be usable within
// the deadline. Where the policy knows a size up to which a model that is not
// resident makes it, only the residents are looked at one by one, else all; once
// for every standing and reading of memory.
func (e *engine) bestWithin(deadline time.Duration, v *tier.View, st *standing, r *ranking, c ceilings) pick {
	reach, bySize := e.policy.reach(deadline)
	known := r.timely.Load()
	if known == nil || known.of != st || !bySize && known.ceilings != c {
		known = &timely{of: st, ceilings: c}
		if bySize {
			known.fill(e, v, r, st.resident)
		} else {
			known.fill(e, v, r, st.able(v, c))
		}
		r.timely.Store(known)
	}
	best := known.frontier.best(int64(deadline))
	if bySize {
		for t := range c {
			c[t] = min(c[t], reach)
		}
		if p := r.bestCold(c); p.better(best) {
			best = p
		}
	}
	return best
}

// fill takes the models one by one.
func (k *timely) fill(e *engine, v *tier.View, r *ranking, models []int32) {
	type timed struct {
		expected int64
		pick
	}
	var all []timed
	for _, i := range models {
		if en := &k.of.index.entries[i]; r.admits(en, v.Library) {
			c := k.of.candidate(r, en, v)
			all = append(all, timed{int64(e.policy.expected(c, k.of)), e.pick(r, c, k.of)})
		}
	}
	slices.SortFunc(all, func(a, b timed) int { return cmp.Compare(a.expected, b.expected) })
	for i := range all {
		k.frontier.add(all[i].expected, all[i].pick)
	}
}

func (e *engine) pick(r *ranking, c candidate, st *standing) pick {
	return pick{score: onGrid(e.policy.score(r.priority, c, st)), model: c.model, found: true}
}
