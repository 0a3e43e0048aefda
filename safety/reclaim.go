package safety

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/modeltier/modeltier/tier"
)

const (
	// calmFor is how long pressure must have been lower before the Governor believes
	// it, one level at a time: the window of the kernel's shortest average.
	calmFor = 10 * time.Second
	// reclaimEvery is the time that reclaimed bytes have to show in the figures
	// before more is asked for.
	reclaimEvery = 10 * time.Second
	// reclaimShare of the machine's memory is reclaimed at a time under high
	// pressure: half a GiB on an 8 GB board.
	reclaimShare = 16
	// slackShare of the reserve is reclaimed beyond what the reserve lacks, so that
	// the next few pages that are allocated do not start it all again.
	slackShare = 8
	// mediumRefault is how many bytes of files a second are read again where programs
	// push each other's pages out.
	mediumRefault = 32 * tier.MiB
	// readLately is the bytes that our loads have to have read lately to explain that
	// tasks stalled: a GiB counts for 40 s, after which the kernel's average has
	// forgotten them as well.
	readLately = 16 * tier.MiB
	// largestPage is the largest page that a kernel is built with on arm64; all others
	// divide it.
	largestPage = 64 * tier.KiB
)

// Governor turns readings into decisions, with hysteresis: a figure that rises and
// falls does not make models come and go. It is a plain value: Observe returns the
// next state and changes nothing. The zero Governor has seen no reading and takes
// pressure to be low.
type Governor struct {
	level  tier.PressureLevel
	higher time.Time // when a reading last was at level or above
	asked  time.Time // when bytes were last asked for; zero: never

	// What was read, by our loads and again by anyone, each byte counting for less as
	// the kernel's averages forget.
	read     time.Time  // when that was last added to
	loaded   tier.Bytes // Promise.Loaded then
	ours     float64
	refaults float64

	// Under high pressure bytes are reclaimed in steps.
	stepping bool          // readings are high
	stepped  time.Time     // when the last step was asked for, or seen to work; zero: never
	figures  tier.Pressure // at that time
}

// Decision is what the Governor makes of a reading.
type Decision struct {
	// Level is the level to go by: it rises at once, and falls by one when readings
	// have been lower for ten seconds.
	Level tier.PressureLevel
	// Changed: Level differs from the last decision's.
	Changed bool
	// Admit: models may be admitted. If not, loads under way yield, too.
	Admit bool
	// Background: background moves may start. They wait until pressure is low and,
	// after bytes were asked for, for ten seconds, so that they do not fill at once
	// what was just emptied.
	Background bool
	// GiveBack is the bytes of memory that models should leave now, beyond those
	// that are leaving already. Reclaim chooses the models.
	GiveBack tier.Bytes
	// Why gives the figures behind it, if Changed or GiveBack is set.
	Why string
}

// Observe takes one reading into account. Readings come in the order of now; p is
// as of the reading.
//
// The reading's level counts, with two exceptions. While the reserve is seen not to be
// whole, whatever was promised, the level is what stalls alone mean
// (m.Pressure.Stalled), and while our own loads
// explain what was read (m.Pressure.Reading), it is low: to read weights back is the
// price of a change of model.
//
// Bytes are asked for in two cases. If the reserve is not whole: what it lacks and
// an eighth of the reserve, at each reading. Under high pressure: a 16th of the
// memory when it begins, and again every ten seconds until it has fallen to half.
func (g Governor) Observe(now time.Time, m tier.Memory, p Promise) (Governor, Decision) {
	before := g.level
	spare := beyondReserve(&p, &m).Plus(max(m.Dirty, 0))
	lack := max(tier.Bytes(0).Minus(spare), 0)
	short := spare.Plus(max(p.Unseen, 0)).Plus(max(p.Outside, 0)) < 0 // what was promised and is not there yet is no pressure
	g = g.account(now, m.Pressure.Refault, p.Loaded)
	seen := min(m.Pressure.Level, tier.PressureHigh)
	switch {
	case short:
		seen = max(seen, min(m.Pressure.Stalled, tier.PressureHigh))
	case m.Pressure.Reading && g.loadsExplain():
		seen = tier.PressureLow
	}
	switch {
	case seen >= g.level:
		g.level, g.higher = seen, now
	case now.Sub(g.higher) >= calmFor:
		g.level, g.higher = g.level-1, now
	}

	var want tier.Bytes
	if lack > 0 {
		want = lack.Plus(max(p.Limits.Reserved, 0) / slackShare)
	}
	step := false
	if g, step = g.step(now, seen, m.Pressure); step {
		want = max(want, m.Total/reclaimShare)
	}
	d := Decision{
		Level:    g.level,
		Changed:  g.level != before,
		Admit:    g.level < tier.PressureHigh,
		GiveBack: max(want-max(p.Leaving, 0), 0),
	}
	if d.GiveBack > 0 {
		g.asked = now
	}
	d.Background = g.level == tier.PressureLow && (g.asked.IsZero() || now.Sub(g.asked) >= calmFor)
	d.Why = why(d, before, lack, step, m.Pressure)
	return g, d
}

