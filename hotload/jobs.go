package hotload

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
)

// DefaultKeep is how many ended jobs are remembered where nothing else is said:
// hours of a busy board, in less than half a MiB.
const DefaultKeep = 1024

// Counts says what became of the jobs of one kind, those forgotten included.
type Counts struct {
	Started   int64 `json:"started"`
	Running   int64 `json:"running"`
	Succeeded int64 `json:"succeeded"`
	Failed    int64 `json:"failed"`
	Cancelled int64 `json:"cancelled"`
}

// Jobs starts jobs and remembers them: all that run, and those that ended last.
// It may be used by any number of goroutines at once, and starts none.
type Jobs struct {
	keep  int
	onEnd func(*Job)

	mu     sync.Mutex // guards the rest; no other lock is taken under it
	last   int64      // number of the last job
	byID   map[string]*Job
	ring   []*Job // those that ended, at most keep of them
	next   int    // place in a full ring of the job that ended first
	counts map[Kind]Counts
}

// NewJobs returns a Jobs that remembers the last keep jobs that ended;
// DefaultKeep where keep is 0 or less.
func NewJobs(keep int) *Jobs {
	if keep <= 0 {
		keep = DefaultKeep
	}
	return &Jobs{keep: keep, byID: make(map[string]*Job), counts: make(map[Kind]Counts)}
}

// Start begins a job. Its context is derived from ctx, which is the owner's and
// not that of whoever asked for the job, so that a client who leaves ends only
// its own wait. The job runs until Finish is called on the Work.
func (s *Jobs) Start(ctx context.Context, spec Spec) *Work {
	ctx, cancel := context.WithCancelCause(ctx)
	spec.Total = max(spec.Total, 0)
	j := &Job{
		spec:     spec,
		started:  time.Now(),
		cancel:   cancel,
		done:     make(chan struct{}),
		progress: Progress{Total: spec.Total},
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	// Nanoseconds, and never twice the same: two jobs of one instant differ, and so
	// do jobs before and after a restart. The number alone makes the ID unique, as
	// nothing of a model's name can come after it.
	s.last = max(s.last+1, j.started.UnixNano())
	j.number = s.last
	j.id = spec.Kind.prefix() + spec.Model + "_" + strconv.FormatInt(j.number, 10)
	s.byID[j.id] = j
	c := s.counts[spec.Kind]
	c.Started++
	c.Running++
	s.counts[spec.Kind] = c
	return &Work{job: j, jobs: s, ctx: ctx}
}

// ended takes the job among those that may be forgotten.
func (s *Jobs) ended(j *Job, state JobState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts[j.spec.Kind]
	c.Running--
	switch state {
	case Success:
		c.Succeeded++
	case Failed:
		c.Failed++
	case Cancelled:
		c.Cancelled++
	}
	s.counts[j.spec.Kind] = c

	if len(s.ring) < s.keep {
		s.ring = append(s.ring, j)
		return
	}
	delete(s.byID, s.ring[s.next].id)
	s.ring[s.next] = j
	s.next = (s.next + 1) % s.keep
}

// OnEnd has fn called for each job that ends, with no lock held. It is set once,
// before the first Start.
func (s *Jobs) OnEnd(fn func(*Job)) { s.onEnd = fn }

// Get returns the job of that ID, unless it never was or is forgotten.
func (s *Jobs) Get(id string) (*Job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, ok := s.byID[id]
	return j, ok
}

// Running returns how many jobs have not ended.
func (s *Jobs) Running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byID) - len(s.ring)
}

// Counts returns what became of the jobs of that kind since NewJobs.
func (s *Jobs) Counts(k Kind) Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[k]
}

// All yields the jobs that are remembered at the moment of the call, newest
// first.
func (s *Jobs) All() iter.Seq[*Job] {
	s.mu.Lock()
	jobs := slices.Collect(maps.Values(s.byID))
	s.mu.Unlock()
	slices.SortFunc(jobs, func(a, b *Job) int { return cmp.Compare(b.number, a.number) })
	return slices.Values(jobs)
}
