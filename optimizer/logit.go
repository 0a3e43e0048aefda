package optimizer

import "math"

// The features of a model at a moment, from which the logit tells how much
// likelier than others it is to be asked for next.
const (
	featMixture = 0                  // log of the mixture's intensity
	featRates   = 1                  // logs of the decayed rates
	featAge     = featRates + scales // log of the time since the last access
	featCount   = featAge + 1        // log of the number of accesses
	featHazard  = featCount + 1      // log of the hazard of its own gaps
	featFollows = featHazard + 1     // log of its share of what follows the last model
	featSame    = featFollows + 1    // it is the last model
	featNever   = featSame + 1       // it was never asked for
	featHour    = featNever + 1      // log of its share of accesses at this hour
	featOverdue = featHour + 1       // log of that time over what is usual for it
	featOdd     = featOverdue + 1    // how far that is from usual, either way
	features    = featOdd + 1
)

type feature [features]float64

// logit is a conditional logit over which model is asked for next (McFadden
// 1974): the odds of a model are exp(theta·features). It starts as the mixture
// and learns by gradient ascent on the likelihood of the order in which models
// were asked for (Plackett 1975), with AdaGrad's steps (Duchi and others, JMLR
// 2011), which need no tuning by traffic.
type logit struct {
	theta, sum feature
}

const (
	logitStep = 0.05
	biasStep  = 0.05
	// thetaMost bounds a weight, scoreMost a score; neither is reached by traffic
	// that makes sense.
	thetaMost = 20
	scoreMost = 200
)

func newLogit() logit {
	var l logit
	l.theta[featMixture] = 1
	return l
}

// score returns the log of a model's odds.
func (l *logit) score(f *feature, bias float64) float64 {
	s := bias
	for k, x := range f {
		s += l.theta[k] * x
	}
	if math.IsNaN(s) {
		return -scoreMost
	}
	return min(max(s, -scoreMost), scoreMost)
}

// learn takes one step up the gradient.
func (l *logit) learn(g *feature) {
	for k, x := range g {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			continue
		}
		l.sum[k] += x * x
		// The one lets it start gently: the first requests tell little.
		t := l.theta[k] + logitStep*x/math.Sqrt(l.sum[k]+1)
		l.theta[k] = min(max(t, -thetaMost), thetaMost)
	}
}

// describe fills in the features of a model at t. r are its rates by expert, and
// lambda their mixture; follows is its share of what follows the last model. The
// constants bring the features to a common scale and keep logarithms off zero.
func (f *feature) describe(u *use, t float64, hour int, r *rates, lambda, follows float64, same bool) {
	*f = feature{}
	f[featMixture] = quickLog(600*lambda + 1e-4)
	for k, span := range spans {
		f[featRates+k] = quickLog(r[k]*span + 0.02)
	}
	age := 30 * 86400.0
	if u.count > 0 {
		age = u.age(t)
	} else {
		f[featNever] = 1
	}
	n := float64(u.count)
	f[featAge] = 0.3 * quickLog(age+1)
	f[featCount] = 0.3 * quickLog(n+1)
	f[featHazard] = 0.2 * quickLog(600*r[gapExpert]+0.01)
	f[featFollows] = 0.3 * quickLog(follows)
	if same {
		f[featSame] = 1
	}
	near := u.hours[hour] + 0.5*u.hours[(hour+1)%24] + 0.5*u.hours[(hour+23)%24]
	kept := min(n, 1/(1-hourKeep))
	if u.count > 1 {
		f[featOverdue] = 0.3 * (quickLog(age+1) - float64(u.usual))
		f[featOdd] = f[featOverdue] * f[featOverdue]
	}
	f[featHour] = 0.3 * quickLog((float64(near)+0.05*kept+0.1)/(kept+1))
}
