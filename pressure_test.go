package modeltier_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// mappedFiles is a fake mover like tier/mapped: swap takes no memory, and a load to
// swap takes the time of the kept bytes.
func mappedFiles() *tiertest.Mover {
	return &tiertest.Mover{Parts: true, Cold: true, Files: true, Time: func(mv tier.Move) time.Duration {
		read := mv.Keep
		if mv.To == tier.RAM {
			read = mv.Model.Size
		}
		return time.Duration(1.5 * read.GB() * float64(time.Second))
	}}
}

// press sets the level of pressure that the probe reports.
func (r *rig) press(level tier.PressureLevel) {
	m := plenty
	m.Pressure.Level = level
	r.probe.Set(m, nil)
}

// sixOnFour is a library of six models; memory holds one, swap a little more than
// four.
func sixOnFour() modeltier.Config {
	cfg := modeltier.Config{
		Mover: mappedFiles(), MaxWait: 10 * time.Second,
		Limits: tier.Limits{RAM: 3 * tier.GiB, Swap: 9 * tier.GiB},
	}
	for i := range 6 {
		cfg.Models = append(cfg.Models, tier.Model{Name: fmt.Sprint(i), Size: 2 * tier.GiB})
	}
	return cfg
}

// Models that are served from swap without pause can keep pressure high for good. A
// further model is mapped all the same and served like them.
func TestPressure_HighForGood_EveryModelIsServedFromSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sixOnFour())
		for i := range 5 {
			r.get(fmt.Sprint(i))
		}
		if _, _, err := r.UpdateLimits(t.Context(), tier.Limits{RAM: 6 * tier.GiB}); err != nil { // room, but no memory
			t.Fatal(err)
		}
		r.press(tier.PressureHigh)
		time.Sleep(2 * time.Second)
		for range 3 {
			l := r.begin("5").served(0)
			if l.Tier() != tier.Swap || l.Kept() != 0 {
				t.Errorf("served from %v with %v in memory, want swap with none", l.Tier(), l.Kept())
			}
			time.Sleep(time.Second)
			l.Release()
			time.Sleep(time.Minute)
		}
	})
}

// A full swap tier is no reason to refuse: models leave it as without pressure.
func TestPressure_HighAndSwapFull_OneModelLeavesForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{
			Models: []tier.Model{model("a", 3), model("b", 3)}, Mover: &tiertest.Mover{Files: true},
			Limits: tier.Limits{RAM: 2 * tier.GiB, Swap: 4 * tier.GiB}, OptimizeEvery: -1,
		})
		r.use("a")
		r.press(tier.PressureHigh)
		time.Sleep(2 * time.Second)
		r.begin("b").served(4500 * time.Millisecond).Release()
		r.wantMoves("load a", "unload a", "load b")
	})
}

// If pressure calls a load off, the request goes on waiting: the model can be served
// in place at once.
func TestPressure_RisesDuringALoad_WhoWaitsIsServedFromSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := sixOnFour()
		r := newRig(t, cfg)
		waits := r.begin("0")
		time.Sleep(1500 * time.Millisecond)
		if !waits.waits() {
			t.Fatal("the load is done before pressure rises")
		}
		r.press(tier.PressureHigh)
		l := waits.served(2 * time.Second) // the next look at the memory
		if l.Tier() != tier.Swap {
			t.Errorf("served from %v, want swap", l.Tier())
		}
		l.Release()
		if s := r.Status(); s.RAM.Used != 0 || s.RAM.Reserved != 0 {
			t.Errorf("ram: %+v, want nothing in it", s.RAM)
		}
		r.press(tier.PressureLow)
		time.Sleep(30 * time.Second)
		r.use("0")
		if s := r.Status(); s.RAM.Used == 0 {
			t.Error("it does not come to ram when pressure is over")
		}
	})
}

// A model that came to swap while memory was short, or whose promotions fail, is
// served from swap.
func TestAcquire_PromotionsFail_TheModelIsServedFromSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mover := mappedFiles()
		cfg := modeltier.Config{Models: []tier.Model{model("a", 2)}, Mover: mover}
		mover.Fault = func(mv tier.Move) error {
			if mv.To == tier.RAM || mv.Keep > 0 {
				return &tier.CapacityError{Model: "a", Tier: tier.RAM, Reason: "less than was promised"}
			}
			return nil
		}
		r := newRig(t, cfg)
		for range 5 {
			l := r.get("a")
			if l.Tier() != tier.Swap {
				t.Errorf("served from %v, want swap", l.Tier())
			}
			l.Release()
			time.Sleep(10 * time.Second)
		}
	})
}

