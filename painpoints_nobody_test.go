package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
	"pgregory.net/rapid"
)

func TestNobody_RandomLoadsEvictionsAndCancels_NeverMoreThanTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { rapid.SyncTest(t, budget) })
}

// budget looks at what models weigh in memory, not at what the Manager believes.
func budget(t *rapid.T) {
	names := []string{"a", "b", "c", "d", "e"}
	var models []tier.Model
	for i, name := range names {
		m := model(name, float64(1+i)*0.75)
		m.Runtime = tier.Bytes(rapid.IntRange(0, 2).Draw(t, "runtime")) * tier.GiB / 8
		models = append(models, m)
	}
	scale := &scale{Mover: &tiertest.Mover{OnlyRAM: true, Time: func(tier.Move) time.Duration { return time.Second }}}
	bad := rapid.SampledFrom(names).Draw(t, "bad")
	scale.Fault = func(mv tier.Move) error {
		if mv.Model.Name == bad {
			return errors.New("not this one")
		}
		return nil
	}
	limits := tier.Limits{RAM: tier.Bytes(rapid.IntRange(4, 10).Draw(t, "ram")) * tier.GiB / 2, Swap: tier.None}
	m, err := modeltier.New(modeltier.Config{
		Models: models, Mover: scale, Probe: tiertest.NewProbe(plenty), Limits: limits, Fairness: time.Second, MaxWait: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer func() {
		m.Close()
		wg.Wait()
	}()
	for range rapid.IntRange(1, 40).Draw(t, "requests") {
		name := rapid.SampledFrom(names).Draw(t, "model")
		patience := rapid.SampledFrom([]time.Duration{100 * time.Millisecond, 1500 * time.Millisecond, time.Hour}).Draw(t, "patience")
		use := rapid.SampledFrom([]time.Duration{0, 200 * time.Millisecond, 3 * time.Second}).Draw(t, "use")
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if l, err := m.Acquire(ctx, modeltier.Request{Model: name}); err == nil {
				time.Sleep(use)
				l.Release()
			}
		})
		if rapid.IntRange(0, 3).Draw(t, "unload") == 0 {
			m.MoveTier(context.Background(), rapid.SampledFrom(names).Draw(t, "unloaded"), tier.Storage)
		}
		time.Sleep(rapid.SampledFrom([]time.Duration{0, 50 * time.Millisecond, time.Second}).Draw(t, "pause"))
		if most := scale.most(); most > limits.RAM {
			t.Fatalf("%v were in memory at once, the limit is %v", most, limits.RAM)
		}
		if s := m.Status(); s.RAM.Used > limits.RAM || s.RAM.Peak > limits.RAM {
			t.Fatalf("the account holds %v, and held %v, of %v", s.RAM.Used, s.RAM.Peak, limits.RAM)
		}
	}
	wg.Wait()
	if most := scale.most(); most > limits.RAM {
		t.Fatalf("%v were in memory at once, the limit is %v", most, limits.RAM)
	}
}

func TestNobody_ConstantLoadOnTheResidentModel_OtherIsServedWithinTheBound(t *testing.T) {
	const fairness, longest, load = 2 * time.Second, 700 * time.Millisecond, 6 * time.Second
	for _, clients := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(clients, " clients"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := onlyRAM(model("a", 4), model("b", 4))
				cfg.Fairness = fairness
				r := newRig(t, cfg)
				r.use("a")
				stop := make(chan struct{})
				var wg sync.WaitGroup
				for i := range clients {
					wg.Go(func() {
						for {
							select {
							case <-stop:
								return
							default:
							}
							l := r.get("a")
							time.Sleep(longest - time.Duration(i)*50*time.Millisecond)
							l.Release()
						}
					})
				}
				for i := range 20 {
					time.Sleep(10*time.Second + time.Duration(i)*137*time.Millisecond)
					l := r.get("b")
					if l.Waited() > fairness+longest+load {
						t.Errorf("b waited %v, want %v at most", l.Waited(), fairness+longest+load)
					}
					l.Release()
				}
				close(stop)
				wg.Wait()
			})
		})
	}
}

