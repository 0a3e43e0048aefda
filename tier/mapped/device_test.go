package mapped

import (
	"testing"
	"time"
)

func testDevice() *device {
	return newDevice(1, "8:1", []way{{true, 2}, {false, 2}, {true, 8}})
}

// measure has the device read n bytes in the way that it picks, at the rates of
// a disk, and returns that way.
func measure(d *device, n int64, perSecond map[string]float64) way {
	w, budget := d.pick(n)
	n = min(n, budget)
	d.learn(w, n, time.Duration(float64(n)/perSecond[w.String()]*1e9))
	return w
}

func TestDevice_TriesEveryWay_ThenTakesTheFastest(t *testing.T) {
	d := testDevice()
	disk := map[string]float64{"populate ×2": 1e9, "read ×2": 3e9, "populate ×8": 2e9}
	tried := map[way]bool{}
	for range 3 {
		tried[measure(d, 1<<30, disk)] = true
	}
	if len(tried) != 3 {
		t.Fatalf("tried %v, want each of three ways once", tried)
	}
	if w, budget := d.pick(1 << 30); w.String() != "read ×2" || budget != stretch {
		t.Errorf("picks %v for %d bytes, want the fastest for a stretch", w, budget)
	}
}

func TestDevice_FastestGetsSlow_IsLeftForTheNext(t *testing.T) {
	d := testDevice()
	disk := map[string]float64{"populate ×2": 1e9, "read ×2": 3e9, "populate ×8": 2e9}
	for range 3 {
		measure(d, 1<<30, disk)
	}
	disk["read ×2"] = 0.5e9
	for range 5 {
		measure(d, 1<<30, disk)
	}
	if w, _ := d.pick(1 << 30); w.String() != "populate ×8" {
		t.Errorf("picks %v, want populate ×8", w)
	}
}

func TestDevice_OneSlowReading_DoesNotDecide(t *testing.T) {
	d := testDevice()
	disk := map[string]float64{"populate ×2": 1e9, "read ×2": 3e9, "populate ×8": 2e9}
	for range 3 {
		measure(d, 1<<30, disk)
	}
	disk["read ×2"] = 2e9
	measure(d, 1<<30, disk)
	if w, _ := d.pick(1 << 30); w.String() != "read ×2" {
		t.Errorf("picks %v, want read ×2", w)
	}
}

func TestDevice_MoreWorkers_HaveToBeWorthIt(t *testing.T) {
	for rate, want := range map[float64]string{1e9: "populate ×2", 1.2e9: "populate ×2", 1.3e9: "populate ×8"} {
		d := testDevice()
		disk := map[string]float64{"populate ×2": 1e9, "read ×2": 0.9e9, "populate ×8": rate}
		for range 3 {
			measure(d, 1<<30, disk)
		}
		if w, _ := d.pick(1 << 30); w.String() != want {
			t.Errorf("with 8 workers at %.1f of the rate of 2 it picks %v", rate/1e9, w)
		}
	}
}

// Ways that were slow once get another chance, though not a large one.
func TestDevice_RatesGrowStale_AreTakenAgain(t *testing.T) {
	d := testDevice()
	disk := map[string]float64{"populate ×2": 1e9, "read ×2": 3e9, "populate ×8": 2e9}
	tried, loaded := map[way]int64{}, int64(0)
	for range 100 {
		w, budget := d.pick(1 << 30)
		n := min(budget, 1<<30)
		d.learn(w, n, time.Duration(float64(n)/disk[w.String()]*1e9))
		tried[w] += n
		loaded += n
	}
	for _, r := range d.rates {
		if r.String() == "read ×2" {
			continue
		}
		if tried[r.way] < 3*trial || tried[r.way] > loaded/20 {
			t.Errorf("%v read %d of %d bytes", r.way, tried[r.way], loaded)
		}
	}
}

func TestDevice_SmallLoads_TellNothing(t *testing.T) {
	d := testDevice()
	for range 10 {
		w, budget := d.pick(telling - 1)
		if w != d.rates[0].way || budget != telling-1 {
			t.Fatalf("picks %v for %d bytes", w, budget)
		}
		d.learn(w, telling-1, time.Second)
	}
	for _, r := range d.rates {
		if r.perSecond != 0 {
			t.Errorf("%v got a rate from a small load", r.way)
		}
	}
}
