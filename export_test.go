package modeltier

import (
	"context"
	"errors"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Check runs the whole-structure validator of the state machine on the loop.
func (m *Manager) Check() error {
	_, err := ask(context.Background(), m, func(now time.Time, reply func(struct{}, error)) {
		reply(struct{}{}, errors.Join(m.ctl.core.Check(), m.ctl.core.CheckIdle(now)))
	})
	return err
}

// Used returns what the ledger has charged and set aside.
func (m *Manager) Used() tier.Footprint {
	used, _ := ask(context.Background(), m, func(_ time.Time, reply func(tier.Footprint, error)) {
		l := m.ctl.core.Ledger()
		reply(l.Charged().Plus(l.Reserved()), nil)
	})
	return used
}

// Hold keeps the loop busy until let is called.
func (m *Manager) Hold() (let func()) {
	held := make(chan struct{})
	m.post(func(time.Time) { <-held })
	return func() { close(held) }
}

// Mail returns how much waits for the loop.
func (m *Manager) Mail() int {
	m.mail.mu.Lock()
	defer m.mail.mu.Unlock()
	return len(m.mail.fns)
}

// AddAccount gives a Manager of cfg one more account.
func (cfg *Config) AddAccount(name string, limit tier.Bytes, takes func(*tier.Model, tier.Tier) tier.Bytes, available func(context.Context) (tier.Bytes, error)) {
	cfg.accounts = append(cfg.accounts, account{name, limit, takes, available})
}

// OnWake calls fn each time the loop wakes, from now on.
func (m *Manager) OnWake(fn func()) {
	m.mail.mu.Lock()
	defer m.mail.mu.Unlock()
	m.mail.fns = append(m.mail.fns, func(time.Time) {
		fn()
		m.OnWake(fn)
	})
}

// Sums returns what is known of files that were read, which differs after each reading.
func (m *Manager) Sums() string { return string(m.sums.Encoded()) }