func TestNobody_OtherRoomComesFreeDuringADrain_ItIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2.5), model("b", 2.5), model("c", 2)))
		leases := map[string]*modeltier.Lease{"a": r.get("a"), "b": r.get("b")}
		c := r.begin("c")
		time.Sleep(10 * time.Second) // one of them drains, and its lease does not end
		again := map[string]*client{"a": r.begin("a"), "b": r.begin("b")}
		drains, other := "a", "b"
		if again["b"].waits() {
			drains, other = "b", "a"
		}
		if !again[drains].waits() {
			t.Fatal("nobody drains")
		}
		again[other].served(0).Release()
		time.Sleep(time.Second)
		leases[other].Release()
		c.served(11*time.Second + 3*time.Second).Release()
		again[drains].served(time.Second).Release() // its drain was called off
		leases[drains].Release()
	})
}

func TestNobody_VictimRevivedDuringDrain_ManyTimes_NobodyHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 4)))
		held := r.get("a")
		b := r.begin("b")
		time.Sleep(3500 * time.Millisecond)
		var revivals []*client
		for range 20 {
			revivals = append(revivals, r.begin("a"))
			time.Sleep(100 * time.Millisecond)
		}
		for i, c := range revivals {
			if !c.waits() {
				t.Errorf("revival %d got a lease while a drains", i)
			}
		}
		held.Release()
		b.served(5500*time.Millisecond + 6*time.Second).Release()
		for i, c := range revivals {
			c.served(2*time.Second - time.Duration(i)*100*time.Millisecond + 6*time.Second + 4500*time.Millisecond).Release()
		}
		r.wantMoves("load a", "unload a", "load b", "unload b", "load a")
	})
}

func TestNobody_OneModelChanges_LeasesOfTheOthersLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 1), model("c", 1)))
		a, c := r.get("a"), r.get("c")
		r.use("b")
		if err := order(t)(r.Remove(t.Context(), "b")).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		changed := model("b", 2)
		changed.Home = tier.RAM
		if err := order(t)(r.HotLoad(t.Context(), changed)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "c"} {
			if m := r.model(name); m.Leases != 1 || m.Tier != tier.RAM || m.Moving {
				t.Errorf("%s: %d leases in %v", name, m.Leases, m.Tier)
			}
		}
		if l := r.begin("b").served(0); l.Model().Size != 2*tier.GiB {
			t.Errorf("b has %v, want the new size", l.Model().Size)
		}
		a.Release()
		c.Release()
		r.wantMoves("load a", "load c", "load b", "unload b", "load b")
	})
}

func TestNobody_PressureRisesDuringALoad_ItYieldsAndComesBack(t *testing.T) {
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

func TestNobody_ModelsTakeTwiceWhatTheySay_TheMachineDoesNotRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, scale := newScaleRig(t, onlyRAM(model("a", 1), model("b", 1), model("c", 1), model("d", 1), model("e", 1)))
		scale.weigh = func(m tier.Model) tier.Bytes { return 2 * m.Size }
		const has = 6 * tier.GiB
		r.memory(8*tier.GiB, has)
		scale.machine = r.probe
		for i := range 40 {
			r.use(fmt.Sprintf("%c", 'a'+(i*3)%5))
			time.Sleep(5 * time.Second)
			mem, _ := r.probe.Memory(t.Context())
			if mem.Available < tier.GiB {
				t.Errorf("request %d: %v are left, want the reserved GiB", i, mem.Available)
			}
		}
		if scale.most() > has {
			t.Errorf("models took %v of %v", scale.most(), has)
		}
		if s := r.Status(); s.Refusals["no_capacity"] != 0 {
			t.Errorf("%d refusals", s.Refusals["no_capacity"])
		}
	})
}

