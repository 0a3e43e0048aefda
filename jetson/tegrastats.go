package jetson

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
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
	// ErrStale: the last line is too old to rely on.
	ErrStale = errors.New("tegrastats reading is stale")
)

// TegrastatsConfig configures how tegrastats is run. The zero value works.
type TegrastatsConfig struct {
	// Path of the program. "": searched in PATH, /usr/bin and the home folder at each
	// start.
	Path string
	// Interval between lines, rounded down to a millisecond. 0: 2 s, so that an idle
	// server wakes up every other second; 250 ms on a board without /proc/meminfo,
	// where each Memory waits for a line. Bounds: 100 ms, which tegrastats itself
	// enforces, and an hour.
	Interval time.Duration
	// Silence is the longest time without a readable line before tegrastats is ended
	// and restarted, and the age at which a reading is stale. 0: three intervals and
	// 2 s.
	Silence time.Duration
}

func (c TegrastatsConfig) withDefaults() TegrastatsConfig {
	if c.Interval <= 0 {
		c.Interval = 2 * time.Second
	}
	c.Interval = min(max(c.Interval, 100*time.Millisecond), time.Hour).Truncate(time.Millisecond)
	if c.Silence <= 0 {
		c.Silence = 3*c.Interval + 2*time.Second
	}
	return c
}

// Back-off before a restart. It doubles, and is reset by a run of steadyRun.
const (
	minBackOff = time.Second
	maxBackOff = time.Minute
	steadyRun  = time.Minute
)

// Tegrastats runs the program tegrastats: one child process for any number of
// readers. The first Reader starts it and the last one to close ends it, with all
// processes that it started; meanwhile it is restarted if it dies or falls silent.
// It is run without sudo, and its own "--stop", which ends every tegrastats of the
// machine, is never used. Keep one Tegrastats in a process; a Board has one. The
// methods may be called from any goroutine.
//
// On Linux the child dies with the process that runs it, even if that is killed;
// what the child started may then remain.
type Tegrastats struct {
	cfg   TegrastatsConfig
	start func(path string, args ...string) (child, error)

	mu      sync.Mutex // guards the rest; nothing slow runs under it
	readers int
	starts  uint64
	cancel  context.CancelFunc
	done    chan struct{} // of the last run; closed when its child is gone
	last    Sample
	fresh   chan struct{} // closed at the next sample
	failure error         // why there is no newer line; nil once there is one
	left    error         // which processes of the last child did not end
}

// Sample is a Reading and its time.
type Sample struct {
	Reading Reading
	// At is when the line was read, by this machine's monotonic clock. Reading.Time
	// has a resolution of a second and jumps with the wall clock.
	At time.Time
	// Number counts the samples of a Tegrastats from 1.
	Number uint64
}

// Age returns how old the sample is.
func (s Sample) Age() time.Duration { return time.Since(s.At) }

// NewTegrastats returns a Tegrastats. It does not start the program.
func NewTegrastats(cfg TegrastatsConfig) *Tegrastats {
	return &Tegrastats{cfg: cfg.withDefaults(), start: startProcess, fresh: make(chan struct{})}
}

// Open returns a reader, and starts tegrastats if it is the first one. It waits
// neither for the program nor for a line. Close the reader.
func (t *Tegrastats) Open() *Reader {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.readers++; t.readers == 1 {
		ctx, cancel := context.WithCancel(context.Background())
		previous := t.done
		t.cancel, t.done = cancel, make(chan struct{})
		// The readers own this goroutine: the last Close cancels it and waits for it.
		go t.run(ctx, previous, t.done)
	}
	return &Reader{t: t, closed: make(chan struct{})}
}

// Reader reads the lines of a Tegrastats. Its methods may be called from any
// goroutine.
type Reader struct {
	t      *Tegrastats
	closed chan struct{}
}

// Latest returns the last sample. Without one, the error unwraps to ErrNoReading. If
// the sample is older than TegrastatsConfig.Silence, it comes with an error that
// unwraps to ErrStale. The error includes why tegrastats fails, if that is known.
func (r *Reader) Latest() (Sample, error) {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	return r.t.latest()
}

