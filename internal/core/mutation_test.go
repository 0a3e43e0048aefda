package core

import (
	"errors"
	"fmt"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// scenarios are by the fault that each of them shows: the shortest way to it. What
// fails is mostly Core.Check, which the random walk through the whole Manager
// calls after each of its steps, too.
var scenarios = map[fault]func(b *bench){
	missedRefund: loadFails,
	lateRefund:   loadFails,
	doubleCommit: func(b *bench) { b.load("b") },
	evictionUnderLease: func(b *bench) {
		b.load("a", "b")
		b.plan = func(v *tier.View, need *tier.Need) tier.Plan {
			p := b.toRAM(v, need)
			if b.entry("a").Gate.Leases() == 0 {
				b.entry("a").Gate.Grant() // between the view and the step
			}
			return p
		}
		b.join("c")
		b.step()
	},
	lostWaiter: func(b *bench) {
		b.join("a")
		b.join("a")
		b.step()
		b.finish(Outcome{})
		b.step()
		if n := len(b.granted); n != 2 {
			b.t.Fatalf("%d of 2 waiters are served", n)
		}
	},
}

func loadFails(b *bench) {
	b.join("a")
	b.step()
	b.finish(Outcome{Err: errors.New("the disk said no")})
	b.step()
}

func scenarioBench(t testing.TB) *bench {
	return newBench(t, 10, 0, sized("a", 6), sized("b", 4), sized("c", 6))
}

func TestScenarios_NoFaultPlanted_NothingIsWrong(t *testing.T) {
	for f, scenario := range scenarios {
		t.Run(fmt.Sprint(f), func(t *testing.T) { scenario(scenarioBench(t)) })
	}
}
