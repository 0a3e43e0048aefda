package selector

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Names of the policies that a request may ask for.
const (
	PolicyRecorded = "recorded"
	PolicyAdaptive = "adaptive"
)

// Options configure a selector. The zero Options are those of New.
type Options struct {
	// Policy ranks the requests that name none. "": PolicyRecorded.
	Policy string
	// Weights of the recorded policy. Zero: DefaultWeights. A Weights that is not
	// wholly zero is taken as it stands, zeros included.
	Weights Weights
	// Safety says which models memory allows. Zero: DefaultSafety.
	Safety Safety
	// Costs predict times until something was measured. Zero: DefaultCosts.
	Costs Costs
	// Taxonomy says which capability stands for which. Zero: DefaultTaxonomy.
	Taxonomy Taxonomy
	// Learning configures the adaptive policy.
	Learning Learning
}

// Weights are the parts of a recorded score. The defaults are those that the
// recordings of the wire contract show. A model's worth, in GB, is its declared
// Quality, else its size: a model of 3 GB and Quality 7 ranks like one of 7 GB.
type Weights struct {
	// Capability is added for each capability that the model shares with the
	// request, and for each preference that it has.
	Capability float64
	// SpeedRAM is added with priority speed for a model at home in ram,
	// SpeedElsewhere for any other.
	SpeedRAM, SpeedElsewhere float64
	// QualityPerGB is added with priority quality for each GB of worth.
	QualityPerGB float64
	// BalancedRAM is added with priority balanced for a model at home in ram;
	// BalancedElsewhere and, for each GB of worth, BalancedPerGB for any other.
	BalancedRAM, BalancedElsewhere, BalancedPerGB float64
}

// DefaultWeights returns the recorded weights.
func DefaultWeights() Weights {
	return Weights{
		Capability: 0.8,
		SpeedRAM:   2.0, SpeedElsewhere: 0.5,
		QualityPerGB: 0.2,
		BalancedRAM:  1.5, BalancedElsewhere: 1.0, BalancedPerGB: 0.1,
	}
}

// Safety is how much of the memory that a probe saw one model may take. It goes
// by the model's home tier: a model at home in ram may take up to RAM of the
// available memory, one at home in swap up to Total of available memory and free
// swap together, one at home in storage what either rule gives. A model that is
// in a memory tier already needs no more. The defaults 0.7 and 0.6 are those of
// the wire contract.
type Safety struct {
	// RAM and Total are fractions, above 0 to 1, that count to six decimals.
	RAM, Total float64
}

// DefaultSafety returns the recorded fractions.
func DefaultSafety() Safety { return Safety{RAM: 0.7, Total: 0.6} }

// Costs predict the time until a model can be used, per GB of its weights by
// where they are now. They grow from RAM to Storage. The defaults, 0.1, 0.5 and
// 1.5 s per GB, are the recorded system's figures for ram and swap, and one
// stream from an NVMe disk for storage.
type Costs struct {
	RAM, Swap, Storage time.Duration
}

// DefaultCosts returns the costs of a small board with an NVMe disk.
func DefaultCosts() Costs {
	return Costs{RAM: 100 * time.Millisecond, Swap: 500 * time.Millisecond, Storage: 1500 * time.Millisecond}
}

// Learning configures the adaptive policy. The zero Learning has good defaults.
type Learning struct {
	// Explore is the share of auto requests that another model may answer than the
	// best one, so that something is learned about it: only a model that can be
	// leased where it is, so that exploring never loads anything. 0 (none) to 0.2.
	Explore float64
	// Seed decides which requests explore, and what. With one seed and one order
	// of calls the choices are the same.
	Seed uint64
	// Patience is after how many failures in a row a model is avoided. 0: 3.
	Patience int
	// CoolOff is how long it is avoided first; then it is tried again, and each
	// further failure doubles the time, up to 32-fold. 0: 30 s.
	CoolOff time.Duration
	// Slots is how many requests a model is taken to serve side by side before the
	// next has to wait. 0: 4, what llama-server is commonly run with.
	Slots int
	// WaitWeight is how much waiting weighs against quality with priority balanced: a
	// model twice as good may take 2^(1/WaitWeight) times as long. 0: 1.
	WaitWeight float64
}

// fill returns o with every default in place, or every fault at once.
func (o Options) fill() (Options, error) {
	if o.Policy == "" {
		o.Policy = PolicyRecorded
	}
	if o.Weights == (Weights{}) {
		o.Weights = DefaultWeights()
	}
	if o.Safety == (Safety{}) {
		o.Safety = DefaultSafety()
	}
	if o.Costs == (Costs{}) {
		o.Costs = DefaultCosts()
	}
	if o.Taxonomy.Aliases == nil && o.Taxonomy.Implies == nil {
		o.Taxonomy = DefaultTaxonomy()
	}
	orElse(&o.Learning.Patience, 3)
	orElse(&o.Learning.CoolOff, 30*time.Second)
	orElse(&o.Learning.Slots, 4)
	orElse(&o.Learning.WaitWeight, 1)
	return o, o.validate()
}

func orElse[T comparable](v *T, fallback T) {
	var zero T
	if *v == zero {
		*v = fallback
	}
}

func (o *Options) validate() error {
	var faults []error
	fault := func(field string, value any, rule string) {
		faults = append(faults, &tier.InvalidError{Field: field, Value: fmt.Sprint(value), Rule: rule})
	}
	if o.Policy != PolicyRecorded && o.Policy != PolicyAdaptive {
		fault("policy", strconv.Quote(o.Policy), "must be recorded or adaptive")
	}
	w := &o.Weights
	for _, f := range []struct {
		name  string
		value float64
	}{
		{"capability", w.Capability},
		{"speed ram", w.SpeedRAM}, {"speed elsewhere", w.SpeedElsewhere},
		{"quality per GB", w.QualityPerGB},
		{"balanced ram", w.BalancedRAM}, {"balanced elsewhere", w.BalancedElsewhere}, {"balanced per GB", w.BalancedPerGB},
	} {
		if !(math.Abs(f.value) <= 1000) {
			fault("weight "+f.name, f.value, "must be between -1000 and 1000")
		}
	}
	fraction := func(field string, f float64) {
		if !(f >= 1.0/million && f <= 1) {
			fault(field, f, "must be above 0 and at most 1")
		}
	}
	fraction("safety ram", o.Safety.RAM)
	fraction("safety total", o.Safety.Total)
	if c := o.Costs; c.RAM < 0 || c.RAM > c.Swap || c.Swap > c.Storage || c.Storage > time.Hour {
		fault("costs", fmt.Sprintf("%v, %v, %v", c.RAM, c.Swap, c.Storage), "must not be negative, must grow from ram to storage, and must be 1h per GB at most")
	}
	if _, err := o.Taxonomy.compile(); err != nil {
		faults = append(faults, err)
	}
	l := &o.Learning
	if !(l.Explore >= 0 && l.Explore <= 0.2) {
		fault("explore", l.Explore, "must be between 0 and 0.2")
	}
	if l.Patience < 1 {
		fault("patience", l.Patience, "must be positive")
	}
	if l.CoolOff < 0 || l.CoolOff > time.Hour {
		fault("cool-off", l.CoolOff, "must be positive and 1h at most")
	}
	if l.Slots < 1 {
		fault("slots", l.Slots, "must be positive")
	}
	if !(l.WaitWeight > 0 && l.WaitWeight <= 100) {
		fault("wait weight", l.WaitWeight, "must be above 0 and at most 100")
	}
	return errors.Join(faults...)
}
