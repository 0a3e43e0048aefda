package selector

import (
	"strconv"

	"github.com/modeltier/modeltier/tier"
)

// Policies answers each request by the policy that it names, or by the default
// one. The adaptive policy learns whichever is the default, so that it knows
// something when it is asked for. It may be used by any number of goroutines.
type Policies struct {
	recorded Recorded
	adaptive Adaptive
	first    string
}

var (
	_ tier.Selector = (*Policies)(nil)
	_ tier.Learner  = (*Policies)(nil)
	_ tier.Reporter = (*Policies)(nil)
)

// New returns the default selector: the recorded policy, the adaptive one for
// requests that ask for it.
func New() *Policies {
	p, _ := NewWith(Options{}) // the defaults are valid
	return p
}

// NewWith returns a selector with options. It reports every fault of theirs at
// once, each a *tier.InvalidError.
func NewWith(o Options) (*Policies, error) {
	o, err := o.fill()
	if err != nil {
		return nil, err
	}
	p := &Policies{first: o.Policy}
	p.recorded.init(&o)
	p.adaptive.init(&o)
	return p, nil
}

// Select implements tier.Selector.
func (p *Policies) Select(req *tier.Request, v *tier.View) (c tier.Choice, err error) {
	name := req.Policy
	if name == "" {
		name = p.first
	}
	switch name {
	case PolicyRecorded:
		err = p.recorded.engine.choose(req, v, &c)
	case PolicyAdaptive:
		err = p.adaptive.engine.choose(req, v, &c)
	default:
		err = unknownPolicy(req.Policy, PolicyRecorded+" or "+PolicyAdaptive)
	}
	return c, err
}

// Accessed implements tier.Learner.
func (p *Policies) Accessed(uses []tier.Access) { p.adaptive.Accessed(uses) }

// Moved implements tier.Learner.
func (p *Policies) Moved(moves []tier.Moved) { p.adaptive.Moved(moves) }

// Reported implements tier.Reporter.
func (p *Policies) Reported(outcomes []tier.Outcome) { p.adaptive.Reported(outcomes) }

func unknownPolicy(name, known string) error {
	const most = 64
	return &tier.InvalidError{Field: "policy", Value: strconv.Quote(name[:min(len(name), most)]), Rule: "must be " + known}
}
