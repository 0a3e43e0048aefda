package modeltier

import (
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/internal/state"
	"github.com/modeltier/modeltier/tier"
)

// Names of what is kept beside models and limits.
const (
	blobBasis     = "basis"     // what the Config said when the state was kept
	blobPlacement = "placement" // what the placement has learned
	blobSums      = "sums"      // what was read of files, and their SHA-256
)

// basis is what the Config said. What was changed while running is taken up again
// only where the Config still says what it said then: the newer word counts.
type basis struct {
	Limits  tier.Limits          `json:"limits"`
	Homes   map[string]tier.Tier `json:"homes"`
	Pinned  map[string]bool      `json:"pinned,omitempty"` // those that are
	Aliases map[string]string    `json:"aliases,omitempty"`
	Found   map[string]string    `json:"found,omitempty"` // names of models of the folder, by path
	// RolledBack is what it said of models that are another version since.
	RolledBack map[string]content `json:"rolled_back,omitempty"`
}

// restored is what a StateDir gave back, beyond what went into the Config.
type restored struct {
	configured map[string]tier.Model // by the Config, all its models
	limits     tier.Limits           // by the Config
	aliases    map[string]string     // in force
	hotAdded   []string              // models that came by hot load
	placement  []byte
}

// keeping is what is kept beside the core's state. The loop's.
type keeping struct {
	limits    tier.Limits       // by the Config
	aliases   map[string]string // by the Config
	found     map[string]string // names of models of the folder, by path; never changed
	placement []byte            // what the placement has learned
	sums      uint64            // what was read of files: Memory.Changes
}

// openState opens the StateDir and merges what it remembers into cfg.
func (m *Manager) openState(cfg *Config) (restored, error) {
	r := restored{limits: cfg.Limits}
	var st state.State
	var b basis
	if cfg.StateDir != "" {
		store, kept, warnings, err := state.Open(cfg.StateDir)
		if err != nil {
			return r, fmt.Errorf("modeltier: StateDir cannot be used: %w", err)
		}
		for _, w := range warnings {
			m.log.Warn("state folder", "warning", w)
			m.save.warnings = append(m.save.warnings, w.Error())
		}
		m.save.store, st = store, kept
		if raw := st.Blobs[blobBasis]; raw != nil {
			if err := json.Unmarshal(raw, &b); err != nil {
				m.log.Warn("state folder", "warning", "the basis cannot be read; what the Config says counts", "err", err)
			}
		}
	}
	if st.Limits != (tier.Limits{}) && b.Limits == cfg.Limits && st.Limits.Validate() == nil {
		cfg.Limits = st.Limits
	}
	r.aliases = m.newerAliases(cfg, &st, &b)
	found, err := m.findModels(cfg, &st, &b, r.aliases)
	if err != nil {
		return r, errors.Join(fmt.Errorf("modeltier: ModelDir cannot be watched: %w", err), m.save.close())
	}
	cfg.Models = slices.Concat(cfg.Models, found)
	r.configured = byName(cfg.Models)
	hot := byName(st.Models)
	for i := range found { // as it was hot loaded
		if model, ok := hot[found[i].Name]; ok {
			r.configured[model.Name] = model
			st.Removed = append(st.Removed, model.Name)
		}
	}
	removed := make(map[string]bool, len(st.Removed))
	for _, name := range st.Removed {
		removed[name] = true
	}
	cfg.Models = slices.DeleteFunc(cfg.Models, func(model tier.Model) bool { return removed[model.Name] })
	for i := range cfg.Models {
		model := &cfg.Models[i]
		if home, ok := st.Homes[model.Name]; ok && b.Homes[model.Name] == model.Home {
			model.Home = home
		}
		if pin, ok := st.Pins[model.Name]; ok && b.Pinned[model.Name] == model.Pinned {
			model.Pinned = pin
		}
	}
	var hotAdded []tier.Model
	for _, model := range st.Models {
		if _, known := r.configured[model.Name]; !known || removed[model.Name] {
			r.hotAdded = append(r.hotAdded, model.Name)
			hotAdded = append(hotAdded, model)
		}
	}
	hotAdded, _ = cfg.gather(hotAdded) // one that cannot be measured now keeps the size that it had
	cfg.Models = append(cfg.Models, hotAdded...)
	m.warnOfHidden(cfg.Models, r.aliases)
	m.restoreVersions(cfg, st.Versions, b.RolledBack, r.aliases)
	r.placement = st.Blobs[blobPlacement]
	if raw := st.Blobs[blobSums]; raw != nil {
		if err := m.sums.Restore(raw); err != nil {
			m.log.Warn("state folder", "warning", "what was read of files is not known; they are read again", "err", err)
		}
	}
	return r, nil
}

