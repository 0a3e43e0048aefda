package hotload

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Kind is what a job does.
type Kind uint8

const (
	KindLoad     Kind = iota // adds a model, or loads it from storage
	KindPromote              // moves it to a hotter tier
	KindDemote               // moves it to a colder tier
	KindOptimize             // a move that a plan of the optimizer asked for
	KindRemove               // removes it
)

// String returns "load", "promote", "demote", "optimize" or "remove".
func (k Kind) String() string {
	return nameIn("kind", k, "load", "promote", "demote", "optimize", "remove")
}

// prefix is the beginning of IDs of the kind. Clients of the wire contract know it.
func (k Kind) prefix() string {
	switch k {
	case KindPromote, KindDemote, KindOptimize:
		return "tier_" + k.String() + "_"
	}
	return k.String() + "_"
}

// JobState is whether a job runs, or how it ended. It leaves Running once and then stays.
type JobState uint8

const (
	Running JobState = iota
	Success
	Failed
	Cancelled
)

// String returns "running", "success", "failed" or "cancelled".
func (s JobState) String() string {
	return nameIn("state", s, "running", "success", "failed", "cancelled")
}

// Progress tells how far a job is. No field ever falls.
type Progress struct {
	// Done of Total bytes. Total is 0 while it is unknown; Done is at most Total
	// once it is known.
	Done, Total tier.Bytes
	// Fraction is between 0 and 1, and 1 for every job that succeeded, even if no
	// byte had to move. It is 0.99 at most while the job runs: with all its bytes read
	// a model may still have to start, see Job.Phase.
	Fraction float64
}

// maxRunning is the greatest Fraction of a job that runs.
const maxRunning = 0.99

func (p *Progress) advance(done tier.Bytes) {
	p.Done = max(p.Done, done)
	if p.Total > 0 {
		p.Done = min(p.Done, p.Total)
		p.Fraction = max(p.Fraction, min(float64(p.Done)/float64(p.Total), maxRunning))
	}
}

// Spec says what a job does. Only Kind is required.
type Spec struct {
	Kind     Kind
	Model    string
	From, To tier.Tier
	Total    tier.Bytes    // bytes to move; 0: unknown yet
	Estimate time.Duration // expected duration; 0: unknown
}

// Job is background work as its observers see it; its owner holds a [Work]. Methods
// are safe for concurrent use.
type Job struct {
	id      string
	number  int64 // orders jobs by their start
	spec    Spec  // without what changes later
	started time.Time
	cancel  context.CancelCauseFunc
	done    chan struct{}

	mu  sync.Mutex // guards now; nothing is called under it
	now standing
}

// standing is what of a job changes.
type standing struct {
	estimate time.Duration
	phase    tier.Phase
	progress Progress
	state    JobState
	err      error
	ended    time.Time
}

func (j *Job) standing() standing {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.now
}

// ID returns the job's name on the wire. It is unique in its Jobs, and differs from
// those before a restart unless the clock was set back.
func (j *Job) ID() string { return j.id }

// Model returns the name of the model.
func (j *Job) Model() string { return j.spec.Model }

// Kind returns what the job does.
func (j *Job) Kind() Kind { return j.spec.Kind }

// From returns the tier that the model leaves.
func (j *Job) From() tier.Tier { return j.spec.From }

// To returns the tier that the model is to reach.
func (j *Job) To() tier.Tier { return j.spec.To }

// Started returns when the job was started.
func (j *Job) Started() time.Time { return j.started }

// Estimate returns the expected duration; 0: unknown.
func (j *Job) Estimate() time.Duration { return j.standing().estimate }

// Elapsed returns how long the job has been running, or ran.
func (j *Job) Elapsed() time.Duration {
	if s := j.standing(); s.state != Running {
		return s.ended.Sub(j.started)
	}
	return time.Since(j.started)
}

// Progress returns how far the job is.
func (j *Job) Progress() Progress { return j.standing().progress }

// Phase returns what the job does while it runs: it waits for its turn or for room, or
// its bytes move, or all of them have and what serves the model is not ready yet.
func (j *Job) Phase() tier.Phase { return j.standing().phase }

// Left returns how long the job will go on, by its Estimate; 0: unknown. It is known
// once bytes move, and until the estimate is exceeded.
func (j *Job) Left() time.Duration {
	_, _, left := j.Now()
	return left
}