// account adds what was read since the last reading.
func (g Governor) account(now time.Time, refault, loaded tier.Bytes) Governor {
	span := min(max(now.Sub(g.read), 0), calmFor).Seconds() // the first reading is all there is
	keep := math.Exp(-span / calmFor.Seconds())
	g.ours = g.ours*keep + float64(max(loaded-g.loaded, 0))
	g.refaults = g.refaults*keep + float64(max(refault, 0))*span
	g.read, g.loaded = now, loaded
	return g
}

// loadsExplain reports whether our loads read lately, and no more was read again
// than they and programs at peace with each other read.
func (g Governor) loadsExplain() bool {
	return g.ours >= float64(readLately) && g.refaults <= g.ours+float64(mediumRefault)*calmFor.Seconds()
}

// step reports whether a step of bytes is due under high pressure.
func (g Governor) step(now time.Time, seen tier.PressureLevel, p tier.Pressure) (Governor, bool) {
	began := !g.stepping
	g.stepping = seen == tier.PressureHigh
	if !g.stepping || !g.stepped.IsZero() && now.Sub(g.stepped) < reclaimEvery {
		return g, false
	}
	// The kernel's averages fall to less than half within ten seconds when nothing
	// stalls any more: then the last step was enough, and the rest is the average's
	// memory of the time before it.
	works := !began && p.Some10 < g.figures.Some10/2 && p.Full10 <= g.figures.Full10/2
	g.stepped, g.figures = now, p
	return g, !works
}

// why gives the figures behind a decision that changes something.
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

// Reclaim returns moves that give back that many bytes of memory, cheapest loss
// first, and how many bytes they give back at least: fewer than asked for if not
// enough is idle. It takes
//
//  1. kept bytes of models in swap, which are clean and on offer anyway;
//  2. models in ram whose minimum residency (v.Protection) has passed;
//  3. models in ram whose minimum residency has not;
//  4. models in swap that cannot be divided, such as frozen engines: what they
//     have in memory is all that saves them a start.
//
// Within each, cheaper orders the victims, as for slices.SortFunc over indexes of
// v.Library; nil: least recently used first. Models under lease, with waiters,
// pinned, moving or stuck are never named (see tier.View.Evictable). A divisible
// model gives no more than is asked for, in whole pages of any machine (64 KiB), as
// less may free nothing. A model goes to swap if v.Room has room for it there, else
// to storage; so does one of the last kind.
//
// Reclaim is a pure function of the view; the view's reservations count as bytes
// that stay.
func Reclaim(v *tier.View, bytes tier.Bytes, cheaper func(a, b int) int) ([]tier.Step, tier.Bytes) {
	if cheaper == nil {
		cheaper = func(a, b int) int { return v.States[a].LastUse.Compare(v.States[b].LastUse) }
	}
	class := func(i int) int {
		switch s := &v.States[i]; {
		case s.Tier == tier.Swap && s.Divisible:
			return 1
		case s.Tier == tier.Swap:
			return 4
		case v.Protection.MinResidency > 0 && v.Now.Sub(s.Since) < v.Protection.MinResidency:
			return 3
		}
		return 2
	}
	var victims []int
	for i := range v.States {
		if v.Evictable(i) && (v.States[i].Tier == tier.RAM || v.States[i].Kept > 0) {
			victims = append(victims, i)
		}
	}
	slices.SortStableFunc(victims, func(a, b int) int {
		return cmp.Or(cmp.Compare(class(a), class(b)), cheaper(a, b))
	})

	var steps []tier.Step
	var given tier.Bytes
	swap := v.Room[tier.Swap]
	for _, i := range victims {
		if given >= bytes {
			break
		}
		step, freed, grows := reclaimFrom(v, i, bytes-given, swap)
		steps = append(steps, step)
		given = given.Plus(freed)
		swap -= grows
	}
	return steps, given
}

// reclaimFrom returns the move by which model i gives back bytes, or as much as it
// has, what the move frees in memory, and what it adds to swap.
func reclaimFrom(v *tier.View, i int, bytes, swap tier.Bytes) (step tier.Step, freed, grows tier.Bytes) {
	m, s := v.Library.At(i), &v.States[i]
	present := m.Size
	if s.Tier == tier.Swap {
		present = min(s.Kept, m.Size)
	}
	grows = present
	if s.Divisible {
		grows = min(present, bytes.Plus(largestPage-1)/largestPage*largestPage)
	}
	step.Reason = tier.ReasonPressure
	step.Move = tier.Move{Model: *m, From: s.Tier, To: tier.Swap, Keep: present - grows, Leave: s.Left}
	step.Why = fmt.Sprintf("memory pressure: %v of an idle model", grows)
	if grows <= swap && (s.Divisible || s.Tier != tier.Swap) {
		return step, grows, grows
	}
	step.To, step.Keep, step.Leave = tier.Storage, 0, 0
	step.Why = "memory pressure: an idle model that swap cannot take out of memory"
	return step, v.Footprint(i)[tier.RAM], 0
}
