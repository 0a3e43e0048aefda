package modeltier

import (
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/modeltier/modeltier/internal/state"
	"github.com/modeltier/modeltier/tier"
)

// Names of what is kept beside models and limits.
const (
	blobBasis     = "basis"     // what the Config said when the state was kept
	blobPlacement = "placement" // what the placement has learned
)

// basis is what the Config said. What was changed while running is taken up again
// only where the Config still says what it said then: the newer word counts.
type basis struct {
	Limits tier.Limits          `json:"limits"`
	Homes  map[string]tier.Tier `json:"homes"`
}

// restored is what a StateDir gave back, beyond what went into the Config.
type restored struct {
	configured map[string]tier.Model // by the Config, all its models
	removed    []string
	limits     tier.Limits // by the Config
	placement  []byte
}

// openState opens the StateDir and merges what it remembers into cfg.
func (m *Manager) openState(cfg *Config) (restored, error) {
	r := restored{configured: byName(cfg.Models), limits: cfg.Limits}
	if cfg.StateDir == "" {
		return r, nil
	}
	store, st, warnings, err := state.Open(cfg.StateDir)
	if err != nil {
		return r, fmt.Errorf("modeltier: StateDir cannot be used: %w", err)
	}
	for _, w := range warnings {
		m.log.Warn("state folder", "warning", w.String())
		m.save.warnings = append(m.save.warnings, w.String())
	}
	m.save.store = store
	m.save.latest = st

	var b basis
	if raw := st.Blobs[blobBasis]; raw != nil {
		if err := json.Unmarshal(raw, &b); err != nil {
			m.log.Warn("state folder", "warning", "the basis cannot be read; what the Config says counts", "err", err)
		}
	}
	if st.Limits != (tier.Limits{}) && b.Limits == cfg.Limits && st.Limits.Validate() == nil {
		cfg.Limits = st.Limits
	}
	r.removed = slices.DeleteFunc(slices.Clone(st.Removed), func(name string) bool {
		_, known := r.configured[name]
		return !known
	})
	cfg.Models = slices.DeleteFunc(cfg.Models, func(model tier.Model) bool { return slices.Contains(r.removed, model.Name) })
	for i := range cfg.Models {
		model := &cfg.Models[i]
		if home, ok := st.Homes[model.Name]; ok && b.Homes[model.Name] == model.Home {
			model.Home = home
		}
	}
	for _, model := range st.Models {
		if _, known := r.configured[model.Name]; !known {
			if measured, err := measure(model); err == nil {
				model = measured
			}
			cfg.Models = append(cfg.Models, model)
		}
	}
	r.placement = st.Blobs[blobPlacement]
	return r, nil
}

// restore takes up what is not in the Config.
func (c *control) restore(r restored) {
	c.kept, c.remembered = r, c.now
	p, ok := c.m.cfg.Placement.(encoding.BinaryUnmarshaler)
	if !ok || len(r.placement) == 0 {
		return
	}
	err := c.m.callFor("placement", planLimit, func(context.Context) error { return p.UnmarshalBinary(r.placement) }, c.placementBack)
	if err != nil {
		c.m.log.Warn("what the placement had learned cannot be taken up; it begins anew", "err", err)
	}
}

// remember asks the placement for what it has learned, and has it kept.
func (c *control) remember() {
	p, ok := c.m.cfg.Placement.(encoding.BinaryMarshaler)
	if !ok || c.planStuck || c.m.save.store == nil {
		return
	}
	got := new([]byte)
	err := c.m.callFor("placement", planLimit, func(context.Context) (err error) {
		*got, err = p.MarshalBinary()
		return err
	}, c.placementBack)
	c.placementFailed(err)
	if err == nil {
		c.kept.placement = *got
		c.m.save.keep(c.state(), func() {})
	}
}

// state is what is to be kept, as it is now.
func (c *control) state() state.State {
	ledger := c.core.Ledger()
	st := state.State{Limits: ledger.Limits(), Homes: map[string]tier.Tier{}, Blobs: map[string][]byte{}}
	lib := c.core.Library()
	for _, model := range lib.All() {
		said, configured := c.kept.configured[model.Name]
		switch {
		case !configured:
			if e, _ := c.core.Find(model.Name); e.Owned() {
				kept := *model
				kept.Runtime = e.Declared()
				st.Models = append(st.Models, kept)
			}
		case said.Home != model.Home:
			st.Homes[model.Name] = model.Home
		}
	}
	for name := range c.kept.configured {
		if _, there := lib.Find(name); !there {
			st.Removed = append(st.Removed, name)
		}
	}
	slices.Sort(st.Removed)
	b := basis{Limits: c.kept.limits, Homes: make(map[string]tier.Tier, len(c.kept.configured))}
	for name, model := range c.kept.configured {
		b.Homes[name] = model.Home
	}
	raw, err := json.Marshal(b)
	if err == nil {
		st.Blobs[blobBasis] = raw
	}
	if c.kept.placement != nil {
		st.Blobs[blobPlacement] = c.kept.placement
	}
	return st
}

// saver keeps the state on a goroutine of its own, so that a slow disk delays
// acknowledgements and nothing else.
type saver struct {
	store    *state.Store // nil: nothing is kept
	warnings []string     // from the opening

	mu      sync.Mutex // guards the rest; nothing is called under it
	latest  state.State
	acks    []func()
	wanted  bool
	err     error // of the last save
	stopped bool

	wake chan struct{}
	done chan struct{}
}

func (s *saver) run(m *Manager) {
	s.wake, s.done = make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(s.done)
		for range s.wake {
			s.flush(m)
		}
		s.flush(m)
	}()
}

// flush saves what is to be saved and then acknowledges. A state that cannot be
// kept costs persistence and not service: the acknowledgement comes all the same,
// and Status says what is wrong.
func (s *saver) flush(m *Manager) {
	s.mu.Lock()
	acks, wanted := s.acks, s.wanted
	s.acks, s.wanted = nil, false
	s.mu.Unlock()
	if wanted && s.store != nil {
		err := s.store.Save(func() state.State {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.latest
		})
		s.mu.Lock()
		changed := (err == nil) != (s.err == nil)
		s.err = err
		s.mu.Unlock()
		if changed && err != nil {
			m.log.Error("the state cannot be kept; a restart would lose what changed", "err", err)
		} else if changed {
			m.log.Info("the state is kept again")
		}
	}
	for _, ack := range acks {
		ack()
	}
}

// keep saves the state and then calls ack, from the saver's goroutine.
func (s *saver) keep(st state.State, ack func()) {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		ack()
		return
	}
	s.latest, s.wanted = st, true
	s.acks = append(s.acks, ack)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	s.mu.Unlock()
}

// close saves what is left and lets go of the folder.
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
		return nil
	}
	return err
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
