package jetson

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stage starts goroutines as children, and counts them.
type stage struct {
	// play is what the n-th child does, from 1; it ends when it returns. say reports
	// false once the child has been ended.
	play func(n int, say func(string) bool)
	// slow is how long a child takes to be gone when it is ended.
	slow time.Duration
	// left is what a child leaves behind.
	left error

	mu      sync.Mutex
	args    [][]string
	starts  []time.Time
	running int
	highest int
}

// seen returns when children were started, how many run, and the maximum at one time.
func (s *stage) seen() (starts []time.Time, running, highest int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.starts), s.running, s.highest
}

type actor struct {
	net.Conn
	s    *stage
	gone chan struct{}
}

// SetReadDeadline succeeds if the other end is closed, as that of a pipe between
// processes does.
func (a *actor) SetReadDeadline(at time.Time) error {
	if err := a.Conn.SetReadDeadline(at); !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	return nil
}

func (a *actor) end() (left, reason error) {
	a.Close()
	<-a.gone
	time.Sleep(a.s.slow)
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.s.running--
	return a.s.left, nil
}

func (s *stage) start(path string, args ...string) (child, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.args = append(s.args, append([]string{path}, args...))
	s.starts = append(s.starts, time.Now())
	s.running++
	s.highest = max(s.highest, s.running)
	n := len(s.starts)
	ours, theirs := net.Pipe()
	a := &actor{Conn: ours, s: s, gone: make(chan struct{})}
	go func() {
		defer close(a.gone)
		defer theirs.Close()
		s.play(n, func(text string) bool {
			_, err := theirs.Write([]byte(text))
			return err == nil
		})
	}()
	return a, nil
}

func (s *stage) tegrastats(cfg TegrastatsConfig) *Tegrastats {
	if cfg.Path == "" {
		cfg.Path = "tegrastats"
	}
	t := NewTegrastats(cfg)
	t.start = s.start
	return t
}

// steady prints a line every 2 s; used memory grows by 1 MiB with each.
func steady(_ int, say func(string) bool) {
	for i := 1; ; i++ {
		time.Sleep(2 * time.Second)
		if !say(fmt.Sprintf("RAM %d/7620MB (lfb 3x4MB) CPU [1%%@729]\n", i)) {
			return
		}
	}
}

func TestTegrastats_ManyReaders_OneChildUntilTheLastCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{play: steady}
		stats := s.tegrastats(TegrastatsConfig{})
		var readers []*Reader
		for range 5 {
			readers = append(readers, stats.Open())
		}
		for _, r := range readers {
			got, err := r.Next(t.Context(), 1)
			if err != nil || got.Number != 2 || got.Reading.RAMUsed != 2*mib {
				t.Errorf("%+v, %v", got, err)
			}
		}
		for _, r := range readers[1:] {
			r.Close()
			r.Close()
		}
		if got, err := readers[0].Next(t.Context(), 2); err != nil || got.Number != 3 {
			t.Errorf("after the others closed: %+v, %v", got, err)
		}
		readers[0].Close()
		if starts, running, highest := s.seen(); running != 0 || len(starts) != 1 || highest != 1 {
			t.Errorf("%d running, %d started, %d at once", running, len(starts), highest)
		}
		if got, err := readers[0].Next(t.Context(), 99); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Next of a closed reader: %+v, %v", got, err)
		}
	})
}

func TestTegrastats_Start_WithIntervalAndNothingElse(t *testing.T) {
	for interval, want := range map[time.Duration]string{
		0: "2000", time.Second: "1000", math.MaxInt64: "3600000", time.Millisecond: "100", -1: "2000", 1234567 * time.Microsecond: "1234",
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &stage{play: steady}
			r := s.tegrastats(TegrastatsConfig{Path: "/opt/ts", Interval: interval}).Open()
			synctest.Wait()
			r.Close()
			if got := strings.Join(s.args[0], " "); got != "/opt/ts --interval "+want {
				t.Errorf("%v: %s", interval, got)
			}
		})
	}
}

func TestTegrastats_ReopenedWhileEnding_NeverTwoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{play: steady, slow: 3 * time.Second}
		stats := s.tegrastats(TegrastatsConfig{})
		first := stats.Open()
		if _, err := first.Next(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		closed := make(chan struct{})
		go func() { defer close(closed); first.Close() }()
		time.Sleep(time.Second) // the first child is still ending
		second := stats.Open()
		if _, err := second.Next(t.Context(), 1); err != nil {
			t.Error(err)
		}
		<-closed
		second.Close()
		if starts, _, highest := s.seen(); highest != 1 || len(starts) != 2 {
			t.Errorf("%d started, %d at once", len(starts), highest)
		}
	})
}

// A process that hangs in a driver survives SIGKILL.
func TestTegrastats_DoesNotEnd_CloseReturnsAndNoSecondStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{play: steady, slow: time.Hour}
		stats := s.tegrastats(TegrastatsConfig{})
		for n := range 3 {
			r := stats.Open()
			synctest.Wait()
			began := time.Now()
			if err := r.Close(); err == nil || time.Since(began) != closeTime {
				t.Errorf("Close %d: %v after %v", n, err, time.Since(began))
			}
		}
		if starts, _, highest := s.seen(); len(starts) != 1 || highest != 1 {
			t.Errorf("%d started, %d at once", len(starts), highest)
		}
		time.Sleep(time.Hour)
		r := stats.Open()
		if got, err := r.Next(t.Context(), 0); err != nil {
			t.Errorf("after it has ended: %+v, %v", got, err)
		}
		r.Close()
		time.Sleep(time.Hour)
	})
}

