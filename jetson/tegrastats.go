package jetson

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Errors of a Reader.
var (
	// ErrNoReading: tegrastats has not printed a line yet.
	ErrNoReading = errors.New("no tegrastats reading yet")
	// ErrStale: the last line is too old to go by.
	ErrStale = errors.New("tegrastats reading is stale")
)

// TegrastatsConfig says how tegrastats is run. The zero value works.
type TegrastatsConfig struct {
	// Path of the program. "": looked for in PATH, /usr/bin and the home folder,
	// each time it is started.
	Path string
	// Interval between lines, rounded down to a millisecond. 0: 2 s, so that a
	// server at rest is woken every other second; 250 ms on a board that has no
	// /proc/meminfo, where every look at the memory waits for a line. Below 100 ms
	// is raised to that, as tegrastats itself does, and above an hour lowered.
	Interval time.Duration
	// Silence is how long tegrastats may go without a line that can be read before
	// it is ended and started anew, and how old a reading may get before it is
	// stale. 0: three intervals and 2 s.
	Silence time.Duration
}

func (c TegrastatsConfig) orElse() TegrastatsConfig {
	if c.Interval <= 0 {
		c.Interval = 2 * time.Second
	}
	c.Interval = min(max(c.Interval, 100*time.Millisecond), time.Hour).Truncate(time.Millisecond)
	if c.Silence <= 0 {
		c.Silence = 3*c.Interval + 2*time.Second
	}
	return c
}

// Pauses before tegrastats is started again. They double, and begin anew once it
// has run for a while.
const (
	firstPause = time.Second
	mostPause  = time.Minute
	steadyRun  = time.Minute
)

// Tegrastats runs the program tegrastats: one child process, however many
// readers. The first Reader starts it, the last to be closed ends it; in between
// it is started anew whenever it dies or falls silent. It is run without sudo,
// and its own "--stop", which ends every tegrastats of the machine, is never
// used. Keep one Tegrastats in a process; a Board has one. Its methods may be
// called from any goroutine.
type Tegrastats struct {
	cfg   TegrastatsConfig
	start func(path string, args ...string) (child, error)

	mu      sync.Mutex // guards what follows; nothing slow runs under it
	readers int
	cancel  context.CancelFunc
	done    chan struct{} // of the last run; closed when its child is gone
	last    Sample
	fresh   chan struct{} // closed at the next sample
	failure error         // why there was no line lately; nil once there is one
	left    error         // what of the last child could not be ended
}

// Sample is a Reading and when it came.
type Sample struct {
	Reading Reading
	// At is when the line was read, by this machine's monotonic clock. Reading.Time
	// is to the second and jumps with the wall clock.
	At time.Time
	// Number counts the samples of a Tegrastats from 1.
	Number uint64
}

// Age returns how old the sample is.
func (s Sample) Age() time.Duration { return time.Since(s.At) }

// NewTegrastats returns a Tegrastats that runs nothing yet.
func NewTegrastats(cfg TegrastatsConfig) *Tegrastats {
	return &Tegrastats{cfg: cfg.orElse(), start: startProcess, fresh: make(chan struct{})}
}

// Open returns a reader, and starts tegrastats if it is the only one. It does not
// wait, neither for the program nor for a line. Close the reader.
func (t *Tegrastats) Open() *Reader {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.readers++; t.readers == 1 {
		ctx, cancel := context.WithCancel(context.Background())
		previous := t.done
		t.cancel, t.done = cancel, make(chan struct{})
		// Owned by the readers: the last Close cancels it and waits for it.
		go t.run(ctx, previous, t.done)
	}
	return &Reader{t: t, closed: make(chan struct{})}
}

// Reader is one who reads a Tegrastats. Its methods may be called from any
// goroutine.
type Reader struct {
	t      *Tegrastats
	closed chan struct{}
}

// Latest returns the last sample. The error unwraps to ErrNoReading where there
// is none, or to ErrStale, beside the sample, where it is older than
// TegrastatsConfig.Silence; it says what ails tegrastats, where that is known.
func (r *Reader) Latest() (Sample, error) {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	last, failure := r.t.last, r.t.failure
	var err error
	switch {
	case last.Number == 0:
		err = ErrNoReading
	case last.Age() > r.t.cfg.Silence:
		err = fmt.Errorf("%w: the last line came %v ago", ErrStale, last.Age().Round(time.Second))
	default:
		return last, nil
	}
	if failure != nil {
		err = fmt.Errorf("%w: %w", err, failure)
	}
	return last, err
}

