package optimizer

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

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

// Nobody asked for the model and no plan was made: it was ordered to ram.
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
