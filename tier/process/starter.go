package process

import "runtime"

// starter starts processes from one thread that lives as long as it does: the
// kernel kills a child with the thread that made it, not with the process.
type starter struct{ ask chan func() }

func newStarter() *starter {
	s := &starter{ask: make(chan func())}
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		for fn := range s.ask {
			fn()
		}
	}()
	return s
}

// do runs fn on the thread and returns what it returned.
func (s *starter) do(fn func() error) error {
	done := make(chan error)
	s.ask <- func() { done <- fn() }
	return <-done
}

func (s *starter) close() { close(s.ask) }