func TestNobody_RequestDuringAMoveFromSwapToRAM_SharesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 4))
		cfg.Limits.Swap = 10 * tier.GiB
		r := newRig(t, cfg)
		r.use("a")
		for _, to := range []tier.Tier{tier.Swap, tier.RAM} {
			job := order(t)(r.MoveTier(t.Context(), "a", to))
			if to == tier.Swap {
				if err := job.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(500 * time.Millisecond)
		r.begin("a").served(1500 * time.Millisecond).Release() // the rest of 2 s
		r.wantMoves("load a", "demote a", "promote a")
	})
}

func TestNobody_EngineKilled_LeasesAreToldAndLaterOnesServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2)))
		told := func(l *modeltier.Lease) bool {
			select {
			case <-l.Done():
				return true
			default:
				return false
			}
		}
		waited, hot, other := r.get("a"), r.get("a"), r.get("b")
		for range 2 { // also where it is told twice
			if err := r.ReportCrash("a", errors.New("signal: killed")); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if !told(waited) || !told(hot) || told(other) {
			t.Errorf("told: %v, %v, and of another model %v", told(waited), told(hot), told(other))
		}
		waited.Release()
		hot.Release()
		for range 2 { // from the loop, and past it
			next := r.get("a")
			if told(next) {
				t.Error("a lease of the model that is loaded again is told of the last one's end")
			}
			next.Release()
		}
		other.Release()
		if told(other) {
			t.Error("a lease that was given back is told")
		}
	})
}

func TestNobody_EngineKilled_StatusIsRightWithoutARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended []string
		cfg := onlyRAM(model("a", 2), model("b", 2))
		cfg.Events.MoveEnded = func(ev modeltier.MoveEvent) { ended = append(ended, fmt.Sprint(ev.Model, " to ", ev.To)) }
		r := newRig(t, cfg)
		r.use("a")
		b := r.get("b")
		for _, name := range []string{"a", "b"} {
			if err := r.ReportCrash(name, errors.New("signal: killed")); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		r.wantAt("a", tier.Storage)
		r.wantUsed(2 * tier.GiB)
		if m := r.model("b"); !m.Moving || m.Leases != 1 {
			t.Errorf("b, which is leased: %+v, want it on its way", m)
		}
		b.Release()
		synctest.Wait()
		r.wantAt("b", tier.Storage)
		r.wantUsed(0)
		if s := r.Status(); s.Evictions != 0 {
			t.Errorf("%d evictions, want none: nobody gave way to anybody", s.Evictions)
		}
		if err := r.ReportCrash("nobody", nil); !errors.Is(err, modeltier.ErrNotFound) {
			t.Errorf("err = %v, want ErrNotFound", err)
		}
		r.use("a")
		synctest.Wait()
		if fmt.Sprint(ended) != "[a to ram b to ram a to storage b to storage a to ram]" {
			t.Errorf("moves: %v", ended)
		}
	})
}

func TestNobody_MachineThatThrashes_NothingIsLoadedUntilItIsCalm(t *testing.T) {
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

func TestNobody_ThreeModelsOnAMachineForTwo_NoneIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 0.3), model("b", 0.3), model("c", 0.3))
		cfg.Limits = tier.Limits{RAM: tier.GiB, Swap: tier.None, Reserved: 128 * tier.MiB}
		r, scale := newScaleRig(t, cfg)
		const has = 850 * tier.MiB
		r.memory(900*tier.MiB, has)
		scale.machine = r.probe
		for i := range 30 {
			r.use(fmt.Sprintf("%c", 'a'+i%3))
		}
		if scale.most() > has-128*tier.MiB {
			t.Errorf("%v of %v were taken", scale.most(), has)
		}
	})
}

func TestNobody_ThirtyColdRequestsAtOnce_AllAreServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		var clients []*client
		for range 30 {
			clients = append(clients, r.begin("a"))
		}
		for _, c := range clients {
			c.served(3 * time.Second).Release()
		}
		r.wantMoves("load a")
	})
}
