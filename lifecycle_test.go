package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/safety"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

func TestNew_HomesInRAMAndSwap_AreBroughtThereAsFarAsThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		homes := func(name string, gb float64, home tier.Tier) tier.Model {
			m := model(name, gb)
			m.Home = home
			return m
		}
		r := newRig(t, modeltier.Config{Models: []tier.Model{
			homes("gpt2-small", 0.5, tier.RAM), homes("gpt2-medium", 1.5, tier.RAM), homes("gpt2-large", 3, tier.RAM),
			homes("bert-large", 1.3, tier.RAM), homes("gpt-j-6b", 6, tier.Swap), homes("llama-7b", 7, tier.Swap),
		}})
		time.Sleep(time.Minute)
		for name, want := range map[string]tier.Tier{
			"gpt2-small": tier.RAM, "gpt2-medium": tier.RAM, "gpt2-large": tier.RAM,
			"bert-large": tier.Storage, "gpt-j-6b": tier.Swap, "llama-7b": tier.Storage,
		} {
			r.wantAt(name, want)
		}
	})
}

func TestNew_CallerChangesItsModelsLater_ManagerKeepsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine := model("a", 1)
		mine.Capabilities, mine.Labels = []string{"embeddings"}, map[string]string{"language": "fr"}
		hot := mine
		hot.Name = "b"
		r := newRig(t, modeltier.Config{Models: []tier.Model{mine}})
		if _, err := r.HotLoad(t.Context(), hot); err != nil {
			t.Fatal(err)
		}
		mine.Capabilities[0] = "nothing"
		mine.Labels["language"] = "none"
		req := modeltier.Request{Capabilities: []string{"embeddings"}, Constraints: []tier.Constraint{{Label: "language", Op: "=", Value: "fr"}}}
		for _, name := range []string{"a", "b"} {
			l := r.get(name)
			if m := l.Model(); m.Capabilities[0] != "embeddings" || m.Labels["language"] != "fr" {
				t.Errorf("%s is now %q, %q", name, m.Capabilities, m.Labels)
			}
			l.Release()
		}
		if _, err := r.Select(req); err != nil {
			t.Error(err)
		}
	})
}

// overlay is a probe that reads memory through another.
type overlay struct {
	tier.MemoryProbe
	under tier.MemoryProbe
}

func (o *overlay) Over(bytes tier.MemoryProbe) bool {
	if o.under != nil {
		return false
	}
	o.under = bytes
	return true
}

func TestNew_ProbeThatIsAnOverlay_LiesOverOneThatKnowsContainers(t *testing.T) {
	o := &overlay{MemoryProbe: tiertest.NewProbe(plenty)}
	for range 2 { // the second time it has one
		m, err := modeltier.New(modeltier.Config{Probe: o})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if _, ok := o.under.(*safety.Probe); !ok {
			t.Fatalf("it lies over %T", o.under)
		}
	}
}

// Pain point 22.
func TestNew_TwoManagersInOneProcess_ShareNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := newRig(t, onlyRAM(model("a", 2)))
		small := onlyRAM(model("a", 2), model("b", 1))
		small.Limits.RAM = 2 * tier.GiB
		two := newRig(t, small)
		one.use("a")
		two.wantAt("a", tier.Storage)
		two.use("a")
		two.use("b")
		one.wantAt("a", tier.RAM)
		if err := two.Close(); err != nil {
			t.Error(err)
		}
		one.begin("a").served(0).Release()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errLeft)
		if _, err := one.Acquire(ctx, modeltier.Request{Model: "a"}); !errors.Is(err, errLeft) {
			t.Errorf("err = %v, want the context's cause", err)
		}
	})
}

// Pain point 22.
func TestImport_DoesNothing(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "examples" || d.Name() == "benchmarks" || d.Name() == "integrations" || path != "." && strings.HasPrefix(d.Name(), ".")):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files++
		for _, spec := range file.Imports {
			if p := spec.Path.Value; p == `"os/signal"` || p == `"expvar"` || p == `"net/http/pprof"` {
				t.Errorf("%s imports %s", path, p)
			}
		}
		for _, decl := range file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s does something when it is imported", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Errorf("only %d files were looked at", files)
	}
}

func TestHotLoad_NewModel_IsServedAndRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 4)}})
		r.use("a")
		m := model("new", 2)
		m.Home = tier.RAM
		job, err := r.HotLoad(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.HotLoad(t.Context(), m); !errors.Is(err, modeltier.ErrExists) {
			t.Errorf("second: err = %v, want ErrExists", err)
		}
		if err := job.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantAt("new", tier.RAM)
		r.use("new")
		job, err = r.Remove(t.Context(), "new")
		if err != nil {
			t.Fatal(err)
		}
		if err := job.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "new"}); !errors.Is(err, modeltier.ErrNotFound) {
			t.Errorf("err = %v, want ErrNotFound", err)
		}
	})
}

