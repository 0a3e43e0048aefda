package hotload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Kind is what a job does.
type Kind uint8

const (
	KindLoad Kind = iota // takes a model in, or loads it from storage
	KindPromote
	KindDemote
	KindOptimize // a move that an optimiser's plan asked for
	KindRemove
)

// String returns "load", "promote", "demote", "optimize" or "remove".
func (k Kind) String() string {
	switch k {
	case KindLoad:
		return "load"
	case KindPromote:
		return "promote"
	case KindDemote:
		return "demote"
	case KindOptimize:
		return "optimize"
	case KindRemove:
		return "remove"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// prefix is what the IDs of the kind begin with. Clients of the wire contract
// know these.
func (k Kind) prefix() string {
	switch k {
	case KindPromote, KindDemote, KindOptimize:
		return "tier_" + k.String() + "_"
	}
	return k.String() + "_"
}

// JobState is where a job is in its life. It leaves Running once, and then stays.
type JobState uint8

const (
	Running JobState = iota
	Success
	Failed
	Cancelled
)

// String returns "running", "success", "failed" or "cancelled".
func (s JobState) String() string {
	switch s {
	case Running:
		return "running"
	case Success:
		return "success"
	case Failed:
		return "failed"
	case Cancelled:
		return "cancelled"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Progress is how far a job has come. No field of it ever falls.
type Progress struct {
	// Done of Total bytes. Total is 0 while it is not known, and Done is at most
	// Total once it is.
	Done, Total tier.Bytes
	// Fraction is between 0 and 1, and 1 for every job that succeeded, also where
	// no byte had to move.
	Fraction float64
}

// Spec says what a job is to do. Only Kind is needed.
type Spec struct {
	Kind     Kind
	Model    string
	From, To tier.Tier
	Total    tier.Bytes    // bytes to move; 0: not known yet
	Estimate time.Duration // how long it should take; 0: not known
}

// Job is background work as those see it who wait for it. Its methods may be
// called by any number of goroutines at once. Whoever does the work holds a
// [Work].
type Job struct {
	id      string
	number  int64
	spec    Spec
	started time.Time
	cancel  context.CancelCauseFunc
	done    chan struct{}

	mu       sync.Mutex // guards the rest; nothing is called under it
	progress Progress
	state    JobState
	err      error
	ended    time.Time
}

// ID returns the job's name on the wire. No other job of its Jobs has it, and none of
// the process before a restart had, unless the clock was set back.
func (j *Job) ID() string { return j.id }

// Model returns the name of the model it is about.
func (j *Job) Model() string { return j.spec.Model }

// Kind returns what it does.
func (j *Job) Kind() Kind { return j.spec.Kind }

// From returns the tier that is left.
func (j *Job) From() tier.Tier { return j.spec.From }

// To returns the tier that is the goal.
func (j *Job) To() tier.Tier { return j.spec.To }

// Started returns when the job was started.
func (j *Job) Started() time.Time { return j.started }

// Estimate returns how long the job was expected to take when it was started; 0:
// nobody knew.
func (j *Job) Estimate() time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.spec.Estimate
}

// Elapsed returns how long the job has run, or did run where it has ended.
func (j *Job) Elapsed() time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state == Running {
		return time.Since(j.started)
	}
	return j.ended.Sub(j.started)
}

// Progress returns how far the job has come.
func (j *Job) Progress() Progress {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.progress
}

// State returns where the job is in its life.
func (j *Job) State() JobState {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state
}

// Done returns a channel that is closed when the job has ended.
func (j *Job) Done() <-chan struct{} { return j.done }

// Err returns nil while the job runs and when it succeeded, else why it did not.
func (j *Job) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// Wait returns Err once the job has ended, or context.Cause(ctx) when ctx ends
// before. The end of ctx ends the wait and nothing else.
func (j *Job) Wait(ctx context.Context) error {
	select {
	case <-j.done: // an ended job is told even to those who are late
		return j.Err()
	default:
	}
	select {
	case <-j.done:
		return j.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Cancel asks the job to stop, for the reason of cause; nil means
// context.Canceled. The first cause counts. It returns at once: the job has ended
// when Done is closed, and it may still end well if the work was as good as done.
// A job that has ended is not changed.
func (j *Job) Cancel(cause error) { j.cancel(cause) }

// Work is a job as its owner sees it, who does it and must end it with Finish.
// Its methods may be called by several goroutines at once.
type Work struct {
	job  *Job
	jobs *Jobs
	ctx  context.Context
}

// Job returns what to hand to those who wait.
func (w *Work) Job() *Job { return w.job }

// Context returns the context to work under. It ends when the job is cancelled,
// with the cause of that, when the context given to Start ends, and when the job
// has ended.
func (w *Work) Context() context.Context { return w.ctx }

// Expect sets the bytes to move, where they were not known at the start or have
// proved to be more. It never lowers them.
func (w *Work) Expect(total tier.Bytes) {
	j := w.job
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state == Running {
		j.progress.Total = max(total, j.progress.Done, j.progress.Total)
		j.progress.advance(0)
	}
}

// Estimate replaces how long the job is expected to take.
func (w *Work) Estimate(d time.Duration) {
	w.job.mu.Lock()
	defer w.job.mu.Unlock()
	w.job.spec.Estimate = max(d, 0)
}

// Progressed reports the bytes done so far. Reports may come out of order: one
// that is lower than another before it changes nothing.
func (w *Work) Progressed(done tier.Bytes) {
	j := w.job
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state == Running {
		j.progress.advance(done)
	}
}

func (p *Progress) advance(done tier.Bytes) {
	p.Done = max(p.Done, done)
	if p.Total > 0 {
		p.Done = min(p.Done, p.Total)
		p.Fraction = max(p.Fraction, float64(p.Done)/float64(p.Total))
	}
}

// Finish ends the job: as Success where err is nil, as Cancelled where the job's
// context had ended and err comes of that, else as Failed. The first call counts,
// later ones do nothing.
func (w *Work) Finish(err error) {
	state := Success
	switch {
	case err == nil:
	case w.ctx.Err() != nil && (errors.Is(err, context.Cause(w.ctx)) || errors.Is(err, w.ctx.Err())):
		state = Cancelled
	default:
		state = Failed
	}
	if !w.job.finish(state, err) {
		return
	}
	w.jobs.ended(w.job, state)
	close(w.job.done)
	if w.jobs.onEnd != nil {
		w.jobs.onEnd(w.job)
	}
	w.job.cancel(nil) // lets go of the parent context
}

// finish reports whether the job was running until now.
func (j *Job) finish(state JobState, err error) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state != Running {
		return false
	}
	j.state, j.err, j.ended = state, err, time.Now()
	if state == Success {
		p := &j.progress
		p.Total = max(p.Total, p.Done)
		p.Done, p.Fraction = p.Total, 1
	}
	return true
}
