package tiertest

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

func TestTestProbe_Fake_Passes(t *testing.T) {
	TestProbe(t, func(t *testing.T) tier.MemoryProbe {
		return NewProbe(tier.Memory{
			Total: 8 * tier.GiB, Available: 6 * tier.GiB, Source: "fake",
			Pressure: tier.Pressure{HasPSI: true, Some10: 100, Full60: 0.5, Level: tier.PressureHigh},
		})
	})
}

func TestTestProbe_EachFault_IsFound(t *testing.T) {
	good := tier.Memory{Total: 8 * tier.GiB, Available: 6 * tier.GiB}
	readings := map[string]func(m *tier.Memory){
		"more available than there is": func(m *tier.Memory) { m.Available = 9 * tier.GiB },
		"available of nothing":         func(m *tier.Memory) { m.Total = 0 },
		"negative":                     func(m *tier.Memory) { m.Available = -1 },
		"more swap than there is":      func(m *tier.Memory) { m.SwapTotal, m.SwapFree = 1, 2 },
		"negative compressed swap":     func(m *tier.Memory) { m.CompressedSwapFree = -1 },
		"share above 100":              func(m *tier.Memory) { m.Pressure = tier.Pressure{HasPSI: true, Full10: 101} },
		"share is NaN":                 func(m *tier.Memory) { m.Pressure = tier.Pressure{HasPSI: true, Some60: math.NaN()} },
		"share without PSI":            func(m *tier.Memory) { m.Pressure.Some10 = 1 },
		"negative rate":                func(m *tier.Memory) { m.Pressure.Refault = -1 },
		"endless stalls":               func(m *tier.Memory) { m.Pressure.Stalls = math.Inf(1) },
		"no such level":                func(m *tier.Memory) { m.Pressure.Level = 3 },
		"read tomorrow":                func(m *tier.Memory) { m.At = time.Now().Add(24 * time.Hour) },
		"read yesterday":               func(m *tier.Memory) { m.At = time.Now().Add(-24 * time.Hour) },
	}
	for name, spoil := range readings {
		m := good
		spoil(&m)
		if checkReading(NewProbe(m)) == nil {
			t.Errorf("%s: not found", name)
		}
	}
	if err := checkReading(NewProbe(good)); err != nil {
		t.Errorf("a good reading: %v", err)
	}

	deaf := tier.MemoryProbeFunc(func(context.Context) (tier.Memory, error) { return good, nil })
	if checkEnded(deaf) == nil {
		t.Error("a probe that does not look at its context is not found")
	}
	causeless := tier.MemoryProbeFunc(func(ctx context.Context) (tier.Memory, error) { return good, ctx.Err() })
	if checkEnded(causeless) == nil {
		t.Error("a probe that loses the cause is not found")
	}
	var spent error
	broken := tier.MemoryProbeFunc(func(ctx context.Context) (tier.Memory, error) {
		if spent == nil {
			spent = context.Cause(ctx)
		}
		return good, spent
	})
	if checkEnded(broken) == nil {
		t.Error("a probe that never reads again is not found")
	}
}

func TestTestProbe_FaultsOfALaterReading_AreFound(t *testing.T) {
	now := time.Now()
	for name, next := range map[string]func(n int) (tier.Memory, error){
		"fails": func(n int) (tier.Memory, error) { return tier.Memory{}, errors.New("no") },
		"older": func(n int) (tier.Memory, error) { return tier.Memory{At: now.Add(-time.Duration(n) * time.Hour)}, nil },
		"fewer": func(n int) (tier.Memory, error) {
			return tier.Memory{Pressure: tier.Pressure{OOMKills: uint64(9 - n)}}, nil
		},
		"impossible": func(n int) (tier.Memory, error) { return tier.Memory{Available: tier.Bytes(-n)}, nil },
	} {
		n := -1
		p := tier.MemoryProbeFunc(func(context.Context) (tier.Memory, error) { n++; return next(n) })
		if checkLater(p) == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

// overlay is a probe that may be laid over another, with faults.
type overlay struct {
	tier.MemoryProbe
	under                        tier.MemoryProbe
	again, ignores, leaves, lies bool
}

func (o *overlay) Over(bytes tier.MemoryProbe) bool {
	if o.under != nil && !o.again {
		return false
	}
	o.under = bytes
	return !o.lies
}

func (o *overlay) Memory(ctx context.Context) (tier.Memory, error) {
	if o.under == nil || o.ignores {
		return o.MemoryProbe.Memory(ctx)
	}
	return o.under.Memory(ctx)
}

func (o *overlay) Close() error {
	if c, ok := o.under.(tier.Closer); ok && !o.leaves {
		return c.Close()
	}
	return nil
}

func (o *overlay) PartStatus() any { return o.leaves }

func TestTestProbe_Overlay_EachFaultIsFound(t *testing.T) {
	bytes := NewProbe(tier.Memory{Total: 2, Available: 1})
	TestProbe(t, func(*testing.T) tier.MemoryProbe { return &overlay{MemoryProbe: bytes} })
	TestProbe(t, func(*testing.T) tier.MemoryProbe { return &overlay{MemoryProbe: bytes, under: bytes} })
	for name, o := range map[string]*overlay{
		"takes two":            {again: true},
		"does not ask":         {ignores: true},
		"does not close":       {leaves: true},
		"asks what it refused": {lies: true},
	} {
		o.MemoryProbe = bytes
		if err := checkOverlay(o); err == nil || !strings.Contains(err.Error(), "tier.Overlay") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// chatty is a probe whose status is no JSON.
type chatty struct{ tier.MemoryProbe }

func (chatty) PartStatus() any { return func() {} }

func TestTestProbe_StatusIsNoJSON_IsFound(t *testing.T) {
	if err := checkProbeStatus(chatty{NewProbe(tier.Memory{})}); err == nil || !strings.Contains(err.Error(), "tier.PartStatuser") {
		t.Errorf("err = %v", err)
	}
}
