package modeltier_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/modeltiertest"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// until lets time pass until then; a bubble begins on Saturday, 2000-01-01, at midnight UTC.
func until(day, hour, minute int) {
	time.Sleep(time.Until(time.Date(2000, 1, day, hour, minute, 0, 0, time.UTC)))
	synctest.Wait()
}

// office is weekdays from 8 to 18.
func office() optimizer.Hours {
	return optimizer.Hours{
		Days: []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday},
		From: 8 * time.Hour, To: 18 * time.Hour, Zone: time.UTC,
	}
}

func vision(name string, gb float64) tier.Model {
	m := model(name, gb)
	m.Capabilities = append(m.Capabilities, "vision")
	return m
}

// mapping has a Manager of models that are mapped files.
func mapping(cfg modeltier.Config, models ...tier.Model) modeltier.Config {
	machine := tiertest.NewMachine(modeltiertest.Memory)
	machine.OnlyRAM, machine.Files, machine.Parts = false, true, true
	cfg.Models, cfg.Mover, cfg.ProbeEvery = models, machine, time.Minute
	return cfg
}

func TestSchedule_HoursBegin_ModelIsThereBeforeItIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := modeltiertest.Start(t, mapping(modeltier.Config{Schedules: []optimizer.Schedule{{Hours: office(), Capability: "vision", Certainty: 0.9}}},
			model("chat", 3), vision("sees", 4)))
		at := func(name string) tier.Tier { s, _ := m.Model(name); return s.Tier }
		until(1, 12, 0) // on a Saturday nothing is announced
		if at("sees") != tier.Storage {
			t.Error("it was loaded on a Saturday")
		}
		lease, err := m.Acquire(t.Context(), modeltier.Request{Model: "chat"})
		if err != nil {
			t.Fatal(err)
		}
		lease.Release()
		until(3, 7, 54)
		if at("sees") != tier.Storage {
			t.Error("it was loaded before it was announced")
		}
		until(3, 8, 0)
		if at("sees") != tier.RAM {
			t.Errorf("on Monday at 8 it is in %v. What happened:\n%s", at("sees"), m)
		}
		m.Want("load chat: demand", "chat gave way for", "load sees: prefetch (was announced)")
	})
}

// A schedule that names a model by an alias, and one that is not there.
func TestSchedule_ByName_AliasesCountAndUnknownOnesDoNotMatter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := mapping(modeltier.Config{Aliases: map[string]string{"eyes": "sees"}, Schedules: []optimizer.Schedule{
			{Hours: optimizer.Hours{From: 0, To: 24 * time.Hour}, Models: []string{"nowhere", "eyes"}},
		}}, vision("sees", 2))
		m := modeltiertest.Start(t, cfg)
		time.Sleep(5 * time.Minute)
		m.Want("load sees: prefetch")
	})
}

func TestQuiet_NothingMovesInTheBackground_RequestsDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		home := model("home", 2)
		home.Home = tier.RAM
		m := modeltiertest.Start(t, mapping(modeltier.Config{
			Quiet:     []optimizer.Hours{{From: 22 * time.Hour, To: 6 * time.Hour, Zone: time.UTC}},
			Schedules: []optimizer.Schedule{{Hours: optimizer.Hours{From: time.Hour, To: 5 * time.Hour, Zone: time.UTC}, Models: []string{"other"}}},
		}, home, model("other", 2)))
		until(1, 2, 0)
		if o, err := m.Optimize(t.Context()); err != nil || len(o.Steps) > 0 {
			t.Errorf("Optimize: %+v, %v", o, err)
		}
		until(1, 5, 59)
		m.WantNone("load")
		if s := m.Status(); !s.QuietUntil.Equal(time.Date(2000, 1, 1, 6, 0, 0, 0, time.UTC)) {
			t.Errorf("quiet until %v", s.QuietUntil)
		}
		lease, err := m.Acquire(t.Context(), modeltier.Request{Model: "other"})
		if err != nil || lease.Waited() != 3*time.Second {
			t.Fatalf("a request waited %v: %v", lease.Waited(), err)
		}
		lease.Release()
		until(1, 6, 3)
		m.Want("load other: demand", "load home: home")
		if s := m.Status(); !s.QuietUntil.IsZero() {
			t.Errorf("at 6:03 it is quiet until %v", s.QuietUntil)
		}
	})
}

func TestNew_HoursThatCannotBe_EachFaultIsNamed(t *testing.T) {
	_, err := modeltier.New(modeltier.Config{
		Schedules: []optimizer.Schedule{{Hours: office(), Models: []string{"a"}}, {Hours: optimizer.Hours{From: time.Hour, To: 30 * time.Hour}, Certainty: -1}},
		Quiet:     []optimizer.Hours{{}},
	})
	for _, want := range []string{"Schedules[1]: To 30h0m0s must be a time of day", "Certainty -1 must be from 0 to 1", "Models [] must name a model", "Quiet[0]: To 0s must differ"} {
		if err == nil || !errors.Is(err, modeltier.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err != nil && strings.Contains(err.Error(), "Schedules[0]") {
		t.Errorf("%v", err)
	}
	if _, err := modeltier.New(modeltier.Config{Quiet: make([]optimizer.Hours, 257)}); err == nil || !strings.Contains(err.Error(), "Quiet 257 of them must be 256 at most") {
		t.Errorf("%v", err)
	}
}