func (t *Tegrastats) latest() (Sample, error) {
	var err error
	switch age := t.last.Age(); {
	case t.last.Number == 0:
		err = ErrNoReading
	case age > t.cfg.Silence:
		err = fmt.Errorf("%w: the last line came %v ago", ErrStale, age.Round(time.Second))
	default:
		return t.last, nil
	}
	if t.failure != nil {
		err = fmt.Errorf("%w: %w", err, t.failure)
	}
	return t.last, err
}

// Next waits for a sample with a higher Number and returns the latest. If ctx ends
// first, the error is context.Cause(ctx) and why tegrastats fails, if that is known;
// if the reader is closed, it is os.ErrClosed.
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

// closeTime bounds Close against a process that the kernel does not end, such as one
// that waits for a device. It is longer than an orderly end takes.
const closeTime = 5 * time.Second

// Close closes the reader. The last one ends tegrastats and all that it started, and
// waits until they are gone, at most 5 s. The error names what did not end;
// tegrastats is then awaited in the background, and not restarted before it is gone.
// Close is idempotent.
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
		if t.left != nil {
			return fmt.Errorf("jetson: %w", t.left)
		}
		return nil
	case <-time.After(closeTime):
		return fmt.Errorf("jetson: tegrastats did not end within %v", closeTime)
	}
}

// run keeps a child running until ctx ends. It starts after the previous run, whose
// child may still be ending.
func (t *Tegrastats) run(ctx context.Context, previous <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	if previous != nil {
		<-previous
	}
	// Linux sends Pdeathsig when the thread that started the child ends, not the
	// process: keep the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	backOff := minBackOff
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
			backOff = minBackOff
		}
		select {
		case <-ctx.Done():
		case <-time.After(backOff):
		}
		backOff = min(2*backOff, maxBackOff)
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
	t.mu.Lock()
	t.starts++
	t.mu.Unlock()
	// The end of ctx interrupts a read.
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
		if ctx.Err() != nil { // AfterFunc may have set its deadline before this one
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
			// Old builds print their errors among the lines; they do not end the silence.
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
	places := []string{"tegrastats", "/usr/bin/tegrastats"}
	if home, err := os.UserHomeDir(); err == nil {
		places = append(places, filepath.Join(home, "tegrastats"))
	}
	for _, place := range places {
		if found, err := exec.LookPath(place); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("tegrastats: %w, nor at %s", exec.ErrNotFound, strings.Join(places[1:], " or "))
}

// child is a running tegrastats and its output.
type child interface {
	io.Reader
	SetReadDeadline(time.Time) error
	// end ends the child and all that it started, and waits until they are gone. left
	// names what did not end. reason is how the child ended by itself; nil if it was
	// killed.
	end() (left, reason error)
}

// process is a child that is a process.
type process struct {
	*os.File // the reading end of its output
	cmd      *exec.Cmd
	descent  *descent
}

func startProcess(path string, args ...string) (child, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has a copy
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = out, out
	descent := prepare(cmd)
	if err := cmd.Start(); err != nil {
		in.Close()
		return nil, err
	}
	descent.started(cmd.Process)
	return &process{File: in, cmd: cmd, descent: descent}, nil
}

func (p *process) end() (left, reason error) {
	p.descent.survey()
	// Close the pipe before the signals: it frees a child that blocks on it, and makes
	// the next line of one that ignores signals fail.
	p.Close()
	left = p.descent.end()
	reason = p.cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](reason); ok && killed(exit) {
		reason = nil
	}
	return left, reason
}

// lineReader splits a stream into lines, in maxLine bytes of memory.
type lineReader struct{ *bufio.Reader }

// maxLine is about sixty times the longest known line (Thor, less than 1 KiB).
const maxLine = 64 << 10

func newLineReader(r io.Reader) lineReader { return lineReader{bufio.NewReaderSize(r, maxLine)} }

// next returns the next line that ends in a newline, and skips those longer than
// maxLine. A last line without newline is dropped: it was cut and may have lost
// digits.
func (l lineReader) next() (string, error) {
	for long := false; ; {
		line, err := l.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long = true
		case err != nil:
			return "", err
		case long:
			long = false
		default:
			return string(line[:len(line)-1]), nil
		}
	}
}
