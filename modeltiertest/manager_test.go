package modeltiertest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

func model(name string, gib float64) tier.Model {
	return tier.Model{Name: name, Size: tier.Bytes(gib * float64(tier.GiB)), Capabilities: []string{"chat"}}
}

func use(t *testing.T, m *Manager, name string) error {
	l, err := m.Acquire(t.Context(), modeltier.Request{Model: name})
	if err == nil {
		time.Sleep(time.Second)
		l.Release()
	}
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestNewManager_ModelGivesWay_IsRecordedWithItsReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(t, model("a", 3), model("b", 3))
		must(t, use(t, m, "a"))
		time.Sleep(time.Minute)
		must(t, use(t, m, "b"))
		m.Want("load a: demand", "load a done after 4.5s", "leased a from ram after 4.5s", "released a after 1s",
			"a gave way for b: ", "unload a", "load b", "leased b")
		m.WantNone("refused", "pressure")
		if m.Machine.Peak() != 3*tier.GiB {
			t.Errorf("%v were in memory at once", m.Machine.Peak())
		}
		m.Forget()
		must(t, use(t, m, "b"))
		if got := fmt.Sprint(m.Lines()); got != "[leased b from ram after 0s released b after 1s]" {
			t.Error(got)
		}
	})
}

func TestMachine_EveryFault_IsThatOfTheScript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(t, model("a", 2), model("b", 4))
		m.Machine.Fails("a", 2, nil)
		m.Machine.Panics("a")
		for _, want := range []error{tiertest.ErrScripted, tiertest.ErrScripted, modeltier.ErrPanic} {
			if err := use(t, m, "a"); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
			time.Sleep(time.Minute) // it is tried again later each time
		}
		m.Machine.Crashes("a", 5*time.Second, errors.New("signal: killed"))
		l, err := m.Acquire(t.Context(), modeltier.Request{Model: "a"})
		must(t, err)
		began := time.Now()
		<-l.Done()
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("it crashed after %v", took)
		}
		l.Release()
		m.Want("load a failed after", "load a failed after", "load a failed after 0s: moving 'a'", "leased a", "unload a: crashed")

		free := m.Machine.Residue("a", 2*tier.GiB)
		must(t, use(t, m, "a"))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if _, err := m.Acquire(ctx, modeltier.Request{Model: "b"}); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, modeltier.ErrNoCapacity) {
			t.Errorf("beside 2 GiB that do not leave: %v", err)
		}
		cancel()
		free()
		time.Sleep(10 * time.Second)
		must(t, use(t, m, "b"))
	})
}

func TestMachine_LoadHangs_IsReportedUntilReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := Start(t, modeltier.Config{Models: []tier.Model{model("a", 2)}, Limits: tier.Limits{Swap: tier.None}, StallAfter: time.Minute})
		release := m.Machine.Hangs("a")
		if err := use(t, m, "a"); !errors.Is(err, modeltier.ErrStuck) {
			t.Errorf("%v, want ErrStuck", err)
		}
		if s, _ := m.Model("a"); !s.Stuck {
			t.Errorf("%+v is not stuck", s)
		}
		release()
		time.Sleep(time.Minute)
		must(t, use(t, m, "a"))
		m.Machine.Hangs("a") // for good: Close ends it
	})
}

func TestMachine_DiskAndMemory_AreAsSlowAndAsFullAsTheTestSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := model("a", 1), model("b", 1), model("c", 3)
		a.Path, b.Path, c.Path = "/usb/a", "/usb/b", "/nvme/c"
		m := NewManager(t, a, b, c)
		m.Machine.Disk("/usb/", 100*tier.MiB)
		m.Machine.Disk("/nvme/", tier.GiB)
		done := make(chan string, 2)
		for _, name := range []string{"a", "b"} {
			go func() {
				if err := use(t, m, name); err != nil {
					t.Error(err)
				}
				done <- name
			}()
			synctest.Wait()
		}
		<-done
		<-done
		m.Want("leased a from ram after 10.24s", "leased b from ram after 20.48s") // one after the other
		m.Machine.Others(6 * tier.GiB)
		time.Sleep(10 * time.Second)
		if err := use(t, m, "c"); !errors.Is(err, modeltier.ErrNoCapacity) {
			t.Errorf("with 1 GiB to be had: %v", err)
		}
		m.Want("refused c: no_capacity")
		m.Machine.Others(0)
		time.Sleep(time.Second)
		must(t, use(t, m, "c"))
		m.Want("leased c from ram after 3")
		m.Machine.Press(tier.PressureHigh)
		time.Sleep(10 * time.Second)
		m.Want("pressure high, was low")
		m.Machine.Blind(errors.New("no /proc"))
		time.Sleep(time.Minute)
		if s := m.Status(); s.MemoryError == "" {
			t.Error("the reading did not fail")
		}
	})
}

func TestMachine_AsAMover_KeepsItsContract(t *testing.T) {
	tiertest.TestMover(t, tiertest.MoverOptions{
		New: func(testing.TB) tier.Mover {
			m := tiertest.NewMachine(8 * tier.GiB)
			m.Disk("", 1<<50)
			return m
		},
		Models: func(testing.TB) []tier.Model { return []tier.Model{model("a", 1), model("b", 1)} },
	})
}

// complaints is a TB that keeps what it is told.
type complaints struct {
	testing.TB
	text string
}

func (c *complaints) Helper()                           {}
func (c *complaints) Errorf(format string, args ...any) { c.text += fmt.Sprintf(format, args...) }
func (c *complaints) Fatal(args ...any)                 { c.text += fmt.Sprint(args...); runtime.Goexit() }

func TestWant_ItDidNotHappen_SaysWhatDid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(t, model("a", 1))
		must(t, use(t, m, "a"))
		for _, c := range []struct {
			check func() bool
			says  []string
		}{
			{func() bool { return m.Want("leased a", "load a") }, []string{`nothing that begins with "load a" has happened after "leased a from ram after 1.5s"`, "0s  load a: demand", "2.5s  released a"}},
			{func() bool { return m.Want("refused") }, []string{`nothing that begins with "refused" has happened. What happened`}},
			{func() bool { return m.WantNone("refused", "load") }, []string{`"load a: demand`, `nothing was to that begins with "load"`}},
		} {
			heard := &complaints{TB: t}
			m.Recorder.t = heard
			if c.check() {
				t.Error("it is content")
			}
			for _, want := range c.says {
				if !strings.Contains(heard.text, want) {
					t.Errorf("it says %q, which lacks %q", heard.text, want)
				}
			}
		}
	})
}

func TestNewManager_OutsideABubble_SaysWhereToCallIt(t *testing.T) {
	heard, done := &complaints{TB: t}, make(chan struct{})
	go func() {
		defer close(done)
		NewManager(heard, model("a", 1))
	}()
	<-done
	if !strings.Contains(heard.text, "synctest.Test") {
		t.Errorf("%q", heard.text)
	}
}
