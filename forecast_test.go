package modeltier_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/modeltiertest"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
)

func TestForecast_TrafficAndSchedules_SaysWhatIsExpectedAndWhatWouldMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := modeltiertest.Start(t, mapping(modeltier.Config{
			OptimizeEvery: -1,
			Schedules:     []optimizer.Schedule{{Hours: office(), Models: []string{"sees"}, Certainty: 0.8}},
		}, model("often", 2), model("once", 3), model("never", 2), vision("sees", 1)))
		use := func(name string) {
			l, err := m.Acquire(t.Context(), modeltier.Request{Model: name})
			if err != nil {
				t.Fatal(err)
			}
			l.Release()
		}
		until(2, 12, 0)
		use("once")
		for range 20 * 6 { // every 10 minutes, for 19 and a half hours
			time.Sleep(10*time.Minute - 15*time.Second)
			use("often")
		}
		until(3, 7, 40)
		if _, err := m.Unload(t.Context(), "often"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		m.Forget()
		f, err := m.Forecast(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]modeltier.ModelForecast)
		for _, x := range f.Models {
			got[x.Name] = x
		}
		if x := got["often"]; !f.Known || x.Requests < 4 || x.Requests > 8 || x.Announced != 0 || !x.Planned || x.To != tier.RAM || x.Reason != tier.ReasonPrefetch || x.Gain <= 0 || !strings.Contains(x.Why, "an hour expected") {
			t.Errorf("%+v", x)
		}
		if x := got["once"]; x.Requests <= 0 || x.Requests > 0.5 {
			t.Errorf("%+v", x)
		}
		if x := got["never"]; x.Requests != 0 || x.Planned {
			t.Errorf("%+v", x)
		}
		// It begins in 19 minutes, and is expected with 0.8 an hour from then on.
		if x := got["sees"]; x.Announced < 0.8*40/60 || x.Announced > 0.8*42/60 || !x.Scheduled.Equal(time.Date(2000, 1, 3, 8, 0, 0, 0, time.UTC)) {
			t.Errorf("%+v", x)
		}
		m.WantNone("load") // it was only asked
		until(3, 7, 57)
		if f, err = m.Forecast(t.Context()); err != nil || f.Models[3].Announced <= 0 || f.Models[3].Announced > 0.8 || !f.Models[3].Planned && f.Models[3].Tier != tier.RAM {
			t.Errorf("%+v, %v", f.Models[3], err)
		}
	})
}

// dumb is a placement of which nothing is known; hang makes its next plan wait.
type dumb struct {
	tier.PlacementFunc
	hang chan struct{}
}

func (d *dumb) Plan(v *tier.View, need *tier.Need) tier.Plan {
	if need == nil && d.hang != nil {
		<-d.hang
	}
	return optimizer.New().Plan(v, need)
}

func TestForecast_PlacementTellsNothingOrHangs_SaysSoInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &dumb{}
		m := modeltiertest.Start(t, mapping(modeltier.Config{Placement: p, OptimizeEvery: -1, Schedules: []optimizer.Schedule{{Hours: optimizer.Hours{From: 0, To: 24 * time.Hour, Zone: time.UTC}, Models: []string{"a"}}}}, model("a", 1)))
		f, err := m.Forecast(t.Context())
		if err != nil || f.Known || f.Models[0].Requests != 1 || f.Models[0].Announced != 1 {
			t.Errorf("%+v, %v", f, err)
		}
		p.hang = make(chan struct{})
		began := time.Now()
		if _, err := m.Forecast(t.Context()); !errors.Is(err, modeltier.ErrStuck) || time.Since(began) != 2*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errLeft)
		if _, err := m.Forecast(ctx); !errors.Is(err, errLeft) && !errors.Is(err, modeltier.ErrStuck) {
			t.Errorf("%v", err)
		}
		close(p.hang)
		synctest.Wait()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if _, err := m.Forecast(t.Context()); !errors.Is(err, modeltier.ErrClosed) {
			t.Errorf("%v", err)
		}
	})
}
