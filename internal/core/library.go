package core

import (
	"maps"
	"slices"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// Library returns the models known now.
func (c *Core) Library() *tier.Library {
	if c.library == nil {
		models := make([]tier.Model, len(c.entries))
		for i, e := range c.entries {
			models[i] = e.Model
		}
		c.library = tier.AssembleLibrary(models).WithAliases(c.aliases)
	}
	return c.library
}

// Aliases returns of which model each alias is. It is not to be changed.
func (c *Core) Aliases() map[string]string { return c.aliases }

// SetAliases replaces the aliases. None is a model's name; the models may be missing.
func (c *Core) SetAliases(aliases map[string]string) {
	c.aliases = maps.Clone(aliases)
	c.library = nil
	for name := range c.older {
		c.lookAtVersions(name)
	}
	c.mark(changed)
}

// SetAlias makes alias stand for the entry, whatever it stood for, or with nil for
// nothing; as is what it is called for that: its name, or that of its version. A View
// shows all of it or nothing.
func (c *Core) SetAlias(alias string, e *Entry, as string) error {
	if _, taken := c.byName[alias]; taken && e != nil {
		return &tier.ExistsError{Model: alias}
	}
	if _, known := c.aliases[alias]; !known && e != nil {
		if err := tier.CheckAliases(len(c.aliases) + 1); err != nil {
			return err
		}
	}
	next := maps.Clone(c.aliases)
	if next == nil {
		next = make(map[string]string)
	}
	if e == nil {
		if _, known := next[alias]; !known {
			return &tier.NotFoundError{What: "alias", Name: alias}
		}
		delete(next, alias)
	} else {
		next[alias] = as
	}
	c.SetAliases(next)
	return nil
}

// Entries returns the entries by the library's index. The slice is never
// changed in place.
func (c *Core) Entries() []*Entry { return c.entries }

// Find returns the entry of that name or alias, or version, as the library's Find does.
func (c *Core) Find(name string) (*Entry, bool) {
	e, ok := c.Named(name)
	if !ok {
		e, ok = c.byName[c.aliases[name]]
	}
	if ok && e.Model.VersionOf != "" {
		if now, there := c.byName[e.Model.VersionOf]; there && now.Model.Version == e.Model.Version {
			e = now
		}
	}
	if ok || !c.calledAlso && !strings.Contains(name, "@") && !strings.Contains(c.aliases[name], "@") {
		return e, ok
	}
	i, ok := c.Library().Find(name)
	if ok {
		e = c.entries[i]
	}
	return e, ok
}

// Named returns the entry of that name. What was decided about a model that is gone by
// now is not about the one that its name has become an alias of.
func (c *Core) Named(name string) (*Entry, bool) {
	e, ok := c.byName[name]
	return e, ok
}

// Taken returns an error if no new model can have the name: another or an alias has it.
func (c *Core) Taken(name string) error {
	if _, taken := c.byName[name]; taken {
		return &tier.ExistsError{Model: name}
	}
	if of, taken := c.aliases[name]; taken {
		return &tier.ExistsError{Model: name, Of: of}
	}
	return nil
}

// Add puts models into the library, in storage, with what the mover says of each. home
// brings them to their home tiers in the background, as far as there is room.
func (c *Core) Add(models []tier.Model, traits []Traits, home bool) error {
	for i := range models {
		if err := c.Taken(models[i].Name); err != nil {
			return err
		}
	}
	c.entries = slices.Grow(slices.Clone(c.entries), len(models))
	for i := range models {
		e := &Entry{Model: models[i], opt: &c.opt, declared: models[i].Runtime}
		e.Gate = c.opt.NewGate(e)
		c.renew(e, traits[i])
		c.forecast(e)
		c.keepAlives = c.keepAlives || e.Model.KeepAlive > 0
		c.calledAlso = c.calledAlso || len(e.Model.Aliases) > 0
		c.inheritResidue(e)
		c.byName[e.Model.Name] = e
		c.entries = append(c.entries, e)
		if of := e.Model.VersionOf; of != "" {
			c.older[of] = append(c.older[of], e)
			c.lookAtVersions(of)
		}
		if home {
			c.bringHomeLater(e)
		}
	}
	c.library = nil
	c.mark(changed | progressed)
	return nil
}

// renew makes the entry a model that was not there before.
func (c *Core) renew(e *Entry, t Traits) {
	c.epoch++
	e.epoch, e.cached, e.quarantine = c.epoch, 0, nil
	c.takeTraits(e, t)
	e.Gate.Close()
}

// takeTraits takes up what the mover says of the model.
func (c *Core) takeTraits(e *Entry, t Traits) {
	e.traits = t
	c.opt.FileBacked = c.opt.FileBacked || t.FileBacked
}

// describe replaces a model's description. In memory its name, size and path stay.
func (c *Core) describe(e *Entry, m tier.Model) {
	e.Model = m
	c.library = nil
	c.keepAlives = c.keepAlives || m.KeepAlive > 0
	c.calledAlso = c.calledAlso || len(m.Aliases) > 0
	c.reopen(e) // who enters from now on gets the new one
	c.mark(changed | progressed)
}

// forget takes entries out of the library.
func (c *Core) forget(entries ...*Entry) {
	for _, e := range entries {
		for _, x := range e.demands() { // requests came while it was being removed
			c.fail(x, unknown(e))
		}
		c.endTurn(e)
		delete(c.byName, e.Model.Name)
		if of := e.Model.VersionOf; of != "" {
			c.older[of] = slices.DeleteFunc(slices.Clone(c.older[of]), func(o *Entry) bool { return o == e })
		}
		c.lookAtVersions(e.Model.Name)
		c.transition(e, removed, nil, nil)
		if !e.charge.IsZero() || e.Overdraft() > 0 {
			c.residues = append(c.residues, e)
		}
	}
	if len(entries) > 0 {
		gone := func(e *Entry) bool { return e.phase == removed }
		c.entries = slices.DeleteFunc(slices.Clone(c.entries), gone)
		c.homes = slices.DeleteFunc(c.homes, gone)
		c.library = nil
	}
}

// inheritResidue lets a new entry answer for what is left of a removed one of its
// name: its mover cannot tell the two apart.
func (c *Core) inheritResidue(e *Entry) {
	c.residues = slices.DeleteFunc(c.residues, func(g *Entry) bool {
		if g.Model.Name != e.Model.Name || g.Model.Mover != e.Model.Mover {
			return false
		}
		e.charge, e.taken, e.since, e.foreign = g.charge, g.taken, g.since, true
		g.charge, g.taken = tier.Footprint{}, 0
		return true
	})
}

// leaveResidue has what is left of an entry in storage charged apart, because its name is
// about to be another mover's: only the one that it has knows when it is gone.
func (c *Core) leaveResidue(e *Entry) {
	if e.charge.IsZero() && e.Overdraft() == 0 {
		return
	}
	old := &Entry{Model: e.Model, opt: e.opt, declared: e.declared, phase: removed, charge: e.charge, taken: e.taken, since: e.since}
	old.Gate = c.opt.NewGate(old)
	e.charge, e.taken = tier.Footprint{}, 0
	c.residues = append(c.residues, old)
}

// Configured returns what the configuration says, by name. It is not to be changed.
func (c *Core) Configured() map[string]tier.Model { return c.configured }

// SetConfigured tells what the configuration says that the library was made of.
func (c *Core) SetConfigured(models map[string]tier.Model) { c.configured = maps.Clone(models) }
