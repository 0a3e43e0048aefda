package modeltier_test

import (
	"encoding/json"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
)

// listener notes the last hint.
type listener struct {
	*optimizer.Learned
	last atomic.Value
}

type heard struct {
	model       string
	probability float64
	within      time.Duration
}

// Hint implements tier.Hinter.
func (l *listener) Hint(model string, probability float64, within time.Duration, _ time.Time) {
	l.last.Store(heard{model, probability, within})
}

func TestWire_Hint_ReachesThePlacementOrSaysWhyNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &listener{Learned: optimizer.New()}
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}, Placement: l})
		for _, c := range []struct {
			hint, code string
			want       heard
		}{
			{`{"model_name": "a"}`, "", heard{"a", 1, time.Minute}},
			{`{"model_name": "a", "probability": 0.25, "within_s": 1.5}`, "", heard{"a", 0.25, 1500 * time.Millisecond}},
			{`{}`, "invalid_request", heard{}},
			{`{"model_name": "nobody"}`, "not_found", heard{}},
			{`{"model_name": "a", "probability": 0}`, "invalid_request", heard{}},
			{`{"model_name": "a", "probability": 1.5}`, "invalid_request", heard{}},
			{`{"model_name": "a", "within_s": 1e300}`, "invalid_request", heard{}},
			{`{"model_name": "a", "within_s": -1}`, "invalid_request", heard{}},
			{`{"model_name": "a", "soon": true}`, "invalid_request", heard{}},
		} {
			var answer struct{ Status, Code string }
			if err := json.Unmarshal(r.HandleRequest(t.Context(), []byte(`{"hint": `+c.hint+`}`)), &answer); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			switch {
			case answer.Code != c.code || (answer.Status == "hint_taken") != (c.code == ""):
				t.Errorf("%s: %+v, want code %q", c.hint, answer, c.code)
			case c.code == "" && l.last.Load() != c.want:
				t.Errorf("%s: heard %+v", c.hint, l.last.Load())
			}
		}
	})
}
