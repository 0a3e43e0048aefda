package optimizer

import "math"

// experts of the mixture: the decayed rates, the hazard of the model's own gaps,
// and a uniform prior that covers models never seen.
const (
	gapExpert   = scales
	priorExpert = scales + 1
	mixed       = scales + 2
)

// rates are one model's intensities by expert, in requests a second.
type rates [mixed]float64

// shares are decayed counts of how often each expert would have named the model
// that was asked for, by that model.
type shares struct {
	count [mixed]float32
	total float32
}

const (
	// sharedTrust is how many requests of its own it takes until a model's own
	// shares weigh as much as the shares of all models.
	sharedTrust = 30
	shareKeep   = 0.995
	// weightRate is the step of the online EM for the shared weights.
	weightRate = 0.003
)

// mixture combines the experts. Its weights are learned online by expectation
// maximisation on what was asked for (Cappé and Moulines, JRSS B 2009): there is
// nothing to tune, and as they sum to one the mixture stays calibrated in
// requests a second if the experts are.
type mixture struct {
	weights [mixed]float64
}

func newMixture() mixture {
	var m mixture
	for k := range m.weights {
		m.weights[k] = 1 / float64(mixed)
	}
	return m
}

// weight returns the weight of expert k for a model with those shares.
func (m *mixture) weight(s *shares, k int) float64 {
	return (sharedTrust*m.weights[k] + float64(s.count[k])) / (sharedTrust + float64(s.total))
}

// intensity returns the mixture of the rates.
func (m *mixture) intensity(s *shares, r *rates) float64 {
	sum := 0.0
	for k := range r {
		sum += (sharedTrust*m.weights[k] + float64(s.count[k])) * r[k]
	}
	return sum / (sharedTrust + float64(s.total))
}

// learn takes one step of EM on a request for the model whose shares and rates
// these are.
func (m *mixture) learn(s *shares, r *rates) {
	sum := m.intensity(s, r)
	if !(sum > 0) || math.IsInf(sum, 0) {
		return
	}
	var p [mixed]float64
	for k := range p {
		p[k] = m.weight(s, k) * r[k] / sum
	}
	s.total = 0
	for k := range p {
		m.weights[k] += weightRate * (p[k] - m.weights[k])
		s.count[k] = shareKeep*s.count[k] + float32(p[k])
		s.total += s.count[k]
	}
}
