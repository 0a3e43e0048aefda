package selector

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Names of the policies that a request may ask for.
const (
	// PolicyRecorded is the scoring that the recordings of the wire contract show, by
	// home tier and size, with the user's Weights.
	PolicyRecorded = "recorded"

	// PolicyAdaptive ranks by what is expected of a model here and now, and learns from
	// how requests turn out.
	//
	// The time t until a model can be used is the sum of
	//
	//   - load: the bytes that are not present, at the measured rate of the tier that
	//     they come from ([Costs] until then), after the loads that are in flight on
	//     the same device; for a model in storage drawn towards its own measured waits;
	//   - latency: its own measured time to first use if it is reported, else its
	//     measured service time, else its size at the rate of the models measured;
	//   - queue: one service time for every Learning.Slots requests that are at it.
	//
	// With priority speed the score is −t in seconds; with quality 0.2 (a weight) for
	// each GB of worth; with balanced log2(1 + worth) − WaitWeight × log2(1 + t), by
	// which a model twice as good may take twice as long. Each preference that it has
	// adds Weights.Capability. Reliability r, the share of good outcomes lately (those
	// of the time before a model was last heard of count half after ten minutes),
	// counts as t/r and r × worth; callers' scores scale the worth by 0.5 to 1.5. A
	// model that fails Learning.Patience times in a row ranks behind all others for
	// Learning.CoolOff, and is then tried again.
	//
	// Equal requests get equal answers from equal views as long as nothing was learned
	// in between.
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

// fill returns o with every default in place.
func (o Options) fill() Options {
	o.Policy = cmp.Or(o.Policy, PolicyRecorded)
	o.Weights = cmp.Or(o.Weights, DefaultWeights())
	o.Safety = cmp.Or(o.Safety, DefaultSafety())
	o.Costs = cmp.Or(o.Costs, DefaultCosts())
	if o.Taxonomy.Aliases == nil && o.Taxonomy.Implies == nil {
		o.Taxonomy = DefaultTaxonomy()
	}
	l := &o.Learning
	l.Patience, l.CoolOff = cmp.Or(l.Patience, 3), cmp.Or(l.CoolOff, 30*time.Second)
	l.Slots, l.WaitWeight = cmp.Or(l.Slots, 4), cmp.Or(l.WaitWeight, 1)
	return o
}

// validate reports every invalid option but those of the taxonomy.
func (o *Options) validate() error {
	var faults []error
	check := func(valid bool, field string, value any, rule string) {
		if !valid {
			faults = append(faults, &tier.InvalidError{Field: field, Value: fmt.Sprint(value), Rule: rule})
		}
	}
	weight := func(field string, w float64) {
		check(math.Abs(w) <= 1000, "weight "+field, w, "must be between -1000 and 1000")
	}
	w, c, l := &o.Weights, &o.Costs, &o.Learning
	check(o.Policy == PolicyRecorded || o.Policy == PolicyAdaptive, "policy", strconv.Quote(o.Policy), "must be recorded or adaptive")
	weight("capability", w.Capability)
	weight("speed ram", w.SpeedRAM)
	weight("speed elsewhere", w.SpeedElsewhere)
	weight("quality per GB", w.QualityPerGB)
	weight("balanced ram", w.BalancedRAM)
	weight("balanced elsewhere", w.BalancedElsewhere)
	weight("balanced per GB", w.BalancedPerGB)
	check(o.Safety.RAM >= 1.0/million && o.Safety.RAM <= 1, "safety ram", o.Safety.RAM, "must be above 0 and at most 1")
	check(o.Safety.Total >= 1.0/million && o.Safety.Total <= 1, "safety total", o.Safety.Total, "must be above 0 and at most 1")
	check(0 <= c.RAM && c.RAM <= c.Swap && c.Swap <= c.Storage && c.Storage <= time.Hour, "costs", fmt.Sprintf("%v, %v, %v", c.RAM, c.Swap, c.Storage),
		"must not be negative, must grow from ram to storage, and must be 1h per GB at most")
	check(l.Patience >= 1, "patience", l.Patience, "must be positive")
	check(l.CoolOff > 0 && l.CoolOff <= time.Hour, "cool-off", l.CoolOff, "must be positive and 1h at most")
	check(l.Slots >= 1, "slots", l.Slots, "must be positive")
	check(l.WaitWeight > 0 && l.WaitWeight <= 100, "wait weight", l.WaitWeight, "must be above 0 and at most 100")
	return errors.Join(faults...)
}

// textGeneration is what a request that names no capability means.
const textGeneration = "text-generation"

// Taxonomy says which capability stands for which. Names that it does not
// mention stand for themselves. To extend the default, change what
// DefaultTaxonomy returns.
type Taxonomy struct {
	// Aliases are other names of the same capability, to the name it goes by here.
	Aliases map[string]string
	// Implies are the capabilities that a model also has that has the first one.
	// It is transitive and speaks of names and aliases alike.
	Implies map[string][]string
}

// DefaultTaxonomy returns the aliases and the hierarchy that New uses:
//
//	code = code-generation
//	embedding, feature-extraction = embeddings
//	completion = text-generation
//	tools, function-calling = tool-use
//	transcription, speech-to-text = automatic-speech-recognition
//	tts = text-to-speech
//	rerank = reranking
//
//	chat, instruction-following → text-generation
//	image-text-to-text → vision, text-generation
//	zero-shot-classification → text-classification
//
// A model with code-generation is not taken to be good for text in general.
func DefaultTaxonomy() Taxonomy {
	return Taxonomy{
		Aliases: map[string]string{
			"code":               "code-generation",
			"embedding":          "embeddings",
			"feature-extraction": "embeddings",
			"completion":         textGeneration,
			"tools":              "tool-use",
			"function-calling":   "tool-use",
			"transcription":      "automatic-speech-recognition",
			"speech-to-text":     "automatic-speech-recognition",
			"tts":                "text-to-speech",
			"rerank":             "reranking",
		},
		Implies: map[string][]string{
			"chat":                     {textGeneration},
			"instruction-following":    {textGeneration},
			"image-text-to-text":       {"vision", textGeneration},
			"zero-shot-classification": {"text-classification"},
		},
	}
}

// taxonomy holds the capabilities of a Taxonomy by each of their names.
type taxonomy map[string]*capability

// capability is a capability that models are asked for. A model that has any of
// these names, or of those that imply it, has the capability.
type capability struct {
	names   []string // the one that it goes by, then its aliases
	implied []string // by these
}

// compile copies t, so that its owner may go on changing it.
func (t Taxonomy) compile() (taxonomy, error) {
	known := make(taxonomy)
	of := func(name string) *capability {
		if known[name] == nil {
			known[name] = &capability{names: []string{name}}
		}
		return known[name]
	}
	for alias, name := range t.Aliases {
		for steps := 0; t.Aliases[name] != "" && t.Aliases[name] != name; steps++ {
			if steps > len(t.Aliases) {
				return nil, &tier.InvalidError{Field: "alias", Value: strconv.Quote(alias), Rule: "must not lead back to itself"}
			}
			name = t.Aliases[name]
		}
		if c := of(name); alias != name {
			c.names = append(c.names, alias)
			known[alias] = c
		}
	}
	for grown := true; grown; { // what implies a name that implies this one implies it too
		grown = false
		for name, also := range t.Implies {
			for _, a := range also {
				for _, n := range slices.Concat(of(name).names, of(name).implied) {
					if c := of(a); !slices.Contains(c.names, n) && !slices.Contains(c.implied, n) {
						c.implied = append(c.implied, n)
						grown = true
					}
				}
			}
		}
	}
	return known, nil
}

// add appends the capabilities of those names to a list in which each stands once.
func (t taxonomy) add(list []*capability, names []string) []*capability {
	for _, n := range names {
		c, ok := t[n]
		if !ok {
			c = &capability{names: []string{n}}
		}
		if !slices.ContainsFunc(list, func(other *capability) bool { return other.names[0] == c.names[0] }) {
			list = append(list, c)
		}
	}
	return list
}

// of reports whether a model with those capabilities has this one.
func (c *capability) of(capabilities []string) bool {
	return overlap(capabilities, c.names) || overlap(capabilities, c.implied)
}

// can reports whether a model with those capabilities has the wanted one.
func (t taxonomy) can(capabilities []string, wanted string) bool {
	if slices.Contains(capabilities, wanted) {
		return true
	}
	c, ok := t[wanted]
	return ok && c.of(capabilities)
}