func TestHotLoad_BrokenFile_IsRefusedAtOnceAndChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{})
		for name, content := range map[string]string{"truncated.gguf": "GGUF\x03\x00\x00", "page.gguf": "<html>not found</html>", "empty.bin": "", "short.safetensors": "\x10"} {
			path := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := r.HotLoad(t.Context(), tier.Model{Name: name, Path: path, Size: tier.GiB})
			if _, ok := errors.AsType[*hotload.FileError](err); !ok {
				t.Errorf("%s: %v", name, err)
			}
			if len(tier.Suggestions(err)) == 0 {
				t.Errorf("%s: nothing is suggested", name)
			}
		}
		for s := range r.Models() {
			t.Errorf("%s is in the library", s.Name)
		}
	})
}

func TestHotLoad_Cancelled_LeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{})
		m := model("new", 2)
		m.Home = tier.RAM
		job, err := r.HotLoad(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		job.Cancel(errors.New("changed my mind"))
		if err := job.Wait(t.Context()); err == nil {
			t.Error("the job succeeded")
		}
		if s := r.Status(); len(s.Models) != 0 || s.RAM.Used != 0 {
			t.Errorf("left: %+v %+v", s.Models, s.RAM)
		}
	})
}

// A hot load has no deadline, and nothing can make room for this one.
func TestHotLoad_MemoryCannotBeReadAnyMore_EndsAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", 4)
		a.Pinned = true
		r := newRig(t, modeltier.Config{Models: []tier.Model{a}, Limits: tier.Limits{RAM: 5 * tier.GiB, MaxModel: tier.Unlimited}})
		use := make(chan struct{})
		go func() { defer close(use); r.use("a") }()
		time.Sleep(time.Second)
		r.probe.Set(tier.Memory{}, errors.New("no such file"))
		<-use // no reading shows what its load moved
		h := model("h", 3)
		h.Home = tier.RAM
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := order(t)(r.HotLoad(t.Context(), h)).Wait(ctx); !errors.Is(err, modeltier.ErrNoCapacity) {
			t.Errorf("the hot load ended with %v, want ErrNoCapacity", err)
		}
	})
}

// Pain point 18.
func TestHotLoad_ModelsComeAndGo_TheOthersAreNotTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, slowUnload(onlyRAM(model("a", 2), model("b", 1)), time.Second))
		l := r.get("a")
		r.use("b")
		c := model("c", 1)
		c.Home = tier.RAM
		removal := order(t)(r.Remove(t.Context(), "b"))
		synctest.Wait() // b is on its way out
		for _, j := range []*modeltier.Job{removal, order(t)(r.HotLoad(t.Context(), c))} {
			if err := j.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if _, _, err := r.UpdateLimits(t.Context(), tier.Limits{RAM: 4 * tier.GiB}); err != nil {
			t.Error(err)
		}
		if m := r.model("a"); m.Leases != 1 || m.Tier != tier.RAM {
			t.Errorf("a has %d leases in %v, want the one in ram", m.Leases, m.Tier)
		}
		r.begin("a").served(0).Release()
		l.Release()
		r.wantMoves("load a", "load b", "unload b", "load c")
		r.wantUsed(3 * tier.GiB)
	})
}

// A model cannot be moved before its hot load is done: a load that fails removes the
// model and what was acknowledged for it.
func TestMoveTier_HotLoadWaitsForRoom_IsInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 4)))
		a := r.get("a")
		x := model("x", 2)
		x.Home = tier.RAM
		load := order(t)(r.HotLoad(t.Context(), x))
		if _, err := r.MoveTier(t.Context(), "x", tier.Storage); !errors.Is(err, modeltier.ErrInUse) {
			t.Errorf("%v, want ErrInUse", err)
		}
		a.Release()
		if err := load.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		r.wantAt("x", tier.RAM)
	})
}

func TestMoveTier_LeasedModel_IsInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}})
		l := r.get("a")
		if _, err := r.MoveTier(t.Context(), "a", tier.Storage); !errors.Is(err, modeltier.ErrInUse) {
			t.Errorf("err = %v, want ErrInUse", err)
		}
		if _, err := r.Remove(t.Context(), "a"); !errors.Is(err, modeltier.ErrInUse) {
			t.Errorf("err = %v, want ErrInUse", err)
		}
		l.Release()
		job, err := r.MoveTier(t.Context(), "a", tier.Swap)
		if err != nil {
			t.Fatal(err)
		}
		if err := job.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantAt("a", tier.Swap)
		if s := r.Status(); s.Models[0].Home != tier.Swap || s.Swap.Charged != 2*tier.GiB || s.RAM.Charged != 0 {
			t.Errorf("%+v %+v %+v", s.Models[0], s.RAM, s.Swap)
		}
	})
}

