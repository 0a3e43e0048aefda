package optimizer

import (
	"errors"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

func zone(t interface{ Fatal(...any) }, name string) *time.Location {
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestHours_Next_GoesByTheClockOnTheWall(t *testing.T) {
	weekdays := []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday}
	berlin, kolkata := zone(t, "Europe/Berlin"), zone(t, "Asia/Kolkata")
	office := Hours{Days: weekdays, From: 8 * time.Hour, To: 18 * time.Hour, Zone: berlin}
	night := Hours{From: 22 * time.Hour, To: 6 * time.Hour, Zone: berlin}
	friday := Hours{Days: []time.Weekday{time.Friday}, From: 22 * time.Hour, To: 6 * time.Hour, Zone: berlin}
	for name, c := range map[string]struct {
		hours       Hours
		at          string // UTC
		begin, ends string
	}{
		"before them, in winter":    {office, "2026-01-07 06:00", "2026-01-07 07:00", "2026-01-07 17:00"},
		"before them, in summer":    {office, "2026-07-08 03:00", "2026-07-08 06:00", "2026-07-08 16:00"},
		"during them":               {office, "2026-01-07 16:59", "2026-01-07 07:00", "2026-01-07 17:00"},
		"at their end":              {office, "2026-01-07 17:00", "2026-01-08 07:00", "2026-01-08 17:00"},
		"on a Friday evening":       {office, "2026-01-09 20:00", "2026-01-12 07:00", "2026-01-12 17:00"},
		"after midnight":            {night, "2026-01-07 02:00", "2026-01-06 21:00", "2026-01-07 05:00"},
		"the clock goes forward":    {night, "2026-03-28 23:00", "2026-03-28 21:00", "2026-03-29 04:00"}, // 7 hours
		"the clock goes back":       {night, "2026-10-24 23:00", "2026-10-24 20:00", "2026-10-25 05:00"}, // 9 hours
		"a time that is left out":   {Hours{From: 2*time.Hour + 30*time.Minute, To: 4 * time.Hour, Zone: berlin}, "2026-03-29 00:00", "2026-03-29 01:30", "2026-03-29 02:00"},
		"the night after a Friday":  {friday, "2026-01-10 03:00", "2026-01-09 21:00", "2026-01-10 05:00"},
		"the night after the next":  {friday, "2026-01-11 03:00", "2026-01-16 21:00", "2026-01-17 05:00"},
		"a zone of half hours":      {Hours{From: 9 * time.Hour, To: 10 * time.Hour, Zone: kolkata}, "2026-01-07 00:00", "2026-01-07 03:30", "2026-01-07 04:30"},
		"a whole day":               {Hours{From: 0, To: 24 * time.Hour, Zone: time.UTC}, "2026-01-07 12:00", "2026-01-07 00:00", "2026-01-08 00:00"},
		"not on the minute":         {Hours{From: 9*time.Hour + 30*time.Minute + 59*time.Second, To: 10 * time.Hour, Zone: time.UTC}, "2026-01-07 00:00", "2026-01-07 09:30", "2026-01-07 10:00"},
		"a whole day is its length": {Hours{From: 0, To: 24 * time.Hour, Zone: berlin}, "2026-03-29 12:00", "2026-03-28 23:00", "2026-03-29 22:00"},
	} {
		t.Run(name, func(t *testing.T) {
			const layout = "2006-01-02 15:04"
			at, err := time.Parse(layout, c.at)
			if err != nil {
				t.Fatal(err)
			}
			from, to := c.hours.Next(at)
			if got := from.UTC().Format(layout) + " to " + to.UTC().Format(layout); got != c.begin+" to "+c.ends {
				t.Errorf("%s, want %s to %s", got, c.begin, c.ends)
			}
		})
	}
}

// Each hour of a year is in the hours or it is not, which is told by the clock and the day
// of the week alone; where the clock is changed it is not compared.
func TestHours_AnyHoursAndMoment_AgreeWithTheClock(t *testing.T) {
	zones := []*time.Location{time.UTC, zone(t, "Europe/Berlin"), zone(t, "America/St_Johns"), zone(t, "Australia/Lord_Howe")}
	rapid.Check(t, func(t *rapid.T) {
		h := Hours{
			From: time.Duration(rapid.IntRange(0, 95).Draw(t, "from")) * 15 * time.Minute,
			To:   time.Duration(rapid.IntRange(0, 96).Draw(t, "to")) * 15 * time.Minute,
			Zone: rapid.SampledFrom(zones).Draw(t, "zone"),
		}
		for d := range time.Weekday(7) {
			if rapid.Bool().Draw(t, "day") {
				h.Days = append(h.Days, d)
			}
		}
		if h.Validate() != nil {
			t.Skip()
		}
		at := noon.Add(time.Duration(rapid.IntRange(0, 366*24*60).Draw(t, "minute")) * time.Minute)
		from, to := h.Next(at)
		if !to.After(at) || !from.Before(to) || to.Sub(from) > 26*time.Hour {
			t.Fatalf("%+v at %v: from %v to %v", h, at, from, to)
		}
		local := at.In(h.Zone)
		clock := time.Duration(local.Hour())*time.Hour + time.Duration(local.Minute())*time.Minute
		_, before := local.Add(-36 * time.Hour).Zone()
		_, after := local.Add(36 * time.Hour).Zone()
		if before != after {
			t.Skip()
		}
		on := func(d time.Weekday) bool {
			for _, x := range h.Days {
				if x == d {
					return true
				}
			}
			return len(h.Days) == 0
		}
		within := false
		if h.To > h.From {
			within = on(local.Weekday()) && clock >= h.From && clock < h.To
		} else {
			within = on(local.Weekday()) && clock >= h.From || on((local.Weekday()+6)%7) && clock < h.To
		}
		if within != !at.Before(from) {
			t.Fatalf("%+v at %v: from %v to %v", h, local, from, to)
		}
	})
}

func TestHours_Zero_NeverCome(t *testing.T) {
	var s Schedule
	if from, to := s.Next(noon); !from.IsZero() || !to.IsZero() {
		t.Errorf("from %v to %v", from, to)
	}
}

func TestSchedule_Wrong_EachFaultIsNamed(t *testing.T) {
	s := Schedule{Hours: Hours{Days: []time.Weekday{7}, From: -1, To: 25 * time.Hour}, Certainty: 1.5}
	err := s.Validate()
	for _, want := range []string{"Days 7 must", "From -1ns must", "To 25h0m0s must", "Certainty 1.5 must", "Models [] must"} {
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
	same := Hours{From: time.Hour, To: time.Hour}
	if err := same.Validate(); err == nil || !strings.Contains(err.Error(), "a whole day is from 0 to 24h") {
		t.Errorf("%v", err)
	}
}
