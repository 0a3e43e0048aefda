package process

// Instance is the engine that serves a leased model: what the holder of a lease gets
// (modeltier.Instance). What it tells is read at the time. Its methods may be called from
// any goroutine.
type Instance struct {
	m *Mover
	c *child
}

// Instance implements tier.Instancer: it is a *Instance, or nil for a model whose engine
// does not serve.
func (m *Mover) Instance(model string) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.slots[model]; s != nil && s.state == Running {
		return &Instance{m, s.child}
	}
	return nil
}

// URL is Mover.URL of this engine: it returns false once that has stopped, or stands by.
func (i *Instance) URL() (string, bool) {
	i.m.mu.Lock()
	defer i.m.mu.Unlock()
	if i.m.serving(i.c.model) != i.c {
		return "", false
	}
	return i.c.url, true
}

// Use is Mover.Use of this engine, as URL is Mover.URL.
func (i *Instance) Use() (*Use, bool) {
	i.m.mu.Lock()
	defer i.m.mu.Unlock()
	if i.m.serving(i.c.model) != i.c {
		return nil, false
	}
	return i.c.use(), true
}

// Pid returns the process that was started, the leader of the engine's, or 0 once the
// engine has exited. If Engine.Processes is set, it is the engine's client.
func (i *Instance) Pid() int {
	if i.c.hasExited() {
		return 0
	}
	return i.c.pid
}

// Output returns the last lines that the engine printed, oldest first, 64 at most. It
// returns them after its end as well: they may say why it has ended.
func (i *Instance) Output() []string { return i.c.tail.last() }