// Now returns Phase, Progress and Left as of one moment.
func (j *Job) Now() (phase tier.Phase, progress Progress, left time.Duration) {
	s := j.standing()
	if s.state != Running || s.phase < tier.Loading {
		return s.phase, s.progress, 0
	}
	return s.phase, s.progress, max(s.estimate-time.Since(j.started), 0)
}

// State returns whether the job runs, or how it ended.
func (j *Job) State() JobState { return j.standing().state }

// Done returns a channel that is closed when the job has ended.
func (j *Job) Done() <-chan struct{} { return j.done }

// Err returns nil while the job runs and after it succeeded, else why it did not.
func (j *Job) Err() error { return j.standing().err }

// Wait returns Err once the job has ended, or context.Cause(ctx) if ctx ends first.
// The end of ctx ends the wait and nothing else.
func (j *Job) Wait(ctx context.Context) error {
	select {
	case <-j.done:
	case <-ctx.Done():
		if j.State() == Running { // else its end takes precedence
			return context.Cause(ctx)
		}
	}
	return j.Err()
}

// Cancel asks the job to stop, with the given cause; nil means context.Canceled.
// The first cause counts. Cancel returns at once: the job has ended when Done is
// closed, and can still succeed if the work was almost complete. A job that has
// ended does not change.
func (j *Job) Cancel(cause error) {
	if j.cancel != nil { // a zero Job has nothing to cancel
		j.cancel(cause)
	}
}

// Work is a job as its owner sees it, who does the work and must end it with
// Finish. Methods are safe for concurrent use.
type Work struct {
	job  *Job
	jobs *Jobs
	ctx  context.Context
}

// Job returns the job for observers.
func (w *Work) Job() *Job { return w.job }

// Context returns the context of the work. It ends when the job is cancelled, with
// that cause, when the context given to Start ends, and when the job has ended.
func (w *Work) Context() context.Context { return w.ctx }

// update changes the job, and reports whether it was still running: later it does
// not change.
func (w *Work) update(change func(*standing)) bool {
	w.job.mu.Lock()
	defer w.job.mu.Unlock()
	running := w.job.now.state == Running
	if running {
		change(&w.job.now)
	}
	return running
}

// Expect sets the bytes to move, if they were unknown at the start or turned out to
// be more. It never lowers them.
func (w *Work) Expect(total tier.Bytes) {
	w.update(func(s *standing) {
		s.progress.Total = max(total, s.progress.Done, s.progress.Total)
		s.progress.advance(0)
	})
}

// Estimate sets or replaces the expected duration of the whole job; 0: unknown.
func (w *Work) Estimate(d time.Duration) {
	w.update(func(s *standing) { s.estimate = max(d, 0) })
}

// Progressed reports the bytes done so far. Reports may come out of order: one that
// is lower than an earlier one changes nothing. Once all are done the job is in its
// last phase, tier.Starting.
func (w *Work) Progressed(done tier.Bytes) {
	w.update(func(s *standing) {
		s.progress.advance(done)
		if s.phase == tier.Loading && s.progress.Total > 0 && s.progress.Done == s.progress.Total {
			s.phase = tier.Starting
		}
	})
}

// Phase tells what the job does. A job begins as tier.Queued.
func (w *Work) Phase(p tier.Phase) { w.update(func(s *standing) { s.phase = p }) }

// Begun tells that bytes move from now on, and that this is expected to take as long
// as left; 0: unknown.
func (w *Work) Begun(left time.Duration) {
	w.update(func(s *standing) {
		s.phase = tier.Loading
		if left = max(left, 0); left > 0 {
			left += time.Since(w.job.started)
		}
		s.estimate = left
	})
}

// Finish ends the job: as Success if err is nil, as Cancelled if the job's context
// has ended and caused err, else as Failed. The first call counts, later ones do
// nothing.
func (w *Work) Finish(err error) {
	state := Failed
	switch {
	case err == nil:
		state = Success
	case w.ctx.Err() != nil && (errors.Is(err, context.Cause(w.ctx)) || errors.Is(err, w.ctx.Err())):
		state = Cancelled
	}
	first := w.update(func(s *standing) {
		s.state, s.err, s.ended = state, err, time.Now()
		if p := &s.progress; state == Success {
			p.Total = max(p.Total, p.Done)
			p.Done, p.Fraction = p.Total, 1
		}
	})
	if !first {
		return
	}
	w.jobs.ended(w.job, state)
	close(w.job.done)
	w.job.cancel(nil) // releases the parent context
	if w.jobs.onEnd != nil {
		w.jobs.onEnd(w.job)
	}
}

