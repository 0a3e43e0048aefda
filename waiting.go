package modeltier

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/tier"
)

// standing is how far the requests for a model are that wait, or its load is. It is
// never changed once published.
type standing struct {
	core.Standing
	job *hotload.Job // that brings the model; nil: none does yet
}

func (s *standing) equal(o *standing) bool {
	return s.job == o.job && s.Move == o.Move && s.Phase == o.Phase && s.Position == o.Position && slices.Equal(s.Behind, o.Behind)
}

// publishStandings makes what those who wait wait for what they read.
func (c *control) publishStandings() {
	was := c.awaited
	c.awaited = c.spare[:0]
	c.publication++
	c.core.Standings(c.now, func(ce *core.Entry, s core.Standing) {
		e := c.shared[ce]
		c.awaited = append(c.awaited, e)
		e.publication = c.publication
		next := standing{Standing: s}
		if s.Move != nil {
			if g := c.moves[s.Move]; g != nil {
				next.job = g.work.Job()
			}
		} else if o := ce.HotLoad(); o != nil {
			if j := c.orders[o]; j != nil && j.work != nil {
				j.work.Phase(s.Phase)
			}
		}
		if old := e.standing.Load(); old == nil || !old.equal(&next) {
			e.standing.Store(&standing{next.Standing, next.job})
		}
	})
	for _, e := range was {
		if e.publication != c.publication {
			e.standing.Store(nil)
		}
	}
	clear(was)
	c.spare = was
}

// waiting says how far the requests for the model of that name are.
func (s *standing) waiting(model string) tier.Waiting {
	w := tier.Waiting{Model: model, Phase: s.Phase, Position: s.Position, Behind: slices.Clone(s.Behind)}
	if s.job != nil {
		phase, progress, left := s.job.Now()
		w.Job, w.Phase, w.Left = s.job.ID(), max(phase, tier.Loading), left
		w.Done, w.Total = progress.Done, progress.Total
	}
	return w
}

// left is the time until the model can be used; 0: unknown.
func (s *standing) left() time.Duration {
	if s == nil || s.job == nil {
		return 0
	}
	return s.job.Left()
}

// wait is what a request waits: how long in all, and who is told.
type wait struct {
	took    time.Duration
	reports *reports // nil: it has not waited yet, or is not to be told
}

const (
	// reportEvery is the pause before each report.
	reportEvery = 100 * time.Millisecond
	// reportGrace is how long the end of a wait waits for a report that has just begun:
	// by then the call is made, though not ended where the function takes its time.
	reportGrace = time.Millisecond
)

// begin has a request's Progress called from now on. e is what it waits for; nil: for
// a choice.
func (w *wait) begin(m *Manager, req *Request, e *entry) {
	if req.Progress == nil {
		return
	}
	if w.reports == nil {
		w.reports = &reports{m: m, fn: req.Progress, stop: make(chan struct{}), ended: make(chan struct{})}
		go w.reports.run() // the request's own: it ends with the wait, unless its function does not return
	}
	w.reports.entry.Store(e)
}

// end ends the reports: none begins any more.
func (w *wait) end() {
	if w.reports != nil {
		w.reports.end()
	}
}

// reports calls the Progress of one request. The function is foreign code: it may
// block, panic, end its goroutine and call the Manager, to the harm of no other.
type reports struct {
	m     *Manager
	fn    func(tier.Waiting)
	entry atomic.Pointer[entry]
	stop  chan struct{}
	ended chan struct{} // closed with the goroutine's end

	mu    sync.Mutex // guards the rest; the function does not run under it
	over  bool
	began time.Time // the call under way; zero: none is
}

func (r *reports) run() {
	defer close(r.ended)
	next := time.NewTimer(reportEvery)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-r.stop:
			return
		}
		if !r.report() {
			return
		}
		next.Reset(reportEvery)
	}
}

// report makes one call, and reports whether there may be another.
func (r *reports) report() (again bool) {
	var w tier.Waiting // queued, for a choice
	if e := r.entry.Load(); e != nil {
		at := e.standing.Load()
		if at == nil {
			return true // it is being answered
		}
		w = at.waiting(e.name)
	}
	if !r.mark(time.Now()) {
		return false
	}
	guarded("progress function", func() error { r.fn(w); return nil }, func(err error) {
		r.mark(time.Time{})
		if again = err == nil; !again {
			r.m.log.Error("the progress function of a request failed and is not called again", "model", w.Model, "err", err)
		}
	})
	return again
}

// mark notes when the call under way began, and reports whether it may.
func (r *reports) mark(began time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.began = began
	return !r.over
}

func (r *reports) end() {
	r.mu.Lock()
	r.over = true
	began := r.began
	r.mu.Unlock()
	close(r.stop)
	if began.IsZero() {
		<-r.ended
		return
	}
	if left := reportGrace - time.Since(began); left > 0 {
		grace := time.NewTimer(left)
		defer grace.Stop()
		select {
		case <-r.ended:
		case <-grace.C:
		}
	}
}
