package optimizer

import "math"

// quickLog returns the natural logarithm of a positive, finite, normal x to
// within 1e-5, several times faster than math.Log: scoring a library takes a
// dozen of them for each model. The mantissa m, brought to between 2/3 and 4/3,
// is read off the series of artanh((m-1)/(m+1)).
func quickLog(x float64) float64 {
	const (
		pivot = 0x3fe5555555555555 // bits of 2/3
	)
	b := math.Float64bits(x)
	e := int64(b-pivot) >> 52
	m := math.Float64frombits(b - uint64(e)<<52)
	s := (m - 1) / (m + 1)
	q := s * s
	return float64(e)*math.Ln2 + 2*s*(1+q*(1.0/3+q*(1.0/5+q/7)))
}

// fade returns e^-x for x ≥ 0 to within 1e-8: what is left of a rate after x time
// constants.
func fade(x float64) float64 {
	switch {
	case x < 1e-3:
		return 1 - x + x*x/2
	case x > 50:
		return 0
	}
	return math.Exp(-x)
}
