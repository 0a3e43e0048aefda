package modeltiertest

import (
	"errors"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// Memory is what the machine of NewManager has: with the default limits, 5 GiB of it are
// the models'.
const Memory = 8 * tier.GiB

// Manager is a Manager under test.
type Manager struct {
	*modeltier.Manager
	*Recorder
	// Machine is what it runs on; nil where Start was given a Mover that is another.
	Machine *tiertest.Machine
}

// NewManager starts a Manager of those models on a machine of its own, with 8 GiB of
// memory, and without a swap tier. The end of the test closes it. It is to be called in a
// bubble of testing/synctest; New's errors end the test.
func NewManager(t testing.TB, models ...tier.Model) *Manager {
	t.Helper()
	return Start(t, modeltier.Config{Models: models, Limits: tier.Limits{Swap: tier.None}})
}

// Start is NewManager with a configuration. A Mover and a Probe that it leaves out are the
// Machine's, which is the Mover if that is a *tiertest.Machine. Its Events are called too.
func Start(t testing.TB, cfg modeltier.Config) *Manager {
	t.Helper()
	if time.Now().Year() >= 2020 { // a bubble begins in the year 2000
		t.Fatal("modeltiertest: time is real here: call it in synctest.Test(t, func(t *testing.T) { … })")
	}
	m := &Manager{Recorder: newRecorder(t)}
	if cfg.Mover == nil {
		cfg.Mover = tiertest.NewMachine(Memory)
	}
	if machine, ok := cfg.Mover.(*tiertest.Machine); ok {
		m.Machine = machine
		if cfg.Probe == nil {
			cfg.Probe = machine
		}
	}
	cfg.Events = m.Recorder.events(cfg.Events)
	manager, err := modeltier.New(cfg)
	if err != nil {
		t.Fatalf("modeltiertest: %v", err)
	}
	m.Manager = manager
	if m.Machine != nil {
		m.Machine.OnCrash(func(model string, cause error) {
			if err := manager.ReportCrash(model, cause); err != nil && !errors.Is(err, modeltier.ErrClosed) {
				t.Errorf("modeltiertest: ReportCrash: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		if err := manager.Close(); err != nil {
			t.Errorf("modeltiertest: Close: %v", err)
		}
		if m.Machine != nil {
			for _, fault := range m.Machine.Faults() {
				t.Errorf("modeltiertest: the mover was told wrong: %s", fault)
			}
		}
	})
	return m
}
