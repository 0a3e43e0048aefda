package core

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

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

// roomCame takes note that there is room that was an outsider's.
func (p *idlePlanning) roomCame(every time.Duration, now time.Time) {
	if every > 0 {
		p.at, p.pause, p.runs = now, share(idleSoonest, every), 0
	}
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

// idleness is what has an entry leave its tier because no request uses it.
type idleness struct {
	wish time.Duration // the KeepAlive of the last request for it; 0: none of its own
	// since is from when on it is idle, as far as is known: it came to its tier then, or
	// a lease was held. Leases that its gate knows of may have ended later.
	since    time.Time
	unasked  bool // it came to its tier for no request
	timed    bool // its gate notes when leases end
	prompt   bool // its gate tells when leases end
	refused  int  // moves in a row that came to nothing
	retryAt  time.Time
	swapless bool // the last of them found no room in swap
}

// arrived takes note that the entry is in another tier.
func (i *idleness) arrived(m *Move, now time.Time) {
	asked := m.purpose == forNeed && m.Order == nil && m.Entry.HotLoad() == nil
	i.since, i.unasked = now, !asked && m.Entry.Waiters() == 0
	i.refused, i.retryAt, i.swapless = 0, time.Time{}, false
}

// soon is the shortest idle time that is measured by looking now and then: for less, the
// gate tells when leases end. It is also how soon a model that was in use is looked at
// again.
const soon = time.Second

// Wish tells the KeepAlive of the last request for a model; 0: the model's own. Its
// IdleTerm may be another then, but no View is: requests of many wishes are to be cheap.
func (c *Core) Wish(e *Entry, keepAlive time.Duration, now time.Time) {
	if e.idle.wish != keepAlive {
		e.idle.wish = keepAlive
		c.keepAlives = c.keepAlives || keepAlive > 0
		c.timeIdle(e, now)
		c.idleNext = earlier(c.idleNext, c.idleUntil(e, now))
	}
}

// idleTime is how long the entry may be idle where it is; 0: for good.
func (c *Core) idleTime(e *Entry) time.Duration {
	keep := cmp.Or(e.idle.wish, e.Model.KeepAlive, max(c.opt.KeepAlive, 0))
	switch {
	case e.Model.Pinned || keep < 0:
	case e.tier == tier.RAM:
		return keep
	case e.tier == tier.Swap:
		return max(c.opt.StandbyFor, 0)
	}
	return 0
}

// IdleTerm is when an entry leaves by idleness: if it was idle for Limit since Since and
// since its last lease ended, but not before NotBefore. Zero: it does not.
type IdleTerm struct {
	Limit            time.Duration
	Since, NotBefore time.Time
}

// Until returns when that is, if the last lease that was noted ended then.
func (t IdleTerm) Until(ended time.Time) time.Time {
	at := later(t.Since, ended)
	switch t.Limit {
	case 0:
		return time.Time{}
	case tier.AtOnce:
	default:
		at = at.Add(t.Limit)
	}
	return later(at, t.NotBefore)
}

// KeepAlives reports whether any model may leave by idleness.
func (c *Core) KeepAlives() bool { return c.keepAlives }

// IdleTerm returns when an entry leaves by idleness.
func (c *Core) IdleTerm(e *Entry) IdleTerm {
	limit := c.idleTime(e)
	switch {
	case limit == 0 || !e.idle.timed || e.phase != resting || e.wanted() || e.fate != stays:
		return IdleTerm{}
	case limit == tier.AtOnce && e.tier == tier.RAM && e.idle.unasked && e.Gate.Uses() == e.usesAtLoad:
		return IdleTerm{} // it has had no lease that could end
	}
	return IdleTerm{limit, e.idle.since, e.idle.retryAt}
}

// sendIdle sends models away that were idle for too long: from ram to swap, or to storage
// if swap has no room, and from swap to storage. Their homes stay, but they are not
// brought there before a request has come or their owner orders it.
func (c *Core) sendIdle(now time.Time) {
	if !c.keepAlives || c.idleSeen == c.progress && (c.idleNext.IsZero() || now.Before(c.idleNext)) {
		return
	}
	c.idleNext = time.Time{}
	for _, e := range c.entries {
		c.timeIdle(e, now)
		at := c.idleUntil(e, now)
		if !at.IsZero() && !now.Before(at) {
			at = c.sendAway(e, now)
		}
		c.idleNext = earlier(c.idleNext, at)
	}
	c.idleSeen = c.progress
}

// timeIdle has the gate of an entry note when leases end for as long as that matters.
func (c *Core) timeIdle(e *Entry, now time.Time) {
	i, limit := &e.idle, c.idleTime(e)
	if timed := limit > 0; timed != i.timed {
		i.timed = timed
		e.Gate.Time(timed)
		i.since = later(i.since, now) // leases that ended until now were not noted
	}
	if prompt := limit > 0 && limit < soon; prompt != i.prompt {
		i.prompt = prompt
		c.watchGate(e)
	}
}

// idleUntil returns when the entry is to leave, or to be looked at again; zero: not by
// time alone.
func (c *Core) idleUntil(e *Entry, now time.Time) time.Time {
	term := c.IdleTerm(e)
	switch at := term.Until(time.Time{}); {
	case at.IsZero() || at.After(now):
		return at
	case e.Gate.Leases() > 0:
		return c.usedStill(e, now)
	}
	return term.Until(e.Gate.Ended())
}

// usedStill takes note that leases on an entry are held now, and returns when to look
// again.
func (c *Core) usedStill(e *Entry, now time.Time) time.Time {
	e.idle.since = now
	return now.Add(max(c.idleTime(e), soon))
}

// sendAway has an entry leave that was idle for too long. It returns when to look again
// if it does not.
func (c *Core) sendAway(e *Entry, now time.Time) time.Time {
	if c.seize(e) != nil { // it is in use again
		return c.usedStill(e, now)
	}
	why := fmt.Sprintf("not used for %v in %v", c.idleTime(e), e.tier)
	if c.idleTime(e) == tier.AtOnce {
		why = "its last lease ended"
	}
	to := tier.Storage
	if e.tier == tier.RAM && !e.idle.swapless {
		to = tier.Swap
	}
	m := newMove(e, residence{tier: to}, forStandby, tier.ReasonIdle, why)
	err := c.begin(m, nil, now)
	if err != nil && to == tier.Swap {
		m.To = tier.Storage
		err = c.begin(m, nil, now)
	}
	if err != nil {
		c.staysIdle(e, false, now)
		c.reopen(e)
		return e.idle.retryAt
	}
	e.sent, e.homeward = true, false
	return time.Time{}
}

// staysIdle has an entry whose move came to nothing tried again later; short says that
// swap had no room.
func (c *Core) staysIdle(e *Entry, short bool, now time.Time) {
	i := &e.idle
	i.retryAt, i.swapless = now.Add(backOff(i.refused)), short
	i.refused++
	e.sent = false
	c.mark(changed)
}

// plannedIdle begins to carry out a plan for whose end no request waits. Unless
// their owner asked for it, models that the owner or idleness sent down, and that no
// request came for since, stay there.
func (c *Core) plannedIdle(q *Question, p tier.Plan) []tier.Step {
	if len(c.demands) > 0 || c.planned() || c.rests() {
		return nil
	}
	steps := p.Steps
	if !q.ordered {
		steps = slices.DeleteFunc(slices.Clone(steps), func(s tier.Step) bool {
			e, ok := c.Named(s.Model.Name)
			return ok && e.sent && (s.To > e.tier || s.To == e.tier && s.Keep > e.kept)
		})
	}
	return c.carryOut(q, steps)
}

// carryOut begins a plan that is for no model's sake, and returns its steps.
func (c *Core) carryOut(q *Question, steps []tier.Step) []tier.Step {
	resolved, err := c.resolve(q, steps)
	if err != nil || len(steps) == 0 {
		return nil
	}
	p := &plan{steps: resolved}
	if q.Idle {
		p.purpose = forIdle
	}
	for _, s := range resolved {
		if q.ordered && !s.down {
			s.e.sent = false // its owner wants it up again
		}
	}
	c.start(p)
	out := make([]tier.Step, len(resolved))
	for i, s := range resolved {
		mv := tier.Move{Model: s.e.Model, From: s.from, To: s.to.tier, Keep: s.to.kept, Leave: s.to.left}
		out[i] = tier.Step{Move: mv, Reason: s.reason, Why: s.why, Gain: steps[i].Gain}
	}
	return out
}
