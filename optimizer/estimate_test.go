package optimizer

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

func TestFastLog_AnyPositive_WithinStatedError(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.Float64Range(1e-300, 1e300).Draw(t, "x")
		if got, want := fastLog(x), math.Log(x); math.Abs(got-want) > 1e-5 {
			t.Fatalf("fastLog(%g) = %g, want %g", x, got, want)
		}
	})
	for x := 0.5; x < 3; x += 1e-4 {
		if got, want := fastLog(x), math.Log(x); math.Abs(got-want) > 1e-5 {
			t.Fatalf("fastLog(%g) = %g, want %g", x, got, want)
		}
	}
}

func TestFade_AnyAge_WithinStatedError(t *testing.T) {
	for x := 0.0; x < 100; x += 1e-3 {
		if got, want := fade(x), math.Exp(-x); math.Abs(got-want) > 1e-8 {
			t.Fatalf("fade(%g) = %g, want %g", x, got, want)
		}
	}
}

func TestUse_OfOneModel_StaysWithinOneKiB(t *testing.T) {
	if n := unsafe.Sizeof(use{}); n > 1024 {
		t.Fatalf("what is remembered of a model takes %d bytes, want 1024 at most", n)
	}
}

// loaded tells a placement that a model was loaded at so many seconds for a GB.
func loaded(l *Learned, m tier.Model, pace float64) {
	took := time.Duration(pace * float64(m.Size))
	l.Moved([]tier.Moved{{Move: tier.Move{Model: m, To: tier.RAM}, Bytes: m.Size, Took: took}})
}

func TestPredict_AfterFiveMoves_IsOffByAFifthAtMostThoughTwoWentWrong(t *testing.T) {
	dice := rand.New(rand.NewPCG(9, 9))
	m := tier.Model{Name: "a", Size: 2e9}
	l := New()
	for k := range 5 {
		pace := 0.5 * math.Exp(0.1*dice.NormFloat64())
		if k == 1 || k == 3 {
			pace *= 10 // the disk was busy
		}
		loaded(l, m, pace)
	}
	took, lo, hi := l.Predict(&m, tier.Storage, tier.RAM, m.Size)
	if off := took.Seconds()/1.0 - 1; math.Abs(off) > 0.2 || lo > time.Second || hi < time.Second {
		t.Errorf("%v, from %v to %v; want about 1s", took, lo, hi)
	}
}

// No request came for the model and no plan was made: it was ordered to ram.
func TestMoved_OfAModelThatNobodyAskedFor_TellsThePaceOfTheDevice(t *testing.T) {
	l := New()
	for range 5 {
		loaded(l, tier.Model{Name: "a", Size: 2e9}, 0.5)
	}
	other := tier.Model{Name: "b", Size: 4e9}
	if took, _, _ := l.Predict(&other, tier.Storage, tier.RAM, other.Size); math.Abs(took.Seconds()-2) > 0.2 {
		t.Errorf("%v, want about 2s", took)
	}
}

// engine is what a start of it takes: a fixed time, and a time for each byte that is
// not cached.
type engine struct {
	fixed time.Duration
	each  float64 // nanoseconds for a byte
	tells bool    // when all bytes are read
}

// starts tells a placement of a start that had to read so many bytes, and took by
// noise more or less than the engine's time.
func (e engine) starts(l *Learned, m tier.Model, reads tier.Bytes, noise float64) {
	moved := tier.Moved{Move: tier.Move{Model: m, To: tier.RAM}, Bytes: reads}
	read := time.Duration(e.each * float64(reads) * noise)
	moved.Took = read + time.Duration(float64(e.fixed)*noise)
	if e.tells {
		moved.Read = max(read, 1)
	}
	l.Moved([]tier.Moved{moved})
}

func (e engine) takes(reads tier.Bytes) time.Duration {
	return e.fixed + time.Duration(e.each*float64(reads))
}

