package modeltiertest

import (
	"cmp"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// Recorder keeps what a Manager's events tell, as lines:
//
//	load a: demand (was asked for)
//	load a done after 3s
//	load a failed after 1.5s: …
//	leased a from ram after 3s
//	released a after 10s
//	b gave way for c: demand (…)
//	refused d: too_large (…)
//	limits changed
//	pressure high
//
// Its methods may be called from any goroutine of the bubble.
type Recorder struct {
	t     testing.TB
	start time.Time

	mu    sync.Mutex // guards the rest
	lines []line
}

type line struct {
	at   time.Duration // since the start
	text string
}

func newRecorder(t testing.TB) *Recorder { return &Recorder{t: t, start: time.Now()} }

// note keeps a line, and has the function of the configuration called after it.
func note[E any](r *Recorder, text func(E) string, next func(E)) func(E) {
	return func(ev E) {
		r.add(text(ev))
		if next != nil {
			next(ev)
		}
	}
}

func (r *Recorder) add(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line{time.Since(r.start), text})
}

// events returns events that are recorded, and go on to those of a configuration.
func (r *Recorder) events(next modeltier.Events) modeltier.Events {
	all := next
	all.MoveStarted = note(r, func(ev modeltier.MoveEvent) string {
		return fmt.Sprintf("%s: %s (%s)", move(&ev), ev.Reason, ev.Why)
	}, next.MoveStarted)
	all.MoveEnded = note(r, func(ev modeltier.MoveEvent) string {
		if ev.Err != nil {
			return fmt.Sprintf("%s failed after %v: %v", move(&ev), ev.Took, ev.Err)
		}
		return fmt.Sprintf("%s done after %v", move(&ev), ev.Took)
	}, next.MoveEnded)
	all.Granted = note(r, func(ev modeltier.GrantEvent) string {
		return fmt.Sprintf("leased %s from %v after %v", ev.Model, ev.Tier, ev.Waited)
	}, next.Granted)
	all.Released = note(r, func(ev modeltier.ReleaseEvent) string {
		return fmt.Sprintf("released %s after %v", ev.Model, ev.Held)
	}, next.Released)
	all.Evicted = note(r, func(ev modeltier.EvictEvent) string {
		return fmt.Sprintf("%s gave way for %s: %s (%s)", ev.Model, cmp.Or(ev.For, "no model"), ev.Reason, ev.Why)
	}, next.Evicted)
	all.Refused = note(r, func(ev modeltier.RefuseEvent) string {
		asked := cmp.Or(ev.Model, ev.Request.Model, ev.Request.Preferred, "any model")
		return fmt.Sprintf("refused %s: %s (%v)", asked, ev.Code, ev.Err)
	}, next.Refused)
	all.LimitsChanged = func(old, now tier.Limits) {
		r.add(fmt.Sprintf("limits changed: ram %v to %v, swap %v to %v", old.RAM, now.RAM, old.Swap, now.Swap))
		if next.LimitsChanged != nil {
			next.LimitsChanged(old, now)
		}
	}
	all.PressureChanged = func(old, now tier.PressureLevel) {
		r.add(fmt.Sprintf("pressure %v, was %v", now, old))
		if next.PressureChanged != nil {
			next.PressureChanged(old, now)
		}
	}
	return all
}

// move returns "load a", "unload a" and so on.
func move(ev *modeltier.MoveEvent) string {
	mv := tier.Move{From: ev.From, To: ev.To, Keep: ev.Keep}
	return mv.Verb() + " " + ev.Model
}

// Lines returns what has happened so far, in order. It waits until all is blocked.
func (r *Recorder) Lines() []string {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := make([]string, len(r.lines))
	for i, l := range r.lines {
		lines[i] = l.text
	}
	return lines
}

// Want checks that these happened in this order, whatever happened between: each begins
// a line of Lines. It reports whether they did.
func (r *Recorder) Want(begins ...string) bool {
	r.t.Helper()
	lines, at := r.Lines(), 0
	for i, want := range begins {
		from := at
		for at < len(lines) && !strings.HasPrefix(lines[at], want) {
			at++
		}
		if at == len(lines) {
			after := "has happened"
			if i > 0 {
				after = fmt.Sprintf("has happened after %q", lines[from-1])
			}
			r.t.Errorf("nothing that begins with %q %s. What happened:\n%s", want, after, r)
			return false
		}
		at++
	}
	return true
}

// WantNone checks that nothing has happened that begins with one of these.
func (r *Recorder) WantNone(begins ...string) bool {
	r.t.Helper()
	for _, l := range r.Lines() {
		for _, want := range begins {
			if strings.HasPrefix(l, want) {
				r.t.Errorf("%q has happened, and nothing was to that begins with %q. What happened:\n%s", l, want, r)
				return false
			}
		}
	}
	return true
}

// Forget drops what has happened so far, so that Want speaks of what comes next.
func (r *Recorder) Forget() {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = nil
}

// String returns all lines, each with its time since the start.
func (r *Recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) == 0 {
		return "  nothing"
	}
	var b strings.Builder
	for _, l := range r.lines {
		fmt.Fprintf(&b, "  %8v  %s\n", l.at, l.text)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
