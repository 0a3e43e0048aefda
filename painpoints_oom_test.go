package modeltier_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

func TestScenarios_Ollama_Room(t *testing.T) {
	scenario(t, "ollama/TestSchedUpdateFreeSpace", func(t *testing.T) {
		a := model("a", 1)
		a.Runtime = tier.GiB / 4
		r := newRig(t, onlyRAM(a, model("b", 2)))
		r.use("a")
		r.use("b")
		s := r.Status()
		if used := tier.GiB + tier.GiB/4 + 2*tier.GiB; s.RAM.Charged != used || s.RAM.Room != 5*tier.GiB-used || s.RAM.Models != 2 {
			t.Errorf("%+v, want %v charged and the rest of 5 GiB free", s.RAM, used)
		}
		r.memory(8*tier.GiB, 2*tier.GiB) // others take their part
		if s := r.Status(); s.RAM.Room != tier.GiB {
			t.Errorf("room for %v, want 1 GiB: 2 less the reserved one", s.RAM.Room)
		}
	})
	scenario(t, "ollama/TestSchedFindRunnerToUnload idle before busy", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 2)))
		r.use("b")
		a := r.get("a") // later, and busy
		r.begin("c").served(3 * time.Second).Release()
		a.Release()
		r.wantMoves("load b", "load a", "unload b", "load c")
	})
	scenario(t, "ollama/TestSchedFindRunnerToUnload all busy: the first that ends", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2), model("b", 2), model("c", 2)))
		a, b := r.get("a"), r.get("b")
		c := r.begin("c")
		time.Sleep(2 * time.Second)
		b.Release()
		c.served(2*time.Second + 3*time.Second).Release()
		a.Release()
		r.wantMoves("load a", "load b", "unload b", "load c")
	})
	scenario(t, "ollama/TestSchedNeedsReload nothing that a request says makes a model be loaded again", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		for p := modeltier.Balanced; p <= modeltier.Quality; p++ {
			for _, background := range []bool{false, true} {
				r.beginWith(modeltier.Request{Model: "a", Priority: p, Background: background, Deadline: time.Minute, Explain: true})
			}
		}
		time.Sleep(time.Minute)
		r.wantMoves("load a")
	})
	scenario(t, "ollama/TestSchedLlamaServerEvictsWhenVRAMInsufficient", func(t *testing.T) {
		r, scale := newScaleRig(t, slowUnload(onlyRAM(model("a", 3), model("b", 3)), 2*time.Second))
		r.use("a")
		r.begin("b").served(2*time.Second + 4500*time.Millisecond).Release() // one after the other
		if scale.most() != 3*tier.GiB {
			t.Errorf("%v were in memory at once", scale.most())
		}
	})
	scenario(t, "ollama/FitsAlongside", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3), model("b", 2)))
		r.use("a")
		r.begin("b").served(3 * time.Second).Release()
		r.wantMoves("load a", "load b")
	})
	scenario(t, "ollama/PredictionUsesTotalParallelContext runtime bytes count", func(t *testing.T) {
		b := model("b", 2)
		b.Runtime = tier.MiB
		r := newRig(t, onlyRAM(model("a", 3), b))
		r.use("a")
		r.use("b")
		r.wantMoves("load a", "unload a", "load b")
	})
	scenario(t, "ollama/ExplicitPartialNumGPUSkips nobody gets around the guard", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 3)))
		r.memory(8*tier.GiB, 3*tier.GiB)
		if _, err := r.MoveTier(t.Context(), "a", tier.RAM); !errors.Is(err, modeltier.ErrNoCapacity) {
			t.Errorf("its owner's order: %v, want ErrNoCapacity", err)
		}
		r.wantMoves()
	})
	for i, x := range []struct {
		machine, container tier.Bytes // available
		fits               bool
	}{
		{6, 6, true}, {6, 3, false}, {3, 6, false}, {4, 4, true}, {8, 4, true}, {0, 8, false},
	} {
		scenario(t, fmt.Sprintf("ollama/TestAvailableMemoryForLoadUsesWorstSharedMemoryMeasurement case %d", i+1), func(t *testing.T) {
			r := newRig(t, onlyRAM(model("a", 2.25)))
			r.memory(8*tier.GiB, min(x.machine, x.container)*tier.GiB) // what a probe tells of the two
			if x.fits {
				r.begin("a").served(3375 * time.Millisecond).Release()
			} else {
				r.begin("a").refused(modeltier.ErrNoCapacity, 0)
			}
		})
	}
}