// findModels reads the folder of models, if it is watched, and returns those that may be
// in the library.
func (m *Manager) findModels(cfg *Config, st *state.State, b *basis, aliases map[string]string) ([]tier.Model, error) {
	l := &m.library
	if err := l.open(m, cfg, b.Found, slices.Concat(cfg.Models, st.Models)); err != nil {
		return nil, err
	}
	found, hidden := l.admit(cfg.Models)
	l.hidden = hidden
	return slices.DeleteFunc(found, func(model tier.Model) bool {
		of, taken := aliases[model.Name]
		if taken {
			hideForAlias(hidden, &model, of)
		}
		return taken
	}), nil
}

// newerAliases are what the Config says where that is new, and else what was last in
// force.
func (m *Manager) newerAliases(cfg *Config, st *state.State, b *basis) map[string]string {
	all := maps.Clone(st.Aliases)
	if all == nil {
		all = make(map[string]string)
	}
	for _, said := range []map[string]string{b.Aliases, cfg.Aliases} {
		for alias := range said {
			switch model := cfg.Aliases[alias]; {
			case model == b.Aliases[alias]:
			case model == "":
				delete(all, alias)
			default:
				all[alias] = model
			}
		}
	}
	return all
}

// warnOfHidden tells of aliases that are a model's name by now. They mean something again
// when that model has gone.
func (m *Manager) warnOfHidden(models []tier.Model, aliases map[string]string) {
	for i := range models {
		name := models[i].Name
		if of, taken := aliases[name]; taken {
			m.log.Warn("an alias means nothing as long as a model has its name", "alias", name, "of", of)
		}
	}
}

// restore takes up what is not in the Config. It is called before the loop starts.
func (c *control) restore(r restored) {
	c.keeping, c.remembered = keeping{limits: r.limits, aliases: c.m.cfg.Aliases, found: c.m.library.names(), placement: r.placement}, c.now
	c.core.SetAliases(r.aliases)
	for _, name := range r.hotAdded {
		if e, ok := c.core.Find(name); ok {
			e.SetHotAdded()
		}
	}
	p, ok := c.m.cfg.Placement.(encoding.BinaryUnmarshaler)
	if !ok || len(r.placement) == 0 {
		return
	}
	learned := slices.Clone(r.placement)
	if err := c.m.placement.wait(c.m.ctx, adviceLimit, func(context.Context) error { return p.UnmarshalBinary(learned) }); err != nil {
		c.m.log.Warn("what the placement had learned cannot be restored; it starts from nothing", "err", err)
	}
}

// remember asks the placement for what it has learned, and has it kept.
func (c *control) remember() {
	got := new([]byte)
	ask := c.m.learned(got)
	if ask == nil {
		return
	}
	c.m.placement.ask(planLimit, ask, func(err error) {
		if err != nil {
			c.m.log.Error("what the placement has learned cannot be kept", "err", err)
			return
		}
		c.m.post(func(time.Time) {
			c.keeping.placement = *got
			c.keep(func() {})
		})
	})
}

// learned returns the call that asks the placement for what it has learned; nil if
// it does not say or nothing is kept.
func (m *Manager) learned(into *[]byte) func(context.Context) error {
	p, ok := m.cfg.Placement.(encoding.BinaryMarshaler)
	if !ok || m.save.store == nil {
		return nil
	}
	return func(context.Context) (err error) {
		*into, err = p.MarshalBinary()
		return err
	}
}

// rememberLast is remember at the end, when the loop has ended and what it owns is
// the caller's.
func (m *Manager) rememberLast() {
	got := new([]byte)
	ask := m.learned(got)
	if ask == nil {
		return
	}
	if err := m.placement.wait(context.WithoutCancel(m.ctx), adviceLimit, ask); err == nil {
		m.ctl.keeping.placement = *got
	}
	m.save.keep(m.ctl.kept(), func() {})
}

// keep has the core's state kept as it is now, and then calls ack.
func (c *control) keep(ack func()) {
	if c.m.save.store == nil {
		c.after = append(c.after, ack)
		return
	}
	kept := c.kept()
	c.after = append(c.after, func() { c.m.save.keep(kept, ack) })
}

// kept is what is to be kept, but for its encoding.
type kept struct {
	state state.State
	basis basis
}