// The model that is worth least gives way, not the least recently used one: a is
// requested every ten seconds, b was requested twice, the last time just now.
func TestPressure_High_TheModelWorthLeastGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 2), model("b", 2))
		var gave []string
		cfg.Events.Evicted = func(ev modeltier.EvictEvent) { gave = append(gave, ev.Model) }
		r := newRig(t, cfg)
		r.use("b")
		for range 30 {
			r.use("a")
			time.Sleep(10 * time.Second)
		}
		r.use("a")
		time.Sleep(time.Second)
		r.use("b")
		time.Sleep(4 * time.Second)
		r.memory(8*tier.GiB, tier.GiB/2)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if fmt.Sprint(gave) != "[b a]" {
			t.Errorf("%v gave way in this order, want b first", gave)
		}
	})
}

// comesAndGoes makes pressure high for a second of every period until the test ends.
func (r *rig) comesAndGoes(period time.Duration, until chan struct{}) {
	for {
		r.press(tier.PressureHigh)
		time.Sleep(time.Second)
		r.press(tier.PressureLow)
		select {
		case <-until:
			return
		case <-time.After(period - time.Second):
		}
	}
}

// Between two waves of pressure there is time for one or two loads. Each model goes
// first in one gap of three, so none starves; clients only try again. A load that
// takes longer than any gap (a's, in gaps of five seconds) does not block the others.
func TestPressure_ComesAndGoes_EveryModelIsServedInItsTurn(t *testing.T) {
	for period, names := range map[time.Duration]string{
		16 * time.Second: "bc", 18 * time.Second: "abc", 20 * time.Second: "abc", 25 * time.Second: "abc",
	} {
		t.Run(period.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := onlyRAM(model("a", 4), model("b", 3), model("c", 3))
				cfg.Fairness = time.Second
				r := newRig(t, cfg)
				stop := make(chan struct{})
				var wg sync.WaitGroup
				wg.Go(func() { r.comesAndGoes(period, stop) })
				var last [3]time.Time
				var longest [3]time.Duration
				for i := range last {
					last[i] = time.Now()
					wg.Go(func() {
						for {
							select {
							case <-stop:
								return
							case <-time.After(100*time.Millisecond + time.Duration(i)*37*time.Millisecond):
							}
							l, err := r.Acquire(t.Context(), modeltier.Request{Model: "abc"[i : i+1]})
							if err != nil {
								if !errors.Is(err, modeltier.ErrNoCapacity) {
									t.Errorf("%c: %v", "abc"[i], err)
								}
								continue
							}
							longest[i] = max(longest[i], time.Since(last[i]))
							last[i] = time.Now()
							time.Sleep(300 * time.Millisecond)
							l.Release()
						}
					})
				}
				time.Sleep(15 * time.Minute)
				close(stop)
				wg.Wait()
				for _, name := range names {
					i := int(name - 'a')
					if longest[i] = max(longest[i], time.Since(last[i])); longest[i] > 4*period {
						t.Errorf("%c was not served for %v, want %v at most", name, longest[i], 4*period)
					}
				}
			})
		})
	}
}

func TestPressure_High_CallsLoadsOffAndIdleModelsGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 2), model("c", 2)}})
		r.use("a")
		b := r.get("b")
		time.Sleep(time.Minute)
		high := plenty
		high.Pressure = tier.Pressure{HasPSI: true, Full10: 30, Some10: 60, Level: tier.PressureHigh}
		time.AfterFunc(time.Second, func() { r.probe.Set(high, nil) })
		began := time.Now()
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "c"}); !errors.Is(err, modeltier.ErrNoCapacity) {
			t.Errorf("a load when pressure rises: %v, want ErrNoCapacity", err)
		}
		if took := time.Since(began); took > 2500*time.Millisecond {
			t.Errorf("the load gave way after %v", took)
		}
		time.Sleep(5 * time.Second)
		if r.at("a") == tier.RAM {
			t.Error("an idle model stays in ram under high pressure")
		}
		r.wantAt("b", tier.RAM) // leased
		r.use("b")              // and still served
		b.Release()
		r.probe.Set(plenty, nil)
		time.Sleep(time.Minute)
		r.use("c")
	})
}