func TestScenarios_Ollama_OutOfMemory(t *testing.T) {
	noMemory := &tier.CapacityError{Tier: tier.RAM, Need: 2 * tier.GiB, Reason: "the device has no memory in one piece"}
	scenario(t, "ollama/TestSchedLoadCrashTriggersEvictAllAndRetry", func(t *testing.T) {
		cfg := onlyRAM(model("a", 1), model("b", 1), model("c", 1))
		r := newRig(t, cfg)
		r.use("a")
		held := r.get("b")
		tries := 0
		r.mover.Fault = func(mv tier.Move) error {
			if mv.Model.Name == "c" {
				if tries++; tries == 1 {
					return noMemory
				}
			}
			return nil
		}
		r.begin("c").served(750*time.Millisecond + 1500*time.Millisecond).Release()
		r.wantMoves("load a", "load b", "load c", "unload a", "load c")
		held.Release()
	})
	scenario(t, "ollama/TestSchedLoadCrashTriggersEvictAllAndRetry once and no more", func(t *testing.T) {
		r := newRig(t, doomed(onlyRAM(model("a", 1), model("c", 1)), map[string]error{"c": noMemory}))
		r.use("a")
		r.begin("c").refused(modeltier.ErrNoCapacity, 2*750*time.Millisecond)
		r.wantMoves("load a", "load c", "unload a", "load c")
		r.wantUsed(0)
	})
	scenario(t, "ollama/NoOtherModelsFailsFast", func(t *testing.T) {
		r := newRig(t, doomed(onlyRAM(model("c", 1)), map[string]error{"c": noMemory}))
		r.begin("c").refused(modeltier.ErrNoCapacity, 750*time.Millisecond)
		r.wantMoves("load c")
	})
	scenario(t, "ollama/NonOOMWithOtherModelsFailsFast", func(t *testing.T) {
		broken := errors.New("not a model")
		r := newRig(t, doomed(onlyRAM(model("a", 1), model("c", 1)), map[string]error{"c": broken}))
		r.use("a")
		r.begin("c").refused(broken, 750*time.Millisecond)
		r.wantMoves("load a", "load c")
	})
	scenario(t, "ollama/OOMReducesAutomaticContext a smaller model answers who lets us choose", func(t *testing.T) {
		for _, req := range []modeltier.Request{{Preferred: "big", Fallback: true}, {Priority: modeltier.Quality}} {
			r := newRig(t, onlyRAM(model("big", 4), model("small", 0.5)))
			time.Sleep(500 * time.Millisecond)
			// Not known before the next look: big is chosen, and refused at admission.
			r.probe.Set(tier.Memory{Total: 8 * tier.GiB, Available: 2 * tier.GiB}, nil)
			l := r.beginWith(req).served(750 * time.Millisecond)
			if l.Model().Name != "small" {
				t.Errorf("%s answers, want small", l.Model().Name)
			}
			r.wantMoves("load small")
		}
	})
	scenario(t, "ollama/KeepsExplicitContext who names a model gets that or an error", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("big", 4), model("small", 0.5)))
		r.memory(8*tier.GiB, 2*tier.GiB)
		r.begin("big").refused(modeltier.ErrNoCapacity, 0)
		r.wantMoves()
	})
	scenario(t, "ollama/TestSchedRuntimeOOMExpiresLoadedRunners", func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 1), model("b", 1), model("c", 1)))
		r.use("a")
		held := r.get("b")
		time.Sleep(time.Minute)
		killed := plenty
		killed.Pressure = tier.Pressure{OOMKills: 1, Level: tier.PressureHigh}
		r.probe.Set(killed, nil)
		time.Sleep(1500 * time.Millisecond)
		r.wantAt("a", tier.Storage)
		r.wantAt("b", tier.RAM)
		held.Release()
		r.begin("c").refused(modeltier.ErrNoCapacity, 0)
		calm := plenty
		calm.Pressure.OOMKills = 1
		r.probe.Set(calm, nil)
		time.Sleep(time.Minute)
		r.use("c")
	})
}
