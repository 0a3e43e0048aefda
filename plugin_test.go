package modeltier

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A short call waits behind a long one until its time is nearly up, and is answered
// late. The part works: the call behind it is made.
func TestPlugin_CallRunsOutOfTimeInTheQueue_PartIsNotStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &plugin{m: &Manager{ctx: t.Context()}, name: "part"}
		takes := func(d time.Duration) func(context.Context) error {
			return func(context.Context) error { time.Sleep(d); return nil }
		}
		answers := make([]error, 3)
		for i, c := range []struct{ limit, takes time.Duration }{
			{10 * time.Second, 1900 * time.Millisecond}, {time.Second, 200 * time.Millisecond}, {10 * time.Second, time.Second},
		} {
			answers[i] = errors.New("no answer")
			p.ask(c.limit, takes(c.takes), func(err error) { answers[i] = err })
		}
		time.Sleep(2050 * time.Millisecond)
		synctest.Wait()
		if !errors.Is(answers[1], ErrStuck) {
			t.Errorf("the call that waited too long: %v, want ErrStuck", answers[1])
		}
		if p.isStuck() {
			t.Error("the part counts as stuck")
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if answers[0] != nil || answers[2] != nil {
			t.Errorf("the others: %v, %v", answers[0], answers[2])
		}
		p.ask(time.Second, takes(time.Minute), func(err error) { answers[1] = err })
		time.Sleep(2*time.Second + time.Millisecond)
		synctest.Wait()
		if !p.isStuck() || !errors.Is(answers[1], ErrStuck) {
			t.Errorf("a call that does not return: %v, stuck %v", answers[1], p.isStuck())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if p.isStuck() {
			t.Error("the part is stuck though its call returned")
		}
	})
}
