package process

import (
	"fmt"
	"net"
	"strconv"
)

// newPort returns a free port of the loopback address that no other engine of
// ours has or is about to have. Somebody else may still be faster; see start.
func (m *Mover) newPort() (int, error) {
	const tries = 100
	for range tries {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return 0, fmt.Errorf("no free port: %w", err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return 0, err
		}
		if m.takePort(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port in %d tries", tries)
}

func (m *Mover) takePort(port int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, taken := m.ports[port]
	m.ports[port] = struct{}{}
	return !taken
}

func (m *Mover) givePort(port int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.ports, port)
}

// portTaken reports whether somebody holds the port.
func portTaken(port int) bool {
	l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return true
	}
	l.Close()
	return false
}
