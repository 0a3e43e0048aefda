package modeltier

import "time"

// ahead is when the placement is next asked what is worth moving though nobody
// waits. What pays changes most right after a request and less and less after
// it, so that it is asked soon after one, then at pauses that grow up to
// Config.OptimizeEvery, and no more once a library was left alone for long.
type ahead struct {
	at    time.Time     // when it is due; zero: not at all
	pause time.Duration // until the time after that
	asked time.Time
	first time.Time // when a model was first asked for: a few requests tell nothing
	used  time.Time // when a model was last asked for, as far as is known
	runs  int       // plans since then that had something to move
}

const (
	// aheadSoonest and aheadAgain are the shortest pause, and the pause after a
	// plan that had something to move, as shares of Config.OptimizeEvery.
	aheadSoonest = 1.0 / 30
	aheadAgain   = 1.0 / 300
	aheadGrowth  = 1.5
	// aheadRuns is after how many of those the pauses grow all the same: moves that
	// fail would be planned again without end.
	aheadRuns = 200
	// aheadLong: a library that nobody used for so long is left as it is.
	aheadLong = 2 * time.Hour
)

// share returns a share of a duration.
func share(of float64, d time.Duration) time.Duration { return time.Duration(of * float64(d)) }

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// lookAhead asks the placement what is worth moving, if that is due, and returns
// when to come back for it: zero where nothing is due or something goes first,
// whose end brings the loop here again.
func (c *control) lookAhead() time.Time {
	every, a := c.m.cfg.OptimizeEvery, &c.ahead
	if every <= 0 || c.stopping {
		return time.Time{}
	}
	if c.usedSince {
		c.usedSince, a.used, a.pause, a.runs = false, c.now, share(aheadSoonest, every), 0
		if a.first.IsZero() {
			a.first = c.now
		}
		a.at = later(a.asked.Add(a.pause), a.first.Add(every))
	}
	if a.at.IsZero() || !c.core.Idle() {
		return time.Time{}
	}
	if c.now.Before(a.at) {
		return a.at
	}
	if !c.core.AskIdle(nil, c.now) {
		return time.Time{}
	}
	a.asked, a.at = c.now, time.Time{}
	return c.now // the loop has a question to put
}

// lookedAhead takes note of what an idle plan came to.
func (c *control) lookedAhead(moves int) {
	every, a := c.m.cfg.OptimizeEvery, &c.ahead
	switch {
	case moves > 0 && a.runs < aheadRuns:
		a.runs++
		a.at = c.now.Add(share(aheadAgain, every))
	case c.now.Sub(a.used) > aheadLong:
		a.at = time.Time{}
	default:
		a.at = c.now.Add(a.pause)
		a.pause = min(share(aheadGrowth, a.pause), every)
	}
}
