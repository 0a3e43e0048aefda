package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

const (
	// maxAttendance bounds the interval at which an engine that runs is looked at.
	maxAttendance = 15 * time.Second
	// minLimit bounds Engine.IdleCheck and Engine.SilenceLimit from below.
	minLimit = 100 * time.Millisecond
	// maxAsk bounds how long its health page then has for a whole answer.
	maxAsk = 10 * time.Second
	// stillShare is the share of a processor below which an engine does not work: what
	// servers take that wait is a tenth of it, what decodes on a GPU ten times as much.
	stillShare = 0.01
	// historySamples is how many samples make the early and the late history of an engine.
	historySamples = 8
	// pageFloor and faultFloor are what an engine that was faster at first is taken to have
	// had: multiples of less are noise. A disk gives some hundred pages a second at least.
	pageFloor  = 10 * time.Millisecond
	faultFloor = 100 // major faults in a second of a processor
	// slowEvery is how seldom an engine is renewed because it is slow.
	slowEvery = time.Hour
)

// effort is what processes have done so far.
type effort struct {
	cpu    time.Duration
	faults uint64 // that a disk was read for
	read   uint64 // bytes, from disks
}

// observation is what is seen of a running engine at one time.
type observation struct {
	at      time.Time
	uses    int
	silence time.Duration // for which its requests have waited for something
	effort  *effort       // nil: not seen
	asked   time.Duration // how long its health page took; 0: it was not asked
	answer  error         // of the page, nil for 2xx
}

// verdict is why an engine is renewed.
type verdict struct {
	fault Fault
	idle  bool // it holds only while the engine has no use
	why   error
}

// vigil is what was observed of an engine since it last began to run, and its history.
type vigil struct {
	idle, silent time.Duration // Engine.IdleCheck, Engine.SilenceLimit
	slow         float64       // Engine.SlowFactor

	failing  time.Time // since when its health page has not answered; zero: it does
	failures int
	still    time.Time // since when it was in use and did nothing; zero: it works
	last     *observation

	page, faults history
}

// every is the interval between observations.
func (v *vigil) every() time.Duration {
	every := maxAttendance
	for _, limit := range []time.Duration{v.idle, v.silent} {
		if limit > 0 {
			every = min(every, limit/4)
		}
	}
	return every
}

// patience is how long the health page has for an answer: two failures fit into a limit.
func (v *vigil) patience(uses int) time.Duration {
	limit := v.idle
	if uses > 0 {
		limit = v.silent
	}
	return min(cmp.Or(limit/3, maxAsk), maxAsk)
}

// asks reports whether the health page has to be asked.
func (v *vigil) asks(uses int, silence time.Duration) bool {
	if uses > 0 {
		return v.silent > 0 && silence > 0
	}
	return v.idle > 0 || v.slow > 0
}

// reset forgets all but the history: the engine was moved.
func (v *vigil) reset() {
	v.failing, v.failures, v.still, v.last = time.Time{}, 0, time.Time{}, nil
}

// observe takes an observation up, and returns why the engine is to be renewed, if it is.
func (v *vigil) observe(o *observation) *verdict {
	_, refused := errors.AsType[*statusError](o.answer)
	switch {
	case o.asked > 0 && o.answer != nil && (o.uses == 0 || !refused): // who is busy may refuse
		if v.failures++; v.failures == 1 {
			v.failing = o.at.Add(-o.asked)
		}
	default:
		v.failing, v.failures = time.Time{}, 0
	}
	if o.asked > 0 && o.answer == nil && o.uses == 0 {
		v.page.add(o.asked.Seconds())
	}
	v.work(o)
	v.last = o
	return cmp.Or(v.unheard(o), v.slowed(o))
}

// work follows what the processes do.
func (v *vigil) work(o *observation) {
	if v.last == nil || v.last.effort == nil || o.effort == nil {
		v.still = time.Time{}
		return
	}
	wall, was := o.at.Sub(v.last.at), v.last.effort
	cpu := o.effort.cpu - was.cpu
	idle := cpu >= 0 && cpu.Seconds() < stillShare*wall.Seconds() && o.effort.faults == was.faults && o.effort.read == was.read
	switch {
	case !idle || o.uses == 0:
		v.still = time.Time{}
	case v.still.IsZero():
		v.still = v.last.at
	}
	if cpu >= 100*time.Millisecond && o.effort.faults >= was.faults { // else it is too little to tell
		v.faults.add(float64(o.effort.faults-was.faults) / cpu.Seconds())
	}
}

// unheard tells an engine that answers nobody. One page that is late is none: this
// process may have been stopped, and the engine with it.
func (v *vigil) unheard(o *observation) *verdict {
	lasts := func(since time.Time, limit time.Duration) bool { return !since.IsZero() && o.at.Sub(since) >= limit }
	dumb := v.failures > 1
	switch {
	case o.uses == 0:
		if v.idle > 0 && dumb && lasts(v.failing, v.idle) {
			return &verdict{Silent, true, fmt.Errorf("no request used it, and its health page has not answered for %v: %w", o.at.Sub(v.failing).Round(time.Second/10), o.answer)}
		}
	case v.silent <= 0 || o.silence < v.silent:
	case dumb && lasts(v.failing, v.silent):
		return &verdict{Silent, false, fmt.Errorf("it has sent nothing to its requests for %v, and its health page does not answer: %w", o.silence.Round(time.Second/10), o.answer)}
	case lasts(v.still, v.silent):
		return &verdict{Silent, false, fmt.Errorf("it has sent nothing to its requests for %v, in which it did nothing", o.silence.Round(time.Second/10))}
	}
	return nil
}