// Pain point 8.
func TestPressure_SwapIsNoRoom_AndALoadThatThrashesIsCalledOff(t *testing.T) {
	for name, swap := range map[string]tier.Memory{
		"swap on disk":    {SwapTotal: 32 * tier.GiB, SwapFree: 32 * tier.GiB},
		"compressed swap": {CompressedSwapTotal: 32 * tier.GiB, CompressedSwapFree: 32 * tier.GiB},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, onlyRAM(model("a", 3)))
				swap.Total, swap.Available = 8*tier.GiB, 3584*tier.MiB
				r.probe.Set(swap, nil)
				time.Sleep(time.Second)
				r.begin("a").refused(modeltier.ErrNoCapacity, 0)
				r.wantMoves()
			})
		})
	}
	t.Run("the machine begins to swap", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, onlyRAM(model("a", 3)))
			time.Sleep(500 * time.Millisecond) // between two looks at the memory
			a := r.begin("a")
			time.Sleep(2 * time.Second)
			high := plenty
			high.Pressure = tier.Pressure{SwapOut: 64 * tier.MiB, Stalls: 100, Level: tier.PressureHigh}
			r.probe.Set(high, nil)
			a.refused(modeltier.ErrNoCapacity, 2500*time.Millisecond)
			r.wantUsed(0)
			if at := r.mover.At("a"); at != tier.Storage {
				t.Errorf("a is in %v", at)
			}
		})
	})
}

// Pain point 19.
func TestPressure_MemoryIsShort_OnePlanGivesBackWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 1), model("b", 1), model("c", 1), model("d", 1), model("e", 1))
		cfg.Placement = new(optimizer.LRU) // its order of worth is known
		r, scale := newScaleRig(t, cfg)
		r.memory(8*tier.GiB, 7*tier.GiB)
		scale.Probe = r.probe
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			r.use(name)
			time.Sleep(time.Minute)
		}
		gone := func() (names string) {
			for _, mv := range r.mover.Moves() {
				if mv.To == tier.Storage {
					names += mv.Model.Name
				}
			}
			return names
		}
		r.memory(8*tier.GiB, 256*tier.MiB) // the reserve lacks 768 MiB
		if gone() != "a" {
			t.Errorf("%q left, want a", gone())
		}
		time.Sleep(time.Minute)
		r.memory(8*tier.GiB, 0)
		if g := gone(); g != "abc" && g != "acb" {
			t.Errorf("%q left, want a, then b and c at once", g)
		}
		time.Sleep(time.Minute)
		if g := gone(); len(g) != 3 {
			t.Errorf("%q left, though nothing was missing any more", g)
		}
	})
}

func TestPressure_RisesDuringALoad_ItYieldsAndComesBack(t *testing.T) {
	for _, x := range []struct {
		level  tier.PressureLevel
		yields bool
	}{{tier.PressureMedium, false}, {tier.PressureHigh, true}} {
		t.Run(x.level.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, onlyRAM(model("a", 1), model("b", 4)))
				held := r.get("a")
				time.Sleep(time.Second)
				b := r.begin("b")
				time.Sleep(2 * time.Second)
				pressed := plenty
				pressed.Pressure = tier.Pressure{HasPSI: true, Some10: 50, Full10: 20, Level: x.level}
				r.probe.Set(pressed, nil)
				if !x.yields {
					b.served(6 * time.Second).Release()
					return
				}
				b.refused(modeltier.ErrNoCapacity, 2500*time.Millisecond)
				r.wantUsed(tier.GiB)
				r.begin("a").served(0).Release() // what is there is served
				r.probe.Set(plenty, nil)
				time.Sleep(20 * time.Second)
				r.begin("b").served(6 * time.Second).Release()
				held.Release()
			})
		})
	}
}

func TestPressure_MachineThatThrashes_NothingIsLoadedUntilItIsCalm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2)))
		thrash := plenty
		thrash.Pressure = tier.Pressure{SwapOut: 64 * tier.MiB, Refault: 64 * tier.MiB, Stalls: 50, Level: tier.PressureHigh}
		for i := range 61 { // it comes and goes
			r.probe.Set(thrash, nil)
			if i%2 == 1 {
				r.probe.Set(plenty, nil)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			r.begin("b").refused(modeltier.ErrNoCapacity, 0)
		}
		r.wantMoves()
		r.probe.Set(plenty, nil)
		time.Sleep(9 * time.Second)
		r.begin("b").refused(modeltier.ErrNoCapacity, 0)
		time.Sleep(3 * time.Second)
		r.begin("b").served(3 * time.Second).Release()
		r.wantMoves("load b")
	})
}
