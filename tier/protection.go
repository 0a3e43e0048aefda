package tier

import "time"

// Default protection. They are what a Config that says nothing gets.
const (
	DefaultFairness     = 3 * time.Second
	DefaultGrace        = 50 * time.Millisecond
	DefaultMinResidency = 30 * time.Second
)

// Protection says for how long a model is safe from eviction, and when safety
// ends. It is the one place where that is decided: the Manager goes by it, and a
// View carries it to the Placement and to memory reclaim.
type Protection struct {
	// MinResidency is how long a model that came to ram is spared while memory is
	// reclaimed under pressure, as long as others can give way. 0: DefaultMinResidency;
	// negative: it is not spared.
	MinResidency time.Duration
	// Grace is how long after its last use a model still counts as in demand. A
	// model in demand that was loaded a moment ago stays for as long as its load
	// took, Fairness at most. 0: DefaultGrace; negative: it counts only while it
	// is leased.
	Grace time.Duration
	// Fairness bounds starvation and thrash: a request waits at most this long
	// before busy models are drained for it, and a model in demand stays at most
	// this long after a load. 0: DefaultFairness. It is not negative.
	Fairness time.Duration
}

// OrDefault returns p with every zero field at its default and every negative one
// at zero, which is how a View and the Manager carry it.
func (p Protection) OrDefault() Protection {
	settle := func(d, zero time.Duration) time.Duration {
		if d == 0 {
			return zero
		}
		return max(d, 0)
	}
	return Protection{
		MinResidency: settle(p.MinResidency, DefaultMinResidency),
		Grace:        settle(p.Grace, DefaultGrace),
		Fairness:     settle(p.Fairness, DefaultFairness),
	}
}
