package selector

import (
	"errors"
	"maps"
	"math"
	"math/bits"
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
	policies   []string // that it knows, the default first
	recorded   *recorded
	adaptive   *adaptive
	taxonomy   taxonomy
	fractions  fractions
	byRecorded atomic.Pointer[snapshot] // the last one of each policy
	byAdaptive atomic.Pointer[snapshot]
	mu         sync.Mutex        // of refused; an error allocates, so a lock adds little to it
	refused    map[string]uint64 // by code
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
		policies: []string{PolicyRecorded, PolicyAdaptive}, taxonomy: names, fractions: o.Safety.fractions(),
		recorded: &recorded{o.Weights, o.Costs}, adaptive: newAdaptive(&o),
		refused: make(map[string]uint64),
	}
	if o.Policy == PolicyAdaptive {
		slices.Reverse(p.policies)
	}
	return p, nil
}

// Select implements tier.Selector.
func (p *Policies) Select(req *tier.Request, v *tier.View) (c tier.Choice, err error) {
	if err = p.choose(req, v, &c); err != nil {
		p.mu.Lock()
		p.refused[tier.Code(err)]++
		p.mu.Unlock()
	}
	return c, err
}

var errStates = errors.New("selector: the view has fewer states than models")

// choose answers a request into c, which is zero. Choices are filled in place:
// returning one through each layer would take as long as choosing.
func (p *Policies) choose(req *tier.Request, v *tier.View, c *tier.Choice) error {
	by := p.policies[0]
	if req.Policy != "" {
		if by = req.Policy; !slices.Contains(p.policies, by) {
			return &tier.InvalidError{Field: "policy", Value: strconv.Quote(by[:min(len(by), 64)]), Rule: "must be " + strings.Join(p.policies, " or ")}
		}
	}
	if suspect(req) {
		if err := req.Validate(); err != nil {
			return err
		}
	}
	switch {
	case v.Library == nil || v.Library.Len() == 0:
		return p.emptyLibrary(req)
	case len(v.States) < v.Library.Len():
		return errStates
	case req.Explain:
		return p.explained(req, v, by, c)
	}
	return p.decide(req, v, by, c)
}

// suspect reports whether Validate has to look at the request at once. Otherwise
// it does so when a question is new or a named model does not meet it.
func suspect(req *tier.Request) bool {
	return len(req.Preferences) > 0 && (req.Model != "" || req.Preferred != "") || req.Priority > tier.Quality ||
		req.Deadline < 0 || req.Deadline > tier.MaxDeadline ||
		req.Model != "" && req.Preferred != "" || len(req.Capabilities) > tier.MaxCapabilities ||
		len(req.Preferences) > tier.MaxCapabilities || len(req.Constraints) > tier.MaxConstraints
}

func (p *Policies) decide(req *tier.Request, v *tier.View, by string, c *tier.Choice) error {
	name := req.Model
	if name == "" {
		name = req.Preferred
	}
	if name == "" {
		return p.auto(req, v, by, c)
	}
	fallback := req.Fallback && req.Model == ""
	i, ok := v.Library.Find(name)
	// A stuck model that is asked for by name is the Manager's to refuse, which knows
	// since when it is stuck.
	if ok && p.eligible(req, v, by, i) == eligible && !(fallback && stuck(&v.States[i])) {
		c.Model, c.Index, c.Score = v.Library.At(i).Name, i, math.NaN()
		if fallback {
			c.Mode = tier.Hybrid
		}
		return nil
	}
	if !fallback {
		return p.refuse(req, v, by, name, true)
	}
	if err := p.auto(req, v, by, c); err != nil {
		return err
	}
	c.Mode, c.FellBack, c.Why = tier.Hybrid, true, p.refuse(req, v, by, name, false).Error()
	return nil
}

