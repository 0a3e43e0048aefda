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