func TestPredict_AfterThreeStartsOfAnEngine_IsWithinAFifth(t *testing.T) {
	a, b := tier.Model{Name: "a", Size: 2e9}, tier.Model{Name: "b", Size: 7e9}
	cold, cached := a.Size, tier.Bytes(0)
	for name, c := range map[string]struct {
		engine
		reads []tier.Bytes
		only  bool // starts like those are to be predicted: others cannot be
	}{
		"cold, and it tells when all is read": {engine{3 * time.Second, 1, true}, []tier.Bytes{cold, cold, cold}, false},
		"cold, then cached":                   {engine{3 * time.Second, 1, false}, []tier.Bytes{cold, cached, cached}, false},
		"cached, then cold":                   {engine{3 * time.Second, 1, false}, []tier.Bytes{cached, cold, cold}, false},
		"cached, cold, partly cached":         {engine{500 * time.Millisecond, 0.4, false}, []tier.Bytes{cached, cold, cold / 2}, false},
		"no fixed time":                       {engine{0, 1, true}, []tier.Bytes{cold, cold, cold / 3}, false},
		"next to no time for bytes":           {engine{5 * time.Second, 0.01, false}, []tier.Bytes{cold, cached, cold}, false},
		"cached alone":                        {engine{2 * time.Second, 1, false}, []tier.Bytes{cached, cached, cached}, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := New()
			for i, reads := range c.reads {
				c.starts(l, a, reads, []float64{1, 1.04, 0.97}[i])
			}
			for _, m := range []tier.Model{a, b} {
				for _, reads := range []tier.Bytes{0, m.Size / 2, m.Size} {
					if c.only && reads > 0 {
						continue
					}
					got, low, high := l.Predict(&m, tier.Storage, tier.RAM, reads)
					want := c.takes(reads)
					if off := math.Abs(got.Seconds() - want.Seconds()); off > 0.2*want.Seconds()+1e-6 || low > got || high < got {
						t.Errorf("%s, %v to read: %v (%v to %v), want %v", m.Name, reads, got, low, high, want)
					}
				}
			}
		})
	}
}

// The device has measured others since, of which each is ten times as fast.
func TestPredict_SlowEngineAmongFastOnes_IsWithinAFifth(t *testing.T) {
	a, b := tier.Model{Name: "a", Size: 2e9}, tier.Model{Name: "b", Size: 2e9}
	slow, fast := engine{8 * time.Second, 2, true}, engine{800 * time.Millisecond, 0.2, true}
	l := New()
	for range 3 {
		slow.starts(l, a, a.Size, 1)
	}
	for range sampled {
		fast.starts(l, b, b.Size, 1)
	}
	for _, reads := range []tier.Bytes{0, a.Size} {
		got, _, _ := l.Predict(&a, tier.Storage, tier.RAM, reads)
		if want := slow.takes(reads); math.Abs(got.Seconds()/want.Seconds()-1) > 0.2 {
			t.Errorf("%v to read: %v, want %v", reads, got, want)
		}
	}
}

// What was learned of the split outlives measurements that cannot tell it.
func TestPredict_SplitOnceLearned_IsKept(t *testing.T) {
	a := tier.Model{Name: "a", Size: 2e9}
	e := engine{fixed: 3 * time.Second, each: 1}
	l := New()
	for _, reads := range []tier.Bytes{0, a.Size, a.Size, a.Size, a.Size, a.Size, a.Size, a.Size} {
		e.starts(l, a, reads, 1)
	}
	if got, _, _ := l.Predict(&a, tier.Storage, tier.RAM, 0); math.Abs(got.Seconds()-3) > 0.6 {
		t.Errorf("a cached start is expected to take %v, want about 3s", got)
	}
}

// Two movers: an engine that takes long to start, and files.
func TestPredict_ModelOfAnotherMover_GoesByThatMoversPaceAlone(t *testing.T) {
	slow, fast := engine{8 * time.Second, 2, true}, engine{0, 0.2, true}
	l := New()
	moved := tier.Model{Name: "m", Size: 2e9, Mover: "files"}
	for i := range 2 * sampled {
		slow.starts(l, tier.Model{Name: "a", Size: 2e9, Mover: "engine"}, tier.Bytes(i%2)*2e9, 1)
		fast.starts(l, tier.Model{Name: "b", Size: 2e9, Mover: "files"}, 2e9, 1)
		fast.starts(l, moved, 2e9, 1)
	}
	restarted := New()
	state, err := l.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if err := restarted.UnmarshalBinary(state); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*Learned{"at once": l, "after a restart": restarted} {
		want := func(m tier.Model, from engine) {
			t.Helper()
			got, _, _ := l.Predict(&m, tier.Storage, tier.RAM, m.Size)
			if want := from.takes(m.Size); math.Abs(got.Seconds()/want.Seconds()-1) > 0.2 {
				t.Errorf("%s: %s by %q: %v, want %v", name, m.Name, m.Mover, got, want)
			}
		}
		want(tier.Model{Name: "new", Size: 1e9, Mover: "engine"}, slow)
		want(tier.Model{Name: "new", Size: 1e9, Mover: "files"}, fast)
		want(moved, fast)
		moved := moved
		moved.Mover = "engine" // it was reconfigured: its own moves tell nothing any more
		want(moved, slow)
	}
}
