package modeltier

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// forecastWithin is how far a Forecast looks ahead.
const forecastWithin = time.Hour

// Forecast is what a Manager expects of the next hour.
type Forecast struct {
	// At is the moment, Within how far it looks ahead from there.
	At     time.Time     `json:"at"`
	Within time.Duration `json:"within_ns"`
	// Known: the placement tells what it has learned of use (tier.Expecter). If not, the
	// requests are those of Config.Schedules alone.
	Known bool `json:"known"`
	// QuietUntil is when the quiet hours end that it is in (Config.Quiet): what is planned
	// waits until then. Zero: it is in none.
	QuietUntil time.Time       `json:"quiet_until,omitzero"`
	Models     []ModelForecast `json:"models"` // in the library's order
}

// ModelForecast is what is expected of one model.
type ModelForecast struct {
	Name string `json:"name"`
	// Requests is how many are expected, Announced how many of those only because hints and
	// schedules say so.
	Requests  float64 `json:"requests"`
	Announced float64 `json:"announced,omitempty"`
	// Scheduled is when hours of a schedule begin that mean the model; zero: none do.
	Scheduled time.Time `json:"scheduled,omitzero"`
	Tier      tier.Tier `json:"tier"` // where it is now
	// Planned: the placement would move it now, as no request waits, from Tier To there,
	// with Keep left present if that is swap. Gain is the seconds of waiting that this is
	// expected to save in an hour; it is negative for a model that makes room. Pressure and
	// requests that come first may keep it from being done.
	Planned bool        `json:"planned,omitempty"`
	To      tier.Tier   `json:"to"`
	Keep    tier.Bytes  `json:"keep,omitempty"`
	Reason  tier.Reason `json:"reason,omitempty"` // a stable word
	Why     string      `json:"why,omitempty"`    // the details
	Gain    float64     `json:"gain,omitempty"`
}

// Forecast says, for each model, how many requests are expected within the next hour, and
// what would be moved for them and why. It moves nothing. The placement is asked; one that
// does not answer within two seconds gives ErrStuck.
func (m *Manager) Forecast(ctx context.Context) (Forecast, error) {
	type picture struct {
		view  *tier.View
		quiet time.Time
	}
	p, err := ask(ctx, m, func(now time.Time, reply func(picture, error)) {
		c := &m.ctl
		c.readAccesses()
		c.teach(true)
		view := c.core.View(now)
		reply(picture{&view, c.calendar.quietUntil}, nil)
	})
	if err != nil {
		return Forecast{}, err
	}
	v := p.view
	type advice struct {
		expected []tier.Expectation
		steps    []tier.Step
	}
	told := make(chan advice, 1) // one that is stuck may answer much later
	expecter, known := m.cfg.Placement.(tier.Expecter)
	err = m.placement.wait(ctx, adviceLimit, func(context.Context) error {
		var a advice
		if known {
			a.expected = slices.Clone(expecter.Expect(v, forecastWithin))
		}
		if plan := m.cfg.Placement.Plan(v, nil); plan.Err == nil {
			a.steps = slices.Clone(plan.Steps)
		}
		told <- a
		return nil
	})
	if err != nil {
		return Forecast{}, err
	}
	a := <-told
	f := Forecast{At: v.Now, Within: forecastWithin, Known: known && len(a.expected) == v.Library.Len(), QuietUntil: p.quiet, Models: make([]ModelForecast, v.Library.Len())}
	for i, model := range v.Library.All() {
		f.Models[i] = ModelForecast{Name: model.Name, Tier: v.States[i].Tier, To: v.States[i].Tier}
		if f.Known {
			f.Models[i].Requests, f.Models[i].Announced = believable(a.expected[i].Requests), believable(a.expected[i].Announced)
		}
	}
	for i := range a.steps {
		s := &a.steps[i]
		if j, ok := v.Library.Find(s.Model.Name); ok {
			mf := &f.Models[j]
			mf.Planned, mf.To, mf.Keep, mf.Reason, mf.Why, mf.Gain = true, s.To, s.Keep, s.Reason, s.Why, s.Gain
		}
	}
	m.addSchedules(&f, v.Library)
	return f, nil
}

// believable returns a number that a placement says as one that can be told on.
func believable(x float64) float64 {
	if !(x > 0) {
		return 0
	}
	return min(x, math.MaxFloat32)
}

// addSchedules adds what schedules announce that was not told to the placement as hints.
func (m *Manager) addSchedules(f *Forecast, lib *tier.Library) {
	_, hinter := m.cfg.Placement.(tier.Hinter)
	end := f.At.Add(f.Within)
	for k := range m.cfg.Schedules {
		s := &m.cfg.Schedules[k]
		from, to := s.Next(f.At)
		if from.IsZero() || !from.Before(end) {
			continue
		}
		begin, until := from, to
		if begin.Before(f.At) {
			begin = f.At
		}
		if until.After(end) {
			until = end
		}
		share := until.Sub(begin).Hours()
		if hinter && f.Known && !f.At.Before(from.Add(-announceAhead)) {
			share = 0 // the placement counts it
		}
		for _, name := range scheduled(s, lib) {
			i, _ := lib.Find(name)
			mf := &f.Models[i]
			mf.Requests += s.Sure() * share
			mf.Announced += s.Sure() * share
			if mf.Scheduled.IsZero() || from.Before(mf.Scheduled) {
				mf.Scheduled = from
			}
		}
	}
}
