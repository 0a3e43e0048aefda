package modeltier_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/selector"
	"github.com/modeltier/modeltier/tier"
)

// tally is a selector that counts what is reported to it.
type tally struct {
	tier.Selector
	reports atomic.Int64
}

func (t *tally) Reported(outcomes []tier.Outcome) { t.reports.Add(int64(len(outcomes))) }

func TestReport_LoopIsBusy_TooManyAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &tally{Selector: selector.New()}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Selector: told})
		l := r.get("a")
		defer l.Release()
		let := r.Hold()
		synctest.Wait()
		other := r.Mail()
		for range 5000 {
			l.Report(tier.Outcome{})
		}
		if n := r.Mail() - other; n != 1024 {
			t.Errorf("%d reports wait for the loop, want 1024", n)
		}
		let()
		time.Sleep(10 * time.Second)
		before := told.reports.Load()
		if before < 1024 {
			t.Errorf("%d reports were told, want those that waited", before)
		}
		l.Report(tier.Outcome{})
		time.Sleep(10 * time.Second)
		if n := told.reports.Load() - before; n != 1 {
			t.Errorf("of one report when it is quiet again, %d were told", n)
		}
	})
}