// If the model is in the target tier already, only its home changes; leases on it
// continue.
func TestMoveTier_HomeChangesInPlace_NextLeaseShowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Limits: tier.Limits{RAM: 4 * tier.GiB}})
		held := r.get("a")
		if held.Tier() != tier.RAM || held.Model().Home != tier.Storage {
			t.Fatalf("a is in %v, its home is %v", held.Tier(), held.Model().Home)
		}
		job, err := r.MoveTier(t.Context(), "a", tier.RAM)
		if err != nil {
			t.Fatal(err)
		}
		if err := job.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		later := r.get("a")
		if got := later.Model().Home; got != tier.RAM {
			t.Errorf("the next lease says that its home is %v", got)
		}
		if got := held.Model().Home; got != tier.Storage {
			t.Errorf("the lease that was held says now that its home is %v", got)
		}
		later.Release()
		held.Release()
	})
}

func TestShutdown_LeaseHeld_WaitsForItsEndAndRefusesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 4)}})
		l := r.get("a")
		var wg sync.WaitGroup
		wg.Go(func() { // waits for room that a holds
			if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "b"}); !errors.Is(err, modeltier.ErrClosed) {
				t.Errorf("the one that waits: err = %v, want ErrClosed", err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown under a lease: %v, want the deadline", err)
		}
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"}); !errors.Is(err, modeltier.ErrClosed) {
			t.Errorf("err = %v, want ErrClosed", err)
		}
		go func() {
			time.Sleep(time.Second)
			l.Release()
		}()
		if err := r.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

func TestClose_InTheMiddleOfEverything_EndsEveryWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2), model("b", 4)}})
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				l, err := r.Acquire(t.Context(), modeltier.Request{Model: fmt.Sprintf("%c", 'a'+i%2)})
				if err == nil {
					l.Release()
				} else if !errors.Is(err, modeltier.ErrClosed) {
					t.Errorf("err = %v, want ErrClosed", err)
				}
			})
		}
		time.Sleep(time.Second)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if _, err := r.HotLoad(t.Context(), model("c", 1)); !errors.Is(err, modeltier.ErrClosed) {
			t.Errorf("err = %v, want ErrClosed", err)
		}
	})
}

func TestEvents_RefusalAfterClose_IsAnErrorLikeAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 1)}, Events: modeltier.Events{Refused: func(modeltier.RefuseEvent) {}}})
		if err := r.Manager.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"}); !errors.Is(err, modeltier.ErrClosed) {
			t.Errorf("err = %v, want ErrClosed", err)
		}
	})
}

// Events and calls of Status run parts on their own goroutines; more of them may start
// while Close waits.
func TestClose_EventsAndStatusMeanwhile_CountedWithoutRace(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, modeltier.Config{
				Models: []tier.Model{model("a", 1)}, Placement: told{},
				Events: modeltier.Events{MoveEnded: func(modeltier.MoveEvent) {}, Refused: func(modeltier.RefuseEvent) {}},
			})
			var asking sync.WaitGroup
			for range 4 {
				asking.Go(func() {
					for range 20 {
						r.Status()
						r.Acquire(t.Context(), modeltier.Request{Model: "unknown"})
					}
				})
			}
			if err := r.Manager.Close(); err != nil {
				t.Error(err)
			}
			asking.Wait()
		})
	}
}

// TestManager_DefaultParts_CloseLeavesNothing moves models through the tiers with the
// default mover, probe, selector and placement, and ends the Manager in every way.
func TestManager_DefaultParts_CloseLeavesNothing(t *testing.T) {
	a, b := weights(t, "a", 6*tier.MiB), weights(t, "b", 5*tier.MiB)
	for name, end := range map[string]func(*modeltier.Manager) error{
		"Close":    (*modeltier.Manager).Close,
		"Shutdown": func(m *modeltier.Manager) error { return m.Shutdown(t.Context()) },
		"Close under a lease": func(m *modeltier.Manager) error {
			if _, err := m.Acquire(t.Context(), modeltier.Request{Model: "a"}); err != nil {
				t.Error(err)
			}
			return m.Close()
		},
		"Close during a load": func(m *modeltier.Manager) error {
			if _, err := m.HotLoad(t.Context(), tier.Model{Name: "c", Path: b.Path, Home: tier.RAM}); err != nil {
				t.Error(err)
			}
			return m.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			leavesNothing(t)
			m, err := modeltier.New(modeltier.Config{
				Models: []tier.Model{a, b}, StateDir: t.TempDir(),
				Limits: tier.Limits{RAM: 8 * tier.MiB, Swap: 32 * tier.MiB, Reserved: tier.MiB},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			for range 2 {
				for _, model := range []string{"a", "b"} {
					l, err := m.Acquire(t.Context(), modeltier.Request{Model: model})
					if err != nil {
						t.Fatal(err)
					}
					l.Release()
				}
			}
			if err := end(m); err != nil {
				t.Error(err)
			}
		})
	}
}
