package modeltier

import (
	"time"

	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
)

const (
	// announceAhead is how long before the hours of a schedule its models are announced:
	// enough to read a large one from a slow disk.
	announceAhead = 5 * time.Minute
	// announceEvery is how often they are announced again: a hint that came true is over.
	announceEvery = time.Hour
)

// calendar is what the owner said of the week. The loop's.
type calendar struct {
	told       []time.Time // when each schedule was last told
	quietUntil time.Time   // zero: bytes may move in the background
}

// keepCalendar announces what is due, and begins and ends quiet hours. Whether it is time
// is asked of the clock each time, as the clock may be set.
func (c *control) keepCalendar() {
	_, hinter := c.m.cfg.Placement.(tier.Hinter)
	for i := range c.m.cfg.Schedules {
		s := &c.m.cfg.Schedules[i]
		from, to := s.Next(c.now)
		begins, told := from.Add(-announceAhead), c.calendar.told[i]
		if !hinter || c.now.Before(begins) || !told.Before(begins) && !c.now.Before(told) && c.now.Sub(told) < announceEvery {
			continue
		}
		c.calendar.told[i] = c.now.Round(0) // of the wall clock
		if models := scheduled(s, c.core.Library()); len(models) > 0 {
			c.m.log.Info("models are expected to be asked for, as scheduled", "models", models, "until", to)
			c.hint(models, s.Sure(), min(to.Sub(c.now), announceEvery), c.now)
		}
	}
	until := time.Time{}
	for i := range c.m.cfg.Quiet {
		if from, to := c.m.cfg.Quiet[i].Next(c.now); !c.now.Before(from) && to.After(until) {
			until = to
		}
	}
	was := c.calendar.quietUntil
	c.calendar.quietUntil = until
	if was.IsZero() == until.IsZero() {
		return
	}
	c.core.SetQuietHours(!until.IsZero())
	if until.IsZero() {
		c.m.log.Info("quiet hours are over")
		c.askIdle(false, c.now)
	} else {
		c.m.log.Info("quiet hours: nothing moves in the background", "until", until)
	}
}

// scheduled returns the names of the models that a schedule means.
func scheduled(s *optimizer.Schedule, lib *tier.Library) (names []string) {
	named := *s
	named.Models = nil
	for _, name := range s.Models { // it may be an alias
		if i, ok := lib.Find(name); ok {
			named.Models = append(named.Models, lib.At(i).Name)
		}
	}
	for _, m := range lib.All() {
		if named.Means(m) {
			names = append(names, m.Name)
		}
	}
	return names
}
