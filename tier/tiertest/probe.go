package tiertest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// TestProbe checks a tier.MemoryProbe against its contract. new returns a fresh
// probe that can read; the suite closes those that are a tier.Closer.
//
// It checks that figures are possible (none negative, no more free than there is,
// shares of time between 0 and 100), that a later reading is not older and counts no
// fewer kills, that it does not change what the one before returned, and that an
// ended context ends a reading with its cause and does no harm to the next; and
// that a tier.Overlay and a tier.PartStatuser keep their contracts. It does not
// check that the figures are true.
func TestProbe(t *testing.T, new func(t *testing.T) tier.MemoryProbe) {
	run := func(name string, check func(tier.MemoryProbe) error) {
		t.Run(name, func(t *testing.T) {
			p := new(t)
			if err := check(p); err != nil {
				t.Error(err)
			}
			if err := closePart(p); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	run("Reading", checkReading)
	run("Later", checkLater)
	run("Ended", checkEnded)
	run("PartStatus", checkProbeStatus)
	t.Run("Overlay", func(t *testing.T) {
		if err := checkOverlay(new(t)); err != nil {
			t.Error(err)
		}
	})
}

// checkReading makes one reading and looks for impossible figures.
func checkReading(p tier.MemoryProbe) error {
	before := time.Now()
	m, err := p.Memory(context.Background())
	if err != nil {
		return fmt.Errorf("a reading failed: %w", err)
	}
	if after := time.Now(); !m.At.IsZero() && (m.At.Before(before) || m.At.After(after)) {
		return fmt.Errorf("At is %v, which is not during the reading (%v to %v)", m.At, before, after)
	}
	return possible(m)
}

// possible returns an error that names the first impossible figure.
func possible(m tier.Memory) error {
	if err := m.Validate(); err != nil {
		return err
	}
	if m.Total == 0 && m.Available > 0 {
		return fmt.Errorf("memory: %v are available of none; set Total as well", m.Available)
	}
	p := m.Pressure
	for _, f := range [...]struct {
		name  string
		share float64
	}{{"Some10", p.Some10}, {"Some60", p.Some60}, {"Full10", p.Full10}, {"Full60", p.Full60}} {
		switch {
		case !(f.share >= 0 && f.share <= 100): // also NaN
			return fmt.Errorf("pressure: %s is %v, must be from 0 to 100", f.name, f.share)
		case f.share > 0 && !p.HasPSI:
			return fmt.Errorf("pressure: %s is %v though there is no PSI", f.name, f.share)
		}
	}
	switch {
	case p.Refault < 0 || p.SwapOut < 0:
		return fmt.Errorf("pressure: a rate is negative: refault %v, swap-out %v", p.Refault, p.SwapOut)
	case !(p.Stalls >= 0) || math.IsInf(p.Stalls, 0):
		return fmt.Errorf("pressure: %v stalls a second", p.Stalls)
	case p.Level > tier.PressureHigh || p.Stalled > tier.PressureHigh:
		return fmt.Errorf("pressure: there is no level %d", uint8(p.Level))
	}
	return nil
}

// checkLater compares two readings.
func checkLater(p tier.MemoryProbe) error {
	first, err := p.Memory(context.Background())
	if err != nil {
		return fmt.Errorf("the first reading failed: %w", err)
	}
	second, err := p.Memory(context.Background())
	switch {
	case err != nil:
		return fmt.Errorf("the second reading failed: %w", err)
	case second.At.Before(first.At):
		return fmt.Errorf("the second reading is of %v, the first of %v", second.At, first.At)
	case second.Pressure.OOMKills < first.Pressure.OOMKills:
		return fmt.Errorf("kills fell from %d to %d; they are counted since boot", first.Pressure.OOMKills, second.Pressure.OOMKills)
	}
	return possible(second)
}

// checkEnded reads with a context that has ended for a reason, and with one whose
// time is over.
func checkEnded(p tier.MemoryProbe) error {
	cause := errors.New("tiertest: the caller is gone")
	cancelled, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	expired, stop := context.WithDeadline(context.Background(), time.Unix(0, 0))
	defer stop()
	for _, c := range []struct {
		ctx   context.Context
		cause error
	}{{expired, context.DeadlineExceeded}, {cancelled, cause}} {
		if _, err := p.Memory(c.ctx); !errors.Is(err, c.cause) {
			return fmt.Errorf("a reading under a context that ended with %q returned the error %v; return context.Cause(ctx)", c.cause, err)
		}
		if err := checkReading(p); err != nil {
			return fmt.Errorf("after a reading under an ended context: %w", err)
		}
	}
	return nil
}

// checkProbeStatus asks for the probe's status while it reads.
func checkProbeStatus(p tier.MemoryProbe) error {
	if _, ok := p.(tier.PartStatuser); !ok {
		return nil
	}
	read := make(chan error, 1)
	go func() {
		_, err := p.Memory(context.Background())
		read <- err
	}()
	during := checkStatus(p)
	return errors.Join(during, <-read, checkStatus(p))
}

// closingProbe is a Probe that counts how often it is closed.
type closingProbe struct {
	*Probe
	closed atomic.Int32
}

func (p *closingProbe) Close() error {
	p.closed.Add(1)
	return nil
}

// checkOverlay lays the probe over another, and closes it.
func checkOverlay(p tier.MemoryProbe) error {
	over, ok := p.(tier.Overlay)
	if !ok {
		return closePart(p)
	}
	bytes := &closingProbe{Probe: NewProbe(tier.Memory{Total: 8 * tier.GiB, Available: 4 * tier.GiB})}
	took := over.Over(bytes)
	err := checkReading(p)
	switch again := over.Over(NewProbe(tier.Memory{})); {
	case err != nil:
	case again:
		err = errors.New("tier.Overlay: Over was true, and true again for another probe")
	case took && bytes.Reads() == 0:
		err = errors.New("tier.Overlay: Over was true, but a reading did not ask the probe that it was given")
	case !took && bytes.Reads() > 0:
		err = errors.New("tier.Overlay: Over was false, but a reading asked the probe that it was given")
	}
	err = errors.Join(err, closePart(p))
	want := int32(0)
	if _, canClose := p.(tier.Closer); took && canClose {
		want = 1
	}
	if n := bytes.closed.Load(); err == nil && n != want {
		err = fmt.Errorf("tier.Overlay: Over was %v, and Close closed the probe that it was given %d times, want %d", took, n, want)
	}
	return err
}