// Next waits for a sample with a Number above that one and returns the latest.
// It returns context.Cause(ctx) when ctx ends first, with what ails tegrastats
// where that is known, and os.ErrClosed when the reader is closed.
func (r *Reader) Next(ctx context.Context, number uint64) (Sample, error) {
	for {
		r.t.mu.Lock()
		last, fresh := r.t.last, r.t.fresh
		r.t.mu.Unlock()
		if last.Number > number {
			return last, nil
		}
		select {
		case <-fresh:
		case <-r.closed:
			return Sample{}, os.ErrClosed
		case <-ctx.Done():
			r.t.mu.Lock()
			failure := r.t.failure
			r.t.mu.Unlock()
			if failure != nil {
				return Sample{}, fmt.Errorf("%w: %w", context.Cause(ctx), failure)
			}
			return Sample{}, context.Cause(ctx)
		}
	}
}

// Close gives the reader up. The last one ends tegrastats and all that it has
// started and waits until they are gone, for closeTime at most. The error says what
// could not be ended; tegrastats itself is then waited for in the background, and
// not started again before it is gone. Close is idempotent.
func (r *Reader) Close() error {
	t := r.t
	t.mu.Lock()
	select {
	case <-r.closed:
		t.mu.Unlock()
		return nil
	default:
		close(r.closed)
	}
	if t.readers--; t.readers > 0 {
		t.mu.Unlock()
		return nil
	}
	t.cancel()
	done := t.done
	t.mu.Unlock()
	select {
	case <-done:
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.left
	case <-time.After(closeTime):
		return fmt.Errorf("tegrastats did not end within %v", closeTime)
	}
}

// closeTime bounds Close against a process that the kernel does not let go, as
// one that waits for a device. It is longer than an orderly end takes.
const closeTime = 5 * time.Second

// run keeps a child running until ctx ends. It begins when the run before it,
// whose child may still be ending, is over.
func (t *Tegrastats) run(ctx context.Context, previous <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	if previous != nil {
		<-previous
	}
	// Linux sends a child its Pdeathsig when the thread that made it ends, not the
	// process, so this goroutine keeps its thread for as long as it makes children.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := t.attend(ctx)
		if ctx.Err() != nil {
			return
		}
		t.mu.Lock()
		t.failure = err
		t.mu.Unlock()
		if time.Since(began) >= steadyRun {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, mostPause)
	}
}

// attend runs one child, publishes what it prints, and returns why it ended.
func (t *Tegrastats) attend(ctx context.Context) (err error) {
	path, err := find(t.cfg.Path)
	if err != nil {
		return err
	}
	c, err := t.start(path, "--interval", strconv.FormatInt(t.cfg.Interval.Milliseconds(), 10))
	if err != nil {
		return fmt.Errorf("starting tegrastats: %w", err)
	}
	// When ctx ends, a read that waits is made to return.
	release := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		release()
		left, reason := c.end()
		t.mu.Lock()
		t.left = left
		t.mu.Unlock()
		for _, more := range [...]error{reason, left} {
			if more != nil {
				err = fmt.Errorf("%w (%w)", err, more)
			}
		}
	}()

	lines := newLineReader(c)
	said := ""
	for heard := time.Now(); ; {
		if err := c.SetReadDeadline(heard.Add(t.cfg.Silence)); err != nil {
			return fmt.Errorf("reading tegrastats: %w", err)
		}
		if ctx.Err() != nil { // the deadline above may have undone the one in AfterFunc
			return ctx.Err()
		}
		line, err := lines.next()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("tegrastats was silent for %v%s", t.cfg.Silence, said)
		case err != nil:
			return fmt.Errorf("tegrastats ended%s", said)
		}
		r, err := Parse(line)
		if err != nil {
			// Old builds print their errors among the lines. Garbage is no sign of life.
			said = fmt.Sprintf(", having said %.120q", line)
			continue
		}
		heard = time.Now()
		t.publish(r, heard)
	}
}

func (t *Tegrastats) publish(r Reading, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = Sample{Reading: r, At: at, Number: t.last.Number + 1}
	t.failure = nil
	close(t.fresh)
	t.fresh = make(chan struct{})
}

// find returns the path of tegrastats. Before JetPack 4.2 it was in the home
// folder.
func find(path string) (string, error) {
	if path != "" {
		return path, nil
	}
	if found, err := exec.LookPath("tegrastats"); err == nil {
		return found, nil
	}
	places := []string{"/usr/bin/tegrastats"}
	if home, err := os.UserHomeDir(); err == nil {
		places = append(places, filepath.Join(home, "tegrastats"))
	}
	for _, place := range places {
		if found, err := exec.LookPath(place); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("tegrastats: %w, nor at %s", exec.ErrNotFound, strings.Join(places, " or "))
}
