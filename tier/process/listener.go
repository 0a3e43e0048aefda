package process

import (
	"errors"
	"fmt"
)

// checkListener follows the first answer of a health page: it returns an error if the
// answer is from a stranger, which took the port between its choice and the engine's
// bind. If it cannot be seen who listens, the engine is believed, and Status.Lacks says so.
func (m *Mover) checkListener(c *child) error {
	if c.foreign != nil { // what forwards the port to it may be anything
		return nil
	}
	if m.sys.listener == nil {
		m.lacks.note(lackListener, fmt.Errorf("this system does not tell which process listens on a port: %w", errors.ErrUnsupported))
		return nil
	}
	stranger, err := m.sys.listener(c.port, c.pid, c.members())
	m.lacks.note(lackListener, err)
	if err != nil || stranger == 0 {
		return nil
	}
	return c.fail(PortTaken, c.began, fmt.Errorf("process %d, which is none of the engine's, listens on port %d", stranger, c.port))
}

// lostPort reports whether a start has failed because another program has the port.
func lostPort(err error, port int) bool {
	e, ok := errors.AsType[*EngineError](err)
	return ok && (e.Fault == PortTaken || e.Fault == ExitedEarly && portTaken(port))
}
