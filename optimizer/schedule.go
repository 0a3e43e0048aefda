package optimizer

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Hours are times of the week by the clock on the wall. The zero Hours never come.
type Hours struct {
	// Days on which they begin; none: every day.
	Days []time.Weekday
	// From and To are times of day, as the clock shows them: 8*time.Hour is 8:00. If To is
	// not after From, they end on the next day. When the clocks are changed, the hours that
	// day are longer or shorter, as the clock has it; a time that the clock leaves out is
	// taken for the one an hour before or after.
	From, To time.Duration
	// Zone is where the clock is; nil: time.Local.
	Zone *time.Location
}

// day is the longest time that a day's clock shows.
const day = 24 * time.Hour

// Validate returns every fault at once, each a *tier.InvalidError, or nil.
func (h *Hours) Validate() error {
	var faults []error
	check := func(valid bool, field string, value any, rule string) {
		if !valid {
			faults = append(faults, &tier.InvalidError{Field: field, Value: fmt.Sprint(value), Rule: rule})
		}
	}
	for _, d := range h.Days {
		check(d >= time.Sunday && d <= time.Saturday, "Days", int(d), "must be time.Sunday to time.Saturday")
	}
	check(h.From >= 0 && h.From < day, "From", h.From, "must be a time of day, from 0 to below 24h")
	check(h.To >= 0 && h.To <= day, "To", h.To, "must be a time of day, from 0 to 24h")
	check(h.From != h.To, "To", h.To, "must differ from From; a whole day is from 0 to 24h")
	return errors.Join(faults...)
}

// Next returns the first of the hours that end after t. Zero times: there are none.
func (h *Hours) Next(t time.Time) (from, to time.Time) {
	if h.From == h.To {
		return time.Time{}, time.Time{}
	}
	zone := h.Zone
	if zone == nil {
		zone = time.Local
	}
	year, month, date := t.In(zone).Date()
	clock := func(days int, at time.Duration) time.Time {
		return time.Date(year, month, date+days, 0, int(at/time.Minute), int(at%time.Minute/time.Second), int(at%time.Second), zone)
	}
	for d := -1; d <= 8; d++ { // yesterday's may last until today, and a week may have one day
		if weekday := clock(d, 12*time.Hour).Weekday(); len(h.Days) > 0 && !slices.Contains(h.Days, weekday) {
			continue
		}
		until := d
		if h.To <= h.From {
			until++
		}
		from, to = clock(d, h.From), clock(until, h.To)
		if to.After(t) && to.After(from) {
			return from, to
		}
	}
	return time.Time{}, time.Time{}
}

// Schedule is what an owner knows of the week: in those hours, each of the models is
// asked for with that certainty within an hour, and again within each further hour.
type Schedule struct {
	Hours
	// Models are meant by name, and all that have the Capability. One that is not known is
	// passed over.
	Models     []string
	Capability string
	// Certainty is a probability, above 0 and 1 at most; 0: 1. What is learned of hints
	// counts here as well: hours in which a model is not used make its next count less.
	Certainty float64
}

// Sure returns the certainty with its default.
func (s *Schedule) Sure() float64 {
	if s.Certainty == 0 {
		return 1
	}
	return s.Certainty
}

// Validate returns every fault at once, each a *tier.InvalidError, or nil.
func (s *Schedule) Validate() error {
	faults := []error{s.Hours.Validate()}
	if !(s.Certainty >= 0 && s.Certainty <= 1) {
		faults = append(faults, &tier.InvalidError{Field: "Certainty", Value: fmt.Sprint(s.Certainty), Rule: "must be from 0 to 1; 0 means 1"})
	}
	if len(s.Models) == 0 && s.Capability == "" {
		faults = append(faults, &tier.InvalidError{Field: "Models", Value: "[]", Rule: "must name a model, or Capability be given"})
	}
	return errors.Join(faults...)
}

// Means reports whether the schedule speaks of that model; aliases are not looked at.
func (s *Schedule) Means(m *tier.Model) bool {
	return slices.Contains(s.Models, m.Name) || s.Capability != "" && m.Can([]string{s.Capability})
}
