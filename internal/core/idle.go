package core

import "time"

// idlePlanning is when the placement is next asked what is worth moving though no
// request waits. What pays changes most right after a request and less and less
// after it, so that it is asked soon after one, then at pauses that grow up to
// Options.OptimizeEvery, and no more once a library was left alone for long.
type idlePlanning struct {
	at    time.Time     // when it is due; zero: not at all
	pause time.Duration // until the time after that
	asked time.Time
	first time.Time // when a model was first asked for: a few requests tell nothing
	used  time.Time // when a model was last asked for, as far as is known
	runs  int       // plans since then that had something to move
}

const (
	// idleSoonest and idleAgain are the shortest pause, and the pause after a plan that
	// had something to move, as shares of Options.OptimizeEvery.
	idleSoonest = 1.0 / 30
	idleAgain   = 1.0 / 300
	idleGrowth  = 1.5
	// maxIdleRuns is after how many of those the pauses grow all the same: moves that
	// fail would be planned again without end.
	maxIdleRuns = 200
	// idleTooLong: a library that no request used for so long is left as it is.
	idleTooLong = 2 * time.Hour
)

// share returns a share of a duration.
func share(of float64, d time.Duration) time.Duration { return time.Duration(of * float64(d)) }

// request takes note that a model was asked for.
func (p *idlePlanning) request(every time.Duration, now time.Time) {
	if every <= 0 {
		return
	}
	p.used, p.pause, p.runs = now, share(idleSoonest, every), 0
	if p.first.IsZero() {
		p.first = now
	}
	p.at = later(p.asked.Add(p.pause), p.first.Add(every))
}

// planned takes note of what an idle question came to.
func (p *idlePlanning) planned(moves int, every time.Duration, now time.Time) {
	switch {
	case every <= 0:
	case moves > 0 && p.runs < maxIdleRuns:
		p.runs++
		p.at = now.Add(share(idleAgain, every))
	case now.Sub(p.used) > idleTooLong:
		p.at = time.Time{}
	default:
		p.at = now.Add(p.pause)
		p.pause = min(share(idleGrowth, p.pause), every)
	}
}

// askIdle asks the placement what is worth moving, if that is due and nothing goes
// first, whose end has Step called again.
func (c *Core) askIdle(now time.Time) {
	if p := &c.idle; !p.at.IsZero() && !now.Before(p.at) && c.quiet() && c.AskIdle(false, now) != nil {
		p.asked, p.at = now, time.Time{}
	}
}

// LastRequest returns when a model was last asked for; zero: never.
func (c *Core) LastRequest() time.Time { return c.idle.used }