// kept returns what is to be kept, as it is now.
func (c *control) kept() kept {
	ledger := c.core.Ledger()
	st := state.State{Limits: ledger.Limits(), Homes: map[string]tier.Tier{}, Pins: map[string]bool{}, Aliases: c.core.Aliases(), Blobs: map[string][]byte{}}
	configured := c.core.Configured()
	b := basis{Found: c.keeping.found, Limits: c.keeping.limits, Homes: make(map[string]tier.Tier, len(configured)), Pinned: map[string]bool{}, Aliases: c.keeping.aliases}
	here := 0
	for _, e := range c.core.Entries() {
		if e.Model.VersionOf != "" {
			continue // with the model that it is a version of
		}
		said, known := configured[e.Model.Name]
		model := e.Becoming()
		st.Versions = append(st.Versions, c.core.Older(e)...)
		switch {
		case known && !c.core.HotAdded(e):
			here++
			if said.Home != model.Home {
				st.Homes[model.Name] = model.Home
			}
			if said.Pinned != model.Pinned {
				st.Pins[model.Name] = model.Pinned
			}
			if core.OtherContent(&said, &model) {
				st.Versions = append(st.Versions, model)
				if b.RolledBack == nil {
					b.RolledBack = make(map[string]content)
				}
				b.RolledBack[model.Name] = content{said.Path, said.Version}
			}
		case e.Owned():
			st.Models = append(st.Models, model)
		}
	}
	if here < len(configured) {
		// A model that was hot loaded under the name of a removed one is listed twice:
		// what the configuration says of the name stays removed.
		for name := range configured {
			if e, there := c.core.Named(name); !there || c.core.HotAdded(e) {
				st.Removed = append(st.Removed, name)
			}
		}
		slices.Sort(st.Removed)
	}
	c.keeping.sums = c.m.sums.Changes() // the saver encodes them
	if c.keeping.placement != nil {
		st.Blobs[blobPlacement] = c.keeping.placement
	}
	for name, model := range configured {
		b.Homes[name] = model.Home
		if model.Pinned {
			b.Pinned[name] = true
		}
	}
	return kept{st, b}
}

// encode returns the state with the basis in it, and what was read of files until now.
func (k kept) encode(sums []byte) state.State {
	st := k.state
	st.Blobs = maps.Clone(st.Blobs)
	if sums != nil {
		st.Blobs[blobSums] = sums
	}
	if raw, err := json.Marshal(k.basis); err == nil {
		st.Blobs[blobBasis] = raw
	}
	return st
}

// A save that failed is tried again after saveRetry, and after twice as long each
// further time, saveRetryMax at most.
const (
	saveRetry    = time.Second
	saveRetryMax = 30 * time.Second
)

// saver keeps the state on a goroutine of its own, so that a slow disk delays
// acknowledgements and nothing else.
type saver struct {
	store    *state.Store // nil: nothing is kept
	warnings []string     // from the opening

	mu      sync.Mutex // guards the rest; nothing is called under it
	latest  kept
	unsaved bool // latest is not on disk
	acks    []func()
	err     error // of the last save
	stopped bool

	wake chan struct{}
	done chan struct{}
}

func (s *saver) run(m *Manager) {
	s.wake, s.done = make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(s.done)
		pause := saveRetry
		retry := time.NewTimer(pause)
		defer retry.Stop()
		for open := true; open; {
			retry.Stop()
			if s.failing() {
				retry.Reset(pause)
				pause = min(2*pause, saveRetryMax)
			} else {
				pause = saveRetry
			}
			select {
			case _, open = <-s.wake:
			case <-retry.C:
			}
			s.flush(m)
		}
	}()
}

// failing reports whether the last save failed.
func (s *saver) failing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

// flush saves what is to be saved and then acknowledges. A state that cannot be
// kept costs persistence and not service: the acknowledgement comes all the same,
// Status says what is wrong, and the save is tried again.
func (s *saver) flush(m *Manager) {
	s.mu.Lock()
	acks, unsaved, latest := s.acks, s.unsaved, s.latest
	s.acks, s.unsaved = nil, false
	s.mu.Unlock()
	if unsaved && s.store != nil {
		err := s.store.Save(latest.encode(m.sums.Encoded()))
		s.mu.Lock()
		changed := (err == nil) != (s.err == nil)
		s.err, s.unsaved = err, s.unsaved || err != nil
		s.mu.Unlock()
		if changed && err != nil {
			m.log.Error("the state cannot be kept; a restart now would lose what changed", "err", err)
		} else if changed {
			m.log.Info("the state is kept again")
		}
	}
	for _, ack := range acks {
		ack()
	}
}

// keep saves the state and then calls ack, from the saver's goroutine.
func (s *saver) keep(k kept, ack func()) {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		ack()
		return
	}
	s.latest, s.unsaved = k, true
	s.acks = append(s.acks, ack)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	s.mu.Unlock()
}

// close saves what is left and lets go of the folder. It returns the error of a
// state that could not be saved.
func (s *saver) close() error {
	s.mu.Lock()
	first := !s.stopped
	s.stopped = true
	s.mu.Unlock()
	if first && s.wake != nil {
		close(s.wake)
		<-s.done
	}
	if s.store == nil {
		return nil
	}
	err := s.store.Close()
	if errors.Is(err, tier.ErrClosed) {
		err = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.err, err)
}

// trouble returns what is wrong with the keeping of the state, in words.
func (s *saver) trouble() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.warnings)
	if s.err != nil {
		out = append(out, s.err.Error())
	}
	return out
}