func (p *Policies) auto(req *tier.Request, v *tier.View, by string, c *tier.Choice) error {
	st := p.snapshotOf(v, by)
	var room [64]byte // longer questions allocate
	key := question(room[:0], req)
	r := st.rankings.find(key)
	if r == nil {
		if err := req.Validate(); err != nil {
			return err
		}
		if r = p.query(req, v, st).rank(); len(r) > 0 {
			st.rankings.add(key, r)
		}
	}
	within := req.Deadline
	if within == 0 {
		within = math.MaxInt64
	}
	best := r.best(within)
	if !best.found {
		return p.noModel(p.query(req, v, st), by)
	}
	c.Index, c.Mode, c.Score = int(best.model), tier.Auto, best.score
	c.Model = v.Library.At(c.Index).Name
	return nil
}

// Accessed implements tier.Learner. How often a model is asked for is the
// Placement's to learn.
func (p *Policies) Accessed([]tier.Access) {}

// Moved implements tier.Learner: the adaptive policy learns how long bytes take.
func (p *Policies) Moved(moves []tier.Moved) { p.adaptive.learn(nil, moves) }

// Reported implements tier.Reporter: the adaptive policy learns how requests turn
// out.
func (p *Policies) Reported(outcomes []tier.Outcome) { p.adaptive.learn(outcomes, nil) }

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
	return Status{Policy: p.policies[0], Refused: refused, Learned: p.adaptive.stats.Load().learned(&p.adaptive.costs)}
}

// scorer scores the models of one snapshot.
type scorer interface {
	// score is better if it is higher. It is rounded to the grid before it is
	// compared.
	score(p tier.Priority, c *candidate) float64
	// factors are the parts of the score, for a person.
	factors(p tier.Priority, c *candidate) []tier.Factor
	// expected is the predicted time until the candidate can be used.
	expected(c *candidate) time.Duration
}

// candidate is what a policy may look at to score a model.
type candidate struct {
	model  int32 // its index
	shared int32 // required capabilities that it names itself
	liked  int32 // preferences that it has beyond those
	m      *tier.Model
	state  *tier.State
}

// worth is the declared quality, or the size in GB.
func (c *candidate) worth() float64 {
	if c.m.Quality > 0 {
		return c.m.Quality
	}
	return max(c.m.Size, 0).GB()
}

// recorded is the policy that the recordings of the wire contract show. It learns
// nothing, and its scores depend on the models alone.
type recorded struct {
	weights Weights
	costs   Costs
}

func (r *recorded) score(p tier.Priority, c *candidate) float64 {
	return r.weights.Capability*float64(c.shared+c.liked) + r.bonus(p, c)
}

// bonus is the part of the score that the priority gives.
func (r *recorded) bonus(p tier.Priority, c *candidate) float64 {
	w := &r.weights
	switch home := c.m.Home == tier.RAM; {
	case p == tier.Quality:
		return w.QualityPerGB * c.worth()
	case p == tier.Speed && home:
		return w.SpeedRAM
	case p == tier.Speed:
		return w.SpeedElsewhere
	case home:
		return w.BalancedRAM
	}
	return w.BalancedElsewhere + w.BalancedPerGB*c.worth()
}

func (r *recorded) factors(p tier.Priority, c *candidate) []tier.Factor {
	f := []tier.Factor{{Name: "capabilities", Value: r.weights.Capability * float64(c.shared)}}
	if c.liked > 0 {
		f = append(f, tier.Factor{Name: "preferences", Value: r.weights.Capability * float64(c.liked)})
	}
	return append(f, tier.Factor{Name: p.String(), Value: r.bonus(p, c)})
}

// expected is rounded down: each byte costs what the tier does that it is in.
func (r *recorded) expected(c *candidate) time.Duration {
	size := max(c.m.Size, 0)
	gone, from := missing(size, c.state)
	rate := r.costs.Storage
	if from == tier.Swap {
		rate = r.costs.Swap
	}
	return perGB(size-gone, r.costs.RAM) + perGB(gone, rate)
}

// perGB is the time for b bytes at that time per GB, rounded down, saturated.
func perGB(b tier.Bytes, rate time.Duration) time.Duration {
	hi, lo := bits.Mul64(uint64(b), uint64(rate))
	if hi >= 1<<29 {
		return 1<<63 - 1
	}
	return time.Duration(hi<<34 | lo>>30)
}
