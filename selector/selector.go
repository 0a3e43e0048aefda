package selector

import (
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Policies is a selector that answers each request by the policy that the request
// names, or by its default one. The adaptive policy learns whichever is the
// default, so that it knows something when it is asked for. Its methods may be
// called from any number of goroutines.
type Policies struct {
	policies []string // that it knows, the default first
	options  Options
	taxonomy taxonomy
	// Safety, counted in millionths.
	safeRAM, safeTotal tier.Bytes
	recorded, adaptive policy
	score              ScoreFunc // nil: one of these two policies decides

	mu      sync.Mutex        // of refused, and of the writers of stats
	refused map[string]uint64 // by code
}

// policy is what changes of a policy.
type policy struct {
	last  atomic.Pointer[snapshot]
	stats atomic.Pointer[stats] // what was learned so far; nothing by the recorded one
}

var (
	_ tier.Selector     = (*Policies)(nil)
	_ tier.Learner      = (*Policies)(nil)
	_ tier.Reporter     = (*Policies)(nil)
	_ tier.PartStatuser = (*Policies)(nil)
)

// New returns the default selector: the recorded policy, and the adaptive one for
// requests that ask for it.
func New() *Policies {
	p, _ := NewWith(Options{}) // the defaults are valid
	return p
}

// NewAdaptive returns a selector that knows the adaptive policy only, with default
// options.
func NewAdaptive() *Policies {
	p, _ := NewWith(Options{Policy: PolicyAdaptive}) // valid as well
	p.policies = p.policies[:1]
	return p
}

// NewWith returns a selector with options. It reports every invalid option at
// once, each as a *tier.InvalidError.
func NewWith(o Options) (*Policies, error) {
	o = o.fill()
	names, err := o.Taxonomy.compile()
	if err := errors.Join(o.validate(), err); err != nil {
		return nil, err
	}
	p := &Policies{
		policies: []string{PolicyRecorded, PolicyAdaptive}, options: o, taxonomy: names,
		safeRAM: millionths(o.Safety.RAM), safeTotal: millionths(o.Safety.Total), refused: make(map[string]uint64),
	}
	p.recorded.stats.Store(newStats())
	p.adaptive.stats.Store(newStats())
	if o.Policy == PolicyAdaptive {
		slices.Reverse(p.policies)
	}
	return p, nil
}

// Select implements tier.Selector.
func (p *Policies) Select(req *tier.Request, v *tier.View) (c tier.Choice, err error) {
	var q query // filled in place: a literal would be copied
	q.p, q.req, q.v, q.asked = p, req, v, req.Capabilities
	if err = q.answer(&c); err != nil { // an error allocates, so a lock adds little to it
		p.mu.Lock()
		p.refused[tier.Code(err)]++
		p.mu.Unlock()
	}
	return c, err
}

var errStates = errors.New("selector: the view has fewer states than models")

// answer decides into c, which is zero. Choices are filled in place: returning one
// through each layer would take as long as choosing.
func (q *query) answer(c *tier.Choice) error {
	by := q.req.Policy
	if by == "" {
		by = q.p.policies[0]
	} else if !slices.Contains(q.p.policies, by) {
		return &tier.InvalidError{Field: "policy", Value: strconv.Quote(by[:min(len(by), 64)]), Rule: "must be " + strings.Join(q.p.policies, " or ")}
	}
	// The lists of a request in auto are validated when they are new.
	if r := q.req; r.Explain || r.Priority > tier.Quality || r.Deadline < 0 || r.Deadline > tier.MaxDeadline || r.Model != "" && r.Preferred != "" ||
		len(r.Model)+len(r.Preferred) > 0 && len(r.Capabilities)+len(r.Preferences)+len(r.Constraints) > 0 {
		if err := r.Validate(); err != nil {
			return err
		}
	}
	if q.v.Library == nil {
		q.v = &tier.View{Library: tier.AssembleLibrary(nil)}
	}
	if len(q.v.States) < q.v.Library.Len() {
		return errStates
	}
	if q.by = &q.p.recorded; by == PolicyAdaptive {
		q.adaptive, q.by = true, &q.p.adaptive
	}
	err := q.decide(c)
	if q.req.Explain {
		c.Explanation = q.explain(by, c, err)
	}
	return err
}

func (q *query) decide(c *tier.Choice) error {
	name, hybrid := q.req.Model, false
	if name == "" {
		name, hybrid = q.req.Preferred, q.req.Fallback
	}
	if name == "" {
		return q.auto(c)
	}
	var refused error
	i, ok := q.v.Library.Find(name)
	if ok {
		m, s, why, expected := q.v.Library.At(i), &q.v.States[i], lacking, time.Duration(0)
		if len(q.asked)+len(q.req.Constraints) == 0 || q.meets(m) {
			why, expected = q.admit(m, s, !hybrid)
		}
		if why == eligible {
			c.Model, c.Index, c.Score = m.Name, i, math.NaN()
			if hybrid {
				c.Mode = tier.Hybrid
			}
			return nil
		}
		who := "Explicit model"
		if hybrid {
			who = "Preferred model"
		}
		refused = q.refusal(&candidate{m: m, state: s, why: why, expected: expected}, who)
	} else {
		refused = &tier.NotFoundError{What: "model", Name: name, Of: q.v.Library.Aliases()[name]}
	}
	if !hybrid {
		return q.helpful(refused)
	}
	if err := q.auto(c); err != nil {
		return err
	}
	c.Mode, c.FellBack, c.Why = tier.Hybrid, true, refused.Error()
	return nil
}

func (q *query) auto(c *tier.Choice) error {
	st := q.snapshot()
	var room [64]byte // longer questions allocate
	key := question(room[:0], q.req)
	a := st.answers[string(key)]
	if a == nil || a.of != st.number && q.p.score == nil {
		if err := q.req.Validate(); err != nil {
			return err
		}
		a = q.rank(key, a)
	}
	if q.p.score != nil {
		return q.autoByScore(a.matches, c)
	}
	n := a.usable(q.req.Deadline)
	if n == 0 {
		return q.noModel(a.matches)
	}
	q.choose(a.ranking[n-1].pick, c)
	return nil
}

// choose makes a model the choice.
func (q *query) choose(best pick, c *tier.Choice) {
	c.Index, c.Mode, c.Score = int(best.model), tier.Auto, best.score
	c.Model = q.v.Library.At(c.Index).Name
}

// Accessed implements tier.Learner. How often a model is asked for is the
// Placement's to learn.
func (p *Policies) Accessed([]tier.Access) {}

// Moved implements tier.Learner: the adaptive policy learns how long bytes take.
func (p *Policies) Moved(moves []tier.Moved) { p.learn(nil, moves) }

// Reported implements tier.Reporter: the adaptive policy learns how requests turn
// out.
func (p *Policies) Reported(outcomes []tier.Outcome) { p.learn(outcomes, nil) }

// learn replaces the stats by those after some news.
func (p *Policies) learn(outcomes []tier.Outcome, moves []tier.Moved) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.adaptive.stats.Store(p.adaptive.stats.Load().moved(moves).reported(outcomes, &p.options.Learning))
}

// Status is what PartStatus returns.
type Status struct {
	// Policy is the default one.
	Policy string `json:"policy"`
	// Refused counts the errors by code.
	Refused map[string]uint64 `json:"refused"`
	// Learned is what the adaptive policy has learned.
	Learned Learned `json:"learned"`
}

// PartStatus implements tier.PartStatuser. It returns a Status.
func (p *Policies) PartStatus() any {
	p.mu.Lock()
	refused := maps.Clone(p.refused)
	p.mu.Unlock()
	return Status{Policy: p.policies[0], Refused: refused, Learned: p.adaptive.stats.Load().learned(&p.options.Costs)}
}
