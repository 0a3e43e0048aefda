package tiertest

import (
	"context"
	"fmt"

	"github.com/modeltier/modeltier/tier"
)

// The rules of what a Mover may offer beside Move.

// seen checks what the Mover sees of a model, if it can see.
func (s *moverSuite) seen(m tier.Model, least, most tier.Bytes) error {
	r, ok := s.mover.(tier.Resident)
	if !ok {
		return nil
	}
	present, reclaimable, err := r.Resident(context.Background(), m.Name)
	switch {
	case err != nil:
		return fmt.Errorf("asking what is resident of %q: %w", m.Name, err)
	case present < least || present > most:
		return fmt.Errorf("resident of %q: %d bytes are present, want %d to %d", m.Name, present, least, most)
	case reclaimable < 0 || reclaimable > present:
		return fmt.Errorf("resident of %q: %d bytes are reclaimable of %d that are present", m.Name, reclaimable, present)
	}
	return nil
}

func (s *moverSuite) resident() error {
	if err := s.seen(tier.Model{Name: "nobody knows it"}, 0, 0); err != nil {
		return err
	}
	m := s.models[0]
	for _, step := range []struct {
		from, to tier.Tier
		least    tier.Bytes
	}{{tier.Storage, tier.RAM, m.Size}, {tier.RAM, tier.Storage, 0}, {tier.Storage, tier.Swap, 0}, {tier.Swap, tier.RAM, m.Size}} {
		if err := s.move(m, step.from, step.to, 0); err != nil {
			return err
		}
		most := m.Size
		if step.to == tier.Storage {
			most = 0
		}
		if err := s.seen(m, step.least, most); err != nil {
			return fmt.Errorf("in %v: %w", step.to, err)
		}
	}
	return s.move(m, tier.RAM, tier.Storage, 0)
}

func (s *moverSuite) footprint() error {
	f, ok := s.mover.(tier.Footprinter)
	if !ok {
		return nil
	}
	if now, peak, ok := f.Footprint("nobody knows it"); ok || now != 0 || peak != 0 {
		return fmt.Errorf("a model that nobody knows takes %d bytes, %d at most (%v)", now, peak, ok)
	}
	m, most := s.models[0], tier.Bytes(0)
	for i := 1; i < len(tour); i++ {
		if err := s.move(m, tour[i-1], tour[i], 0); err != nil {
			return err
		}
		switch now, peak, _ := f.Footprint(m.Name); {
		case now < 0 || now > peak:
			return fmt.Errorf("in %v it takes %d bytes, and %d at most", tour[i], now, peak)
		case tour[i] == tier.Storage && now != 0:
			return fmt.Errorf("in storage it takes %d bytes", now)
		case peak < most:
			return fmt.Errorf("in %v the most that it was ever seen to take fell from %d to %d bytes", tour[i], most, peak)
		default:
			most = peak
		}
	}
	return nil
}

func (s *moverSuite) keep() error {
	m := s.models[0]
	d, ok := s.mover.(tier.Divider)
	if !ok || !d.Divisible(&m) {
		return nil
	}
	from := tier.Storage
	for _, keep := range []tier.Bytes{m.Size / 3, 0, m.Size, m.Size / 2, 1} {
		if err := s.move(m, from, tier.Swap, keep); err != nil {
			return err
		}
		if err := s.seen(m, max(keep-granule+1, 0), keep); err != nil {
			return fmt.Errorf("from %v to swap, keep %d: %w", from, keep, err)
		}
		from = tier.Swap
	}
	if err := s.move(m, tier.Swap, tier.RAM, 0); err != nil {
		return err
	}
	if err := s.move(m, tier.RAM, tier.Swap, m.Size/2); err != nil {
		return err
	}
	if err := s.seen(m, max(m.Size/2-granule+1, 0), m.Size/2); err != nil {
		return fmt.Errorf("from ram to swap: %w", err)
	}
	return s.move(m, tier.Swap, tier.Storage, 0)
}

func (s *moverSuite) answers() error {
	ask := func() (all [3]bool) {
		if d, ok := s.mover.(tier.Divider); ok {
			all[0] = d.Divisible(&s.models[0])
		}
		if p, ok := s.mover.(tier.InPlacer); ok {
			all[1] = p.InPlace(&s.models[0])
		}
		if b, ok := s.mover.(tier.FileBacker); ok {
			all[2] = b.FileBacked()
		}
		return all
	}
	before := ask()
	for i := 1; i < len(tour); i++ {
		if err := s.move(s.models[0], tour[i-1], tour[i], 0); err != nil {
			return err
		}
		if now := ask(); now != before {
			return fmt.Errorf("in %v the Mover says divisible, in place, file-backed: %v, and said %v", tour[i], now, before)
		}
	}
	return nil
}
