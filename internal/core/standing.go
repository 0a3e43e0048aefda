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
	queue := func(x *demand, members ...*Entry) Standing {
		queued++
		s := Standing{Position: queued, Behind: ahead.but(members...)}
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
		for _, e := range members {
			ahead.add(e)
		}
		return s
	}
	var told []*Entry // models of sets
	for _, x := range c.demands {
		e := x.e
		if x.outsider != nil {
			queued++
			ahead.put(x.outsider.name())
			continue
		}
		if x.members != nil {
			var s Standing
			if x.plan != nil {
				s.Phase, s.Behind = tier.MakingRoom, x.plan.leaving()
			} else {
				s = queue(x, x.members...)
			}
			for _, e := range x.members {
				if e.demand == nil && !slices.Contains(told, e) {
					told = append(told, e)
					fn(e, s.of(e, x))
				}
			}
			continue
		}
		s := Standing{}
		switch m := e.move; {
		case m != nil && m.phase == moveRuns && m.loads():
			s.Phase, s.Move = tier.Loading, m
		case x.plan != nil && (m == nil || !m.loads()):
			s.Phase, s.Behind = tier.MakingRoom, x.plan.leaving()
		default:
			s = queue(x, e)
		}
		fn(e, s)
	}
	for _, m := range c.moves {
		if !m.Entry.wanted() && m.phase == moveRuns && m.loads() {
			fn(m.Entry, Standing{Phase: tier.Loading, Move: m})
		}
	}
}

// of returns what those wait for who wait for a set, as far as one model of it is
// concerned: its load, or where it is there already the others.
func (s Standing) of(e *Entry, x *demand) Standing {
	if m := e.move; m != nil && m.phase == moveRuns && m.loads() {
		return Standing{Phase: tier.Loading, Move: m}
	}
	if len(s.Behind) == 0 && e.servable() {
		var missing names
		for _, other := range x.members {
			if !other.servable() {
				missing.add(other)
			}
		}
		s.Behind = missing
	}
	return s
}

// leaving returns the models whose steps a plan waits for.
func (p *plan) leaving() []string {
	var out names
	for _, s := range p.steps {
		if !s.ended() && !p.demand.wants(s.e) {
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

// but returns the names without those of the entries.
func (n names) but(entries ...*Entry) []string {
	for _, e := range entries {
		if i := slices.Index(n, e.Model.Name); i >= 0 {
			n = slices.Concat(n[:i], n[i+1:])
		}
	}
	return slices.Clip(n)
}
