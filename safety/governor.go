package safety

import (
	"fmt"
	"time"

	"github.com/modeltier/modeltier/tier"
)

const (
	// calmFor is how long pressure must have been lower before the Governor believes
	// it, one level at a time: the window of the kernel's shortest average.
	calmFor = 10 * time.Second
	// shedEvery is the time that what was given back has to show in the figures
	// before more is asked for.
	shedEvery = 10 * time.Second
	// shedShare of the machine's memory is given back at a time under high pressure:
	// half a GiB on an 8 GB board.
	shedShare = 16
	// slackShare of the reserve is given back beyond what it lacks, so that the next
	// few pages that somebody takes do not start it all again.
	slackShare = 8
)

// Governor turns readings into decisions, so that a figure that rises and falls
// does not make models come and go. It is a small state machine and a plain
// value: Observe returns the next one and does nothing else. The zero Governor
// has seen nothing and takes pressure to be low.
type Governor struct {
	level  tier.PressureLevel
	higher time.Time // when a reading last was at level or above
	asked  time.Time // when bytes were last asked for; zero: never

	// Under high pressure bytes are given back in steps.
	stepping bool          // readings are high
	stepped  time.Time     // when the last step was asked for, or seen to work; zero: never
	figures  tier.Pressure // at that time
}

// Decision is what the Governor makes of a reading.
type Decision struct {
	// Level is the level to go by: it rises at once, and falls by one when readings
	// have been lower for ten seconds.
	Level tier.PressureLevel
	// Changed: it is another level than before.
	Changed bool
	// Admit: models may be admitted. Where not, loads under way yield, too.
	Admit bool
	// Background: moves that nobody waits for may start. They wait until pressure is
	// low and, after bytes were asked for, for ten seconds, so that they do not fill
	// at once what was just emptied.
	Background bool
	// GiveBack is the bytes of memory that models should leave now, beyond those
	// that are leaving already. See Shed for whose.
	GiveBack tier.Bytes
	// Why says it in words, where Changed or GiveBack is set.
	Why string
}

// Observe takes one reading into account. Readings come in the order of now; p is
// as of the reading.
//
// Bytes are asked for in two cases. Where the reserve is not whole, what it
// lacks and an eighth of the reserve, at each reading. And under high pressure, a
// 16th of the memory: when it begins, and every ten seconds that it lasts without
// having fallen to half.
func (g Governor) Observe(now time.Time, m tier.Memory, p Promise) (Governor, Decision) {
	before := g.level
	seen := min(m.Pressure.Level, tier.PressureHigh)
	switch {
	case seen >= g.level:
		g.level, g.higher = seen, now
	case now.Sub(g.higher) >= calmFor:
		g.level, g.higher = g.level-1, now
	}

	var want tier.Bytes
	lack := max(-spare(&p, &m), 0)
	if lack > 0 {
		want = lack.Plus(max(p.Limits.Reserved, 0) / slackShare)
	}
	step := false
	if g, step = g.step(now, seen, m.Pressure); step {
		want = max(want, m.Total/shedShare)
	}
	d := Decision{
		Level:    g.level,
		Changed:  g.level != before,
		Admit:    g.level < tier.PressureHigh,
		GiveBack: max(want.Plus(-max(p.Leaving, 0)), 0),
	}
	if d.GiveBack > 0 {
		g.asked = now
	}
	d.Background = g.level == tier.PressureLow && (g.asked.IsZero() || now.Sub(g.asked) >= calmFor)
	d.Why = why(d, before, lack, step, m.Pressure)
	return g, d
}

// step reports whether a step of bytes is due under high pressure.
func (g Governor) step(now time.Time, seen tier.PressureLevel, p tier.Pressure) (Governor, bool) {
	began := !g.stepping
	g.stepping = seen == tier.PressureHigh
	if !g.stepping || !g.stepped.IsZero() && now.Sub(g.stepped) < shedEvery {
		return g, false
	}
	// The averages of the kernel fall to less than half within ten seconds when
	// nothing stalls any more: then the last step was enough, and the rest is memory
	// of what was.
	works := !began && p.Some10 < g.figures.Some10/2 && p.Full10 <= g.figures.Full10/2
	g.stepped, g.figures = now, p
	return g, !works
}

// why says in words what a decision rests on, where it asks for something.
func why(d Decision, before tier.PressureLevel, lack tier.Bytes, step bool, p tier.Pressure) string {
	switch {
	case d.Changed && d.Level > before:
		return fmt.Sprintf("memory pressure rose from %v to %v: %s", before, d.Level, figures(p))
	case d.Changed:
		return fmt.Sprintf("memory pressure fell from %v to %v: %s", before, d.Level, figures(p))
	case d.GiveBack == 0:
		return ""
	case step:
		return fmt.Sprintf("memory pressure stays %v: %s", d.Level, figures(p))
	}
	return fmt.Sprintf("the memory kept free is %v short", lack)
}