func TestTegrastats_LeavesProcessesBehind_CloseAndFailureSayWhich(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := errors.New("process 7 does not end")
		r := (&stage{play: func(int, func(string) bool) {}, left: left}).tegrastats(TegrastatsConfig{}).Open()
		synctest.Wait()
		if _, err := r.Latest(); !errors.Is(err, left) {
			t.Errorf("Latest: %v", err)
		}
		if err := r.Close(); !errors.Is(err, left) {
			t.Errorf("Close: %v", err)
		}
	})
}

func TestTegrastats_Dies_RestartedWithBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{play: func(n int, say func(string) bool) {
			if n == 9 {
				steady(n, say)
			}
		}}
		r := s.tegrastats(TegrastatsConfig{}).Open()
		got, err := r.Next(t.Context(), 0)
		if err != nil || got.Number != 1 {
			t.Fatal(got, err)
		}
		var pauses []string
		starts, _, _ := s.seen()
		for i := 1; i < len(starts); i++ {
			pauses = append(pauses, starts[i].Sub(starts[i-1]).String())
		}
		if got := strings.Join(pauses, " "); got != "1s 2s 4s 8s 16s 32s 1m0s 1m0s" {
			t.Errorf("pauses: %s", got)
		}
		r.Close()
	})
}

func TestTegrastats_DiesAfterASteadyRun_BackOffReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{play: func(n int, say func(string) bool) {
			if n == 4 {
				for range 60 {
					time.Sleep(2 * time.Second)
					say("RAM 1/2MB\n")
				}
			}
		}}
		r := s.tegrastats(TegrastatsConfig{}).Open()
		time.Sleep(7*time.Second + 2*time.Minute + 1500*time.Millisecond)
		if starts, _, _ := s.seen(); len(starts) != 5 {
			t.Errorf("%d starts; the fifth was due 1 s after the steady run", len(starts))
		}
		r.Close()
	})
}

func TestTegrastats_FallsSilent_EndedAndRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		s := &stage{play: func(n int, say func(string) bool) {
			if n > 1 {
				steady(n, say)
				return
			}
			say("RAM 1/2MB\n")
			for say("Failed to open /sys/kernel/debug\n") { // garbage is no sign of life
				time.Sleep(time.Second)
			}
			close(ended)
		}}
		r := s.tegrastats(TegrastatsConfig{}).Open()
		synctest.Wait()
		began := time.Now()
		if _, err := r.Latest(); err != nil {
			t.Errorf("fresh: %v", err)
		}
		<-ended
		if took := time.Since(began); took < 8*time.Second || took > 9*time.Second {
			t.Errorf("ended after %v of silence, want three intervals and 2 s", took)
		}
		synctest.Wait()
		time.Sleep(time.Millisecond)
		sample, err := r.Latest()
		if !errors.Is(err, ErrStale) || sample.Number != 1 || !strings.Contains(err.Error(), "silent for 8s") || !strings.Contains(err.Error(), "Failed to open") {
			t.Errorf("stale: %+v, %v", sample, err)
		}
		if sample, err := r.Next(t.Context(), 1); err != nil || sample.Number != 2 {
			t.Errorf("after the restart: %+v, %v", sample, err)
		}
		if _, err := r.Latest(); err != nil {
			t.Errorf("fresh again: %v", err)
		}
		// The old failure is over.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.Next(ctx, 2); err != context.DeadlineExceeded {
			t.Errorf("an old failure is reported: %v", err)
		}
		r.Close()
	})
}

func TestTegrastats_GarbageLongAndCutLines_Skipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{play: func(n int, say func(string) bool) {
			if n > 1 {
				steady(n, say)
				return
			}
			say("\n\x00\xff\xfe\nFailed to open x\nRAM 9/1MB\n")
			say("RAM 5/8MB (lfb 1x4MB) " + strings.Repeat("x@1C ", maxLine) + "\n")
			say("RAM 6/") // in two pieces
			say("8MB\r\n")
			say("RAM 7/8MB (lfb 1x4") // and then it dies
		}}
		r := s.tegrastats(TegrastatsConfig{}).Open()
		synctest.Wait()
		got, err := r.Latest()
		if err != nil || got.Number != 1 || got.Reading.RAMUsed != 6*mib {
			t.Errorf("%+v, %v", got, err)
		}
		r.Close()
	})
}

func TestTegrastats_NoReadingYet_SaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stats := NewTegrastats(TegrastatsConfig{Path: "tegrastats"})
		boom := errors.New("boom")
		stats.start = func(string, ...string) (child, error) { return nil, boom }
		r := stats.Open()
		synctest.Wait()
		if _, err := r.Latest(); !errors.Is(err, ErrNoReading) || !errors.Is(err, boom) {
			t.Errorf("Latest: %v", err)
		}
		hurry := errors.New("in a hurry")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, hurry)
		defer cancel()
		if _, err := r.Next(ctx, 0); !errors.Is(err, hurry) || !errors.Is(err, boom) {
			t.Errorf("Next: %v", err)
		}
		began := time.Now()
		r.Close() // while it pauses
		if took := time.Since(began); took != 0 {
			t.Errorf("Close took %v", took)
		}
	})
}

func TestFind_NotInstalled_SaysWhereItLooked(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	if _, err := os.Stat("/usr/bin/tegrastats"); err == nil {
		t.Skip("this is a board")
	}
	if _, err := find(""); err == nil || !strings.Contains(err.Error(), "/usr/bin/tegrastats") {
		t.Errorf("%v", err)
	}
	home := os.Getenv("HOME")
	if err := os.WriteFile(home+"/tegrastats", []byte("#!/bin/true\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := find(""); err != nil || got != home+"/tegrastats" {
		t.Errorf("in the home folder: %q, %v", got, err)
	}
}
