//go:build mutation

package core

import (
	"fmt"
	"regexp"
	"runtime"
	"testing"
)

// catcher is a test that may fail.
type catcher struct {
	testing.TB
	said string
}

func (*catcher) Helper() {}

func (c *catcher) Fatal(args ...any) {
	c.said = fmt.Sprint(args...)
	runtime.Goexit()
}

func (c *catcher) Fatalf(format string, args ...any) { c.Fatal(fmt.Sprintf(format, args...)) }

func TestMutations_FiveBugsPlanted_EachIsCaught(t *testing.T) {
	shows := map[fault]string{
		missedRefund:       "moves and plans hold",
		lateRefund:         "moves and plans hold",
		doubleCommit:       "the entries charge",
		evictionUnderLease: "a moves under 1 leases",
		lostWaiter:         "1 of 2 waiters",
	}
	if len(shows) != len(scenarios) {
		t.Fatalf("%d faults, %d scenarios", len(shows), len(scenarios))
	}
	for f, want := range shows {
		t.Run(string(f), func(t *testing.T) {
			mutation = f
			defer func() { mutation = "" }()
			c := &catcher{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				scenarios[f](scenarioBench(c))
			}()
			<-done
			if !regexp.MustCompile(want).MatchString(c.said) {
				t.Errorf("the scenario says %q, want %q", c.said, want)
			}
		})
	}
}
