package core

import (
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Standing is what those who wait for an entry wait for.
type Standing struct {
	// Phase is tier.Loading while Move brings the entry, tier.Starting never: the core
	// does not know when bytes arrive.
	Phase tier.Phase
	// Position is the entry's place among those that are queued, from 1; 0: it is not.
	Position int
	// Behind are the models that go first or hold the room, or, while room is made,
	// those that leave; tier.MaxBehind at most. It is not to be changed.
	Behind []string
	Move   *Move
}

// Standings tells fn of every entry that is waited for, in the order of who goes
// first, and of those that load though no request waits, as of the last Step.
func (c *Core) Standings(now time.Time, fn func(*Entry, Standing)) {
	var ahead names // the models that go first: those that load, then the queue
	for _, m := range c.moves {
		if m.loads() && m.Started() && m.returns() {
			ahead.add(m.Entry)
		}
	}
	var holders names // of ram, if asked for
	queued := 0
	for _, x := range c.demands {
		e := x.e
		if e == nil {
			queued++
			ahead.put(x.outsider.name())
			continue
		}
		s := Standing{}
		switch m := e.move; {
		case m != nil && m.phase == moveRuns && m.loads():
			s.Phase, s.Move = tier.Loading, m
		case x.plan != nil && (m == nil || !m.loads()):
			s.Phase, s.Behind = tier.MakingRoom, x.plan.leaving()
		default:
			queued++
			s.Position, s.Behind = queued, ahead.but(e)
			if first := c.goesFirst(x, now); first != nil {
				s.Behind = []string{first.Model.Name}
			} else if len(s.Behind) == 0 && x.blocked {
				if holders == nil {
					for _, h := range c.Holders(tier.Account(tier.RAM)) {
						holders.put(h.Name())
					}
				}
				s.Behind = slices.Clip(holders)
			}
			ahead.add(e)
		}
		fn(e, s)
	}
	for _, m := range c.moves {
		if m.Entry.demand == nil && m.phase == moveRuns && m.loads() {
			fn(m.Entry, Standing{Phase: tier.Loading, Move: m})
		}
	}
}

// leaving returns the models whose steps a plan waits for.
func (p *plan) leaving() []string {
	var out names
	for _, s := range p.steps {
		if !s.ended() && s.e != p.demand.e {
			out.add(s.e)
		}
	}
	return out
}

// names are those of the first tier.MaxBehind models that are added.
type names []string

func (n *names) put(name string) {
	if len(*n) < tier.MaxBehind && !slices.Contains(*n, name) {
		*n = append(*n, name)
	}
}

func (n *names) add(e *Entry) { n.put(e.Model.Name) }

// but returns the names without that of the entry.
func (n names) but(e *Entry) []string {
	if i := slices.Index(n, e.Model.Name); i >= 0 {
		return slices.Concat(n[:i], n[i+1:])
	}
	return slices.Clip(n)
}
