package modeltier

import "sync"

// group counts goroutines. Unlike a sync.WaitGroup it may grow from nothing
// while somebody waits for it to end, and be waited for beside a limit. The zero
// group is ready for use.
type group struct {
	mu   sync.Mutex // guards the rest
	n    int
	idle chan struct{} // closed when n falls to zero; nil while nobody waits
}

// Go runs fn on a goroutine of the group.
func (g *group) Go(fn func()) {
	g.mu.Lock()
	g.n++
	g.mu.Unlock()
	go func() {
		defer g.done() // also where fn ends in runtime.Goexit
		fn()
	}()
}

func (g *group) done() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n--; g.n == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// Idle returns a channel that is closed once no goroutine of the group runs.
func (g *group) Idle() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n > 0 {
		if g.idle == nil {
			g.idle = make(chan struct{})
		}
		return g.idle
	}
	none := make(chan struct{})
	close(none)
	return none
}