// slowed tells an engine that has become slow by its own history.
func (v *vigil) slowed(o *observation) *verdict {
	if v.slow <= 0 || o.uses > 0 {
		return nil
	}
	if early, late, ok := v.page.compare(); ok && late > v.slow*max(early, pageFloor.Seconds()) {
		return &verdict{Slow, true, fmt.Errorf("its health page takes %.0f ms, and took %.0f ms at first", 1000*late, 1000*early)}
	}
	if early, late, ok := v.faults.compare(); ok && late > v.slow*max(early, faultFloor) {
		return &verdict{Slow, true, fmt.Errorf("it waits for the disk %.0f times in a second of work, and did %.0f times at first", late, early)}
	}
	return nil
}

// history is the first and the last samples of something.
type history struct{ early, late []float64 }

func (h *history) add(x float64) {
	if len(h.early) < historySamples {
		h.early = append(h.early, x)
		return
	}
	h.late = append(h.late, x)
	h.late = h.late[max(len(h.late)-historySamples, 0):]
}

// compare returns the medians, once there are enough samples.
func (h *history) compare() (early, late float64, ok bool) {
	if len(h.late) < historySamples {
		return 0, 0, false
	}
	median := func(x []float64) float64 {
		x = slices.Sorted(slices.Values(x))
		return x[len(x)/2]
	}
	return median(h.early), median(h.late), true
}

// attend watches a running engine until it exits or is renewed.
func (m *Mover) attend(s *slot, c *child, engine Engine) {
	v := &vigil{idle: engine.IdleCheck, silent: engine.SilenceLimit, slow: engine.SlowFactor}
	life, cancel := c.while(context.Background())
	defer cancel()
	var began time.Time // when it last began to run
	for {
		select {
		case <-time.After(v.every()):
		case <-c.exited:
			return
		case <-m.givenUp:
			return
		}
		since, steady := m.steady(s, c)
		if !steady || since != began {
			began = since
			v.reset()
			continue
		}
		uses, silence := c.traffic.now()
		o := &observation{}
		if v.asks(uses, silence) {
			asking := time.Now()
			o.answer = m.askHealth(life, c, &engine, v.patience(uses))
			o.asked = max(time.Since(asking), 1)
		}
		if since, steady := m.steady(s, c); !steady || since != began {
			v.reset()
			continue
		}
		o.at = time.Now()
		o.uses, o.silence = c.traffic.now()
		if o.uses > 0 != (uses > 0) {
			o.asked, o.answer = 0, nil // it was asked for another reason
		}
		if m.sys.effort != nil && !c.isHidden() && (uses > 0 && v.silent > 0 || v.slow > 0) {
			if pids, err := c.list(); err == nil {
				o.effort, _ = m.sys.effort(pids)
			}
		}
		if verdict := v.observe(o); verdict != nil && m.renew(s, c, verdict) {
			return
		}
	}
}

// steady returns since when an engine runs. It is false if it does not, or is moved.
func (m *Mover) steady(s *slot, c *child) (since time.Time, steady bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return s.since, s.child == c && s.state == Running && s.cancel == nil
}

func (m *Mover) askHealth(ctx context.Context, c *child, engine *Engine, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
	defer cancel()
	health := Request{Method: http.MethodGet, Path: cmp.Or(engine.Health, "/health")}
	return health.send(ctx, c.url, c.model, limit)
}

// renew ends an engine as if it had crashed. It returns false if the verdict does not hold
// any more. A move of the model that comes meanwhile ends it at once, but waits for the
// conversations of a slow engine that are being saved.
func (m *Mover) renew(s *slot, c *child, v *verdict) bool {
	err := c.fail(v.fault, c.began, v.why)
	m.mu.Lock()
	uses, _ := c.traffic.now()
	recently := v.fault == Slow && !s.slowAt.IsZero() && time.Since(s.slowAt) < slowEvery
	if s.child != c || s.state != Running || s.cancel != nil || m.closed || recently || (uses == 0) != v.idle {
		m.mu.Unlock()
		return false
	}
	ctx := m.take(context.Background(), s)
	defer m.release(s)
	s.aside = make(chan struct{})
	was, shutdown := s.state, s.shutdown()
	s.transition(Stopping, c)
	s.failure, s.renewal = err.Error(), err.Error()
	s.renewals++
	if v.fault == Slow {
		s.slowAt = time.Now()
	}
	m.mu.Unlock()
	m.log.Warn("an engine is renewed: the next request for its model starts it", "model", c.model, "pid", c.pid, "why", err)
	told := error(err)
	var stuck error
	if v.fault == Slow {
		stuck = m.finish(ctx, s, was, shutdown)
	} else {
		stuck = m.killFor(s)
	}
	if stuck != nil {
		told = errors.Join(err, stuck)
	}
	m.mu.Lock()
	s.tier, s.last = tier.Storage, time.Now()
	if !m.closed {
		m.reportCrash(s, told)
	}
	m.mu.Unlock()
	return true
}