// DefaultKeep is how many ended jobs are remembered by default: hours of a busy
// board, in less than half a MiB.
const DefaultKeep = 1024

// Counts counts the jobs of one kind, including forgotten ones.
type Counts struct {
	Started   int64 `json:"started"`
	Running   int64 `json:"running"`
	Succeeded int64 `json:"succeeded"`
	Failed    int64 `json:"failed"`
	Cancelled int64 `json:"cancelled"`
}

// Jobs starts jobs and remembers all running ones and those that ended last. It is
// safe for concurrent use, and starts no goroutine.
type Jobs struct {
	keep  int
	onEnd func(*Job)

	mu     sync.Mutex // guards the rest; no other lock is taken under it
	last   int64      // number of the last job
	byID   map[string]*Job
	past   []*Job // ended jobs in the order of their end, at most keep
	counts map[kindState]int64
}

// kindState is a kind of jobs, and the state that they are in.
type kindState struct {
	kind  Kind
	state JobState
}

// NewJobs returns a Jobs that remembers the last keep jobs that ended; DefaultKeep
// if keep is 0 or less.
func NewJobs(keep int) *Jobs {
	if keep <= 0 {
		keep = DefaultKeep
	}
	return &Jobs{keep: keep, byID: make(map[string]*Job), counts: make(map[kindState]int64)}
}

// OnEnd sets a function that is called once for each job that has ended, after Done
// is closed. It runs on the goroutine that calls Finish, with no lock held, and may
// use the Job and the Jobs; if it blocks, that Finish does. Set it before the first
// Start.
func (s *Jobs) OnEnd(fn func(*Job)) { s.onEnd = fn }

// Start begins a job. Its context derives from ctx, which is that of the owner and
// not of a client, so that a client who leaves ends only its own wait. The job runs
// until Finish is called on the Work.
func (s *Jobs) Start(ctx context.Context, spec Spec) *Work {
	ctx, cancel := context.WithCancelCause(ctx)
	j := &Job{
		spec:    spec,
		started: time.Now(),
		cancel:  cancel,
		done:    make(chan struct{}),
		now:     standing{estimate: max(spec.Estimate, 0), progress: Progress{Total: max(spec.Total, 0)}},
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	// Nanoseconds, and never the same twice: two jobs of one instant differ, and so do
	// jobs before and after a restart. The number alone makes the ID unique, because
	// no part of a model's name can follow it.
	s.last = max(s.last+1, j.started.UnixNano())
	j.number = s.last
	j.id = spec.Kind.prefix() + spec.Model + "_" + strconv.FormatInt(j.number, 10)
	s.byID[j.id] = j
	s.counts[kindState{spec.Kind, Running}]++
	return &Work{job: j, jobs: s, ctx: ctx}
}

// ended counts the job and adds it to those that may be forgotten.
func (s *Jobs) ended(j *Job, state JobState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[kindState{j.spec.Kind, Running}]--
	s.counts[kindState{j.spec.Kind, state}]++
	if s.past = append(s.past, j); len(s.past) > s.keep {
		delete(s.byID, s.past[0].id)
		s.past[0] = nil // for the garbage collector
		s.past = s.past[1:]
	}
}

// Get returns the job with that ID, unless it never existed or is forgotten.
func (s *Jobs) Get(id string) (*Job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, ok := s.byID[id]
	return j, ok
}

// Counts returns the counts for that kind since NewJobs.
func (s *Jobs) Counts(k Kind) Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := func(state JobState) int64 { return s.counts[kindState{k, state}] }
	c := Counts{Running: in(Running), Succeeded: in(Success), Failed: in(Failed), Cancelled: in(Cancelled)}
	c.Started = c.Running + c.Succeeded + c.Failed + c.Cancelled
	return c
}

// All yields the jobs that are running or remembered at the time of the call, in
// the order of their start: the newest last.
func (s *Jobs) All() iter.Seq[*Job] {
	s.mu.Lock()
	jobs := slices.Collect(maps.Values(s.byID))
	s.mu.Unlock()
	slices.SortFunc(jobs, func(a, b *Job) int { return cmp.Compare(a.number, b.number) })
	return slices.Values(jobs)
}
