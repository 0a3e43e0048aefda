package modeltier_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// tensors is a safetensors file of n bytes of weights, each time others.
func tensors(n int) []byte {
	header := fmt.Sprintf(`{"x":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}`, n, n)
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(out, header...), binary.LittleEndian.AppendUint64(make([]byte, n-8), rand.Uint64())...)
}

// shelf is a folder of models.
type shelf struct {
	t   testing.TB
	dir string
}

func newShelf(t testing.TB, names ...string) *shelf {
	s := &shelf{t: t, dir: t.TempDir()}
	for _, name := range names {
		s.put(name, 100)
	}
	return s
}

func (s *shelf) path(name string) string { return filepath.Join(s.dir, name+".safetensors") }

// put writes the model of that name, with n bytes of weights, in one step.
func (s *shelf) put(name string, n int) {
	s.t.Helper()
	path := s.path(name)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path+".new", tensors(n), 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) remove(name string) {
	s.t.Helper()
	if err := os.Remove(s.path(name)); err != nil {
		s.t.Fatal(err)
	}
}

// watching is a configuration over the folder, on a mover that moves nothing.
func (s *shelf) watching(models ...tier.Model) modeltier.Config {
	cfg := onlyRAM(models...)
	cfg.ModelDir, cfg.WatchModelDir = s.dir, true
	return cfg
}

// settle is the time after which a change in the folder is taken up.
const settle = 7 * time.Second

func (r *rig) settle() {
	time.Sleep(settle)
	synctest.Wait()
}

func (r *rig) names() []string {
	var out []string
	for m := range r.Models() {
		out = append(out, m.Name)
	}
	slices.Sort(out)
	return out
}

func (r *rig) wantNames(want ...string) {
	r.t.Helper()
	if got := r.names(); !slices.Equal(got, want) {
		r.t.Errorf("the models are %q, want %q", got, want)
	}
}

// wantLeftOut checks that a file is left out for a reason that says so; "": that it is not
// left out.
func (r *rig) wantLeftOut(path, reason string) {
	r.t.Helper()
	for _, s := range r.Status().LeftOut {
		if s.Path == path {
			if reason == "" || !strings.Contains(s.Reason, reason) {
				r.t.Errorf("%s is left out: it %s; want %q", path, s.Reason, reason)
			}
			return
		}
	}
	if reason != "" {
		r.t.Errorf("%s is not left out, want one that %s", path, reason)
	}
}

func TestWatchModelDir_FilesComeChangeAndGo_LibraryFollows(t *testing.T) {
	s := newShelf(t, "a", "sub/b")
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, s.watching(model("own", 1)))
		r.wantNames("a", "b", "own")
		s.put("c", 50)
		r.settle()
		r.wantNames("a", "b", "c", "own")
		r.use("c")
		s.remove("sub/b")
		s.put("a", 500)
		r.settle()
		r.wantNames("a", "c", "own")
		if got := r.model("a").Size; got < 500 {
			t.Errorf("a has %d bytes, want those of its new file", got)
		}
		if err := os.WriteFile(s.path("broken"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.settle()
		r.wantLeftOut(s.path("broken"), "trunc")
		s.remove("broken")
		r.settle()
		r.wantLeftOut(s.path("broken"), "")
	})
}

func TestWatchModelDir_FileGrows_TakenUpWhenItIsStill(t *testing.T) {
	s := newShelf(t, "a")
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, s.watching())
		whole := tensors(1000)
		for n := 300; n < len(whole); n += 100 {
			if err := os.WriteFile(s.path("b"), whole[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			r.wantNames("a")
		}
		if err := os.WriteFile(s.path("b"), whole, 0o600); err != nil {
			t.Fatal(err)
		}
		r.settle()
		r.wantNames("a", "b")
	})
}

func TestWatchModelDir_FileIsReplacedUnderALease_SwitchesWhenItEnds(t *testing.T) {
	s := newShelf(t, "a")
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, s.watching())
		for i, size := range []int{900, 900} { // the second time of the same size
			l := r.get("a")
			before := l.Model().Size
			s.put("a", size)
			r.settle()
			next := r.begin("a")
			time.Sleep(time.Minute)
			if !next.waits() || l.Model().Size != before || r.mover.At("a") != tier.RAM {
				t.Errorf("time %d: it was taken from under its lease", i)
			}
			l.Release()
			<-next.done
			if next.err != nil || next.lease.Model().Size < 900 {
				t.Fatalf("time %d: the request got %v, %v", i, next.lease, next.err)
			}
			next.lease.Release()
		}
		r.wantMoves("load a", "unload a", "load a", "unload a", "load a")
	})
}

func TestWatchModelDir_FileVanishesUnderALease_ServedUntilItIsIdle(t *testing.T) {
	s := newShelf(t, "a", "b")
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, s.watching())
		l := r.get("a")
		s.remove("a")
		time.Sleep(time.Minute)
		r.wantLeftOut(s.path("a"), "leaves when it is idle")
		other := r.get("a") // no request fails because of it
		l.Release()
		time.Sleep(time.Minute)
		r.wantAt("a", tier.RAM)
		other.Release()
		r.settle()
		r.wantNames("b")
		r.wantLeftOut(s.path("a"), "")
		r.wantMoves("load a", "unload a")
		r.begin("a").refused(modeltier.ErrNotFound, 0)
	})
}

func TestWatchModelDir_FileMovesToAnotherFolderUnderALease_KeepsItsName(t *testing.T) {
	s := newShelf(t, "a", "b")
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, s.watching())
		l := r.get("a")
		if err := os.Mkdir(filepath.Join(s.dir, "sub"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(s.path("a"), s.path("sub/a")); err != nil {
			t.Fatal(err)
		}
		r.settle()
		next := r.begin("a")
		l.Release()
		<-next.done
		if next.err != nil || next.lease.Model().Path != s.path("sub/a") {
			t.Fatalf("%v, %v", next.lease, next.err)
		}
	})
}

func TestWatchModelDir_OwnersAndHotLoadedModels_StayAsTheySaid(t *testing.T) {
	s := newShelf(t, "a", "b")
	synctest.Test(t, func(t *testing.T) {
		own := tier.Model{Name: "mine", Path: s.path("a"), Size: tier.GiB, Capabilities: []string{"x"}}
		r := newRig(t, s.watching(own, model("b", 1)))
		other := filepath.Base(s.dir) + "/b" // b is not the folder's to give
		r.wantNames(other, "b", "mine")

		hot := tier.Model{Name: "hot", Path: s.path("h"), Size: tier.GiB, Home: tier.RAM, Capabilities: []string{"y"}}
		s.put("h", 100)
		if err := order(t)(r.HotLoad(t.Context(), hot)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		moves := len(r.mover.Moves())
		r.settle()
		r.wantNames(other, "b", "hot", "mine")
		s.put("h", 1000)
		s.put("a", 1000)
		r.settle()
		s.remove("h")
		r.settle()
		r.wantNames(other, "b", "hot", "mine")
		if m := r.model("hot"); m.Size != tier.GiB || !slices.Equal(m.Capabilities, []string{"y"}) || len(r.mover.Moves()) != moves {
			t.Errorf("the hot loaded model became %+v, with %d moves", m, len(r.mover.Moves())-moves)
		}
		s.put("h", 100)
		r.settle()
		if err := order(t)(r.Remove(t.Context(), "hot")).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.settle()
		r.wantNames(other, "b", "mine")
		r.wantLeftOut(s.path("h"), "hot load it to have it again")

		// What a declared model is called later is its own name, and its file is its own.
		r.reconfigured(tier.Limits{Swap: tier.None}, model(other, 1))
		r.wantNames(other, "mine")
		r.wantLeftOut(s.path("b"), "of the configuration")
		r.reconfigured(tier.Limits{Swap: tier.None})
		r.wantNames(other, "mine")
		r.wantLeftOut(s.path("b"), "")
	})
}

func TestWatchModelDir_FileIsCalledAsAnAlias_LeftOutAlone(t *testing.T) {
	s := newShelf(t, "a", "chat")
	synctest.Test(t, func(t *testing.T) {
		cfg := s.watching()
		cfg.Aliases = map[string]string{"chat": "a", "later": "l"}
		r := newRig(t, cfg)
		r.wantNames("a")
		r.wantServes("chat", "a")
		r.wantLeftOut(s.path("chat"), `alias "chat" of "a"`)
		if err := r.SetAlias(t.Context(), "best", "a"); err != nil {
			t.Fatal(err)
		}
		s.put("best", 100)
		s.put("l", 100)
		r.settle()
		r.wantNames("a", "l")
		r.wantLeftOut(s.path("best"), "alias")
		r.wantServes("later", "l")
		for _, alias := range []string{"best", "chat"} {
			if err := r.SetAlias(t.Context(), alias, ""); err != nil {
				t.Fatal(err)
			}
		}
		r.settle()
		r.wantNames("a", "best", "chat", "l")
		r.wantLeftOut(s.path("best"), "")
	})
}

func TestWatchModelDir_ModelIsRemoved_StaysSoUntilItIsHotLoadedAlsoAfterARestart(t *testing.T) {
	s := newShelf(t, "a", "b")
	state := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cfg := s.watching()
		cfg.StateDir = state
		for i := range 2 {
			cfg.Mover = &tiertest.Mover{OnlyRAM: true}
			r := newRig(t, cfg)
			if i == 0 {
				if err := order(t)(r.Remove(t.Context(), "a")).Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			s.put(fmt.Sprint("c", i), 100)
			r.settle()
			if got := r.names(); slices.Contains(got, "a") || len(got) != 2+i {
				t.Errorf("start %d: the models are %q", i, got)
			}
			r.wantLeftOut(s.path("a"), "removed")
			if i == 1 {
				if err := order(t)(r.HotLoad(t.Context(), tier.Model{Name: "a", Path: s.path("a"), Home: tier.RAM})).Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				r.wantLeftOut(s.path("a"), "")
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestWatchModelDir_Restart_ModelsKeepTheirNames(t *testing.T) {
	s := newShelf(t, "c/m")
	state := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cfg := s.watching()
		cfg.StateDir = state
		r := newRig(t, cfg)
		s.put("a/m", 100) // it stands before the other
		r.settle()
		for range 2 {
			for name, file := range map[string]string{"m": "c/m", "a/m": "a/m"} {
				if got := r.model(name).Path; got != s.path(file) {
					t.Errorf("%s is %s, want %s", name, got, s.path(file))
				}
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			r = newRig(t, cfg)
		}
	})
}

func TestWatchModelDir_MoverRefusesAFile_LeftOutAlone(t *testing.T) {
	s := newShelf(t, "a", "bad")
	synctest.Test(t, func(t *testing.T) {
		cfg := s.watching()
		cfg.Mover = &picky{&tiertest.Mover{OnlyRAM: true}}
		r := newRig(t, cfg)
		r.wantNames("a")
		r.wantLeftOut(s.path("bad"), "not this one")
		s.put("sub/bad", 100)
		s.put("c", 100)
		r.settle()
		r.wantNames("a", "c")
		r.wantLeftOut(s.path("sub/bad"), "not this one")
	})
}

// picky is a mover that refuses some models.
type picky struct{ *tiertest.Mover }

func (p *picky) CheckModel(m *tier.Model) error {
	if strings.Contains(m.Path, "bad") {
		return &tier.InvalidError{Model: m.Name, Field: "path", Rule: "not this one"}
	}
	return nil
}

func TestWatchModelDir_ReconfigureReadsItAtOnce(t *testing.T) {
	s := newShelf(t, "a")
	synctest.Test(t, func(t *testing.T) {
		cfg := s.watching(model("own", 1))
		r := newRig(t, cfg)
		s.put("b", 100)
		if got := r.reconfigured(cfg.Limits, model("own", 2)); !slices.Equal(got.Added, []string{"b"}) || !slices.Equal(got.Replaced, []string{"own"}) {
			t.Errorf("%+v", got)
		}
		r.settle()
		r.wantNames("a", "b", "own")
	})
}

func TestWatchModelDir_CannotBeRead_NewSaysSo(t *testing.T) {
	for _, cfg := range []modeltier.Config{{WatchModelDir: true}, {WatchModelDir: true, ModelDir: filepath.Join(t.TempDir(), "none")}} {
		if _, err := modeltier.New(cfg); err == nil || !strings.Contains(err.Error(), "ModelDir") {
			t.Errorf("%v", err)
		}
	}
}

// A name that an alias had is the alias's again when the model that took it has gone.
func TestRestart_ModelHasTheNameOfAConfiguredAlias_AliasComesBackWithItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 1))
		cfg.StateDir = t.TempDir()
		r := newRig(t, cfg)
		if err := order(t)(r.HotLoad(t.Context(), model("chat", 1))).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			cfg.Aliases, cfg.Mover = map[string]string{"chat": "a"}, &tiertest.Mover{OnlyRAM: true}
			r = newRig(t, cfg)
			switch i {
			case 0:
				r.wantServes("chat", "chat")
			case 1:
				if err := order(t)(r.Remove(t.Context(), "chat")).Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				fallthrough
			case 2:
				r.wantServes("chat", "a")
			}
		}
	})
}

func TestAliasesAndUnloads_TooMany_OneMoreIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(model("a", 1))
		cfg.Aliases = make(map[string]string)
		for i := range tier.MaxAliases {
			cfg.Aliases[fmt.Sprint("alias", i)] = "a"
		}
		r := newRig(t, cfg)
		if err := r.SetAlias(t.Context(), "more", "a"); !errors.Is(err, modeltier.ErrInvalid) {
			t.Errorf("one more alias: %v", err)
		}
		if err := r.SetAlias(t.Context(), "alias0", "a"); err != nil {
			t.Errorf("one that is there: %v", err)
		}
		cfg.Aliases["more"] = "a"
		if _, err := modeltier.New(cfg); !errors.Is(err, modeltier.ErrInvalid) {
			t.Errorf("as many in a configuration: %v", err)
		}

		defer r.get("a").Release()
		n := 0
		for ; n < 2000; n++ {
			_, err := r.Unload(t.Context(), "a")
			if errors.Is(err, modeltier.ErrBusy) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if n != 1024 {
			t.Errorf("%d unloads wait", n)
		}
	})
}

// A name that comes with a model is its own as long as no other has it.
func TestModelAliases_ComeAndGoWithTheModel_AndGiveWayToOtherNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a:8b", 1)
		a.Aliases = []string{"a:latest", "b"}
		cfg := onlyRAM(a, model("b", 1))
		r := newRig(t, cfg)
		r.wantServes("a:latest", "a:8b")
		r.wantServes("b", "b")
		if got := r.model("a:8b").Aliases; !slices.Equal(got, []string{"a:latest"}) {
			t.Errorf("it is also called %q", got)
		}
		job := order(t)(r.MoveTier(t.Context(), "a:latest", tier.Storage))
		if err := job.Wait(t.Context()); err != nil || job.Model() != "a:8b" {
			t.Errorf("MoveTier: a job of %s, %v", job.Model(), err)
		}
		if err := r.SetAlias(t.Context(), "a:latest", "b"); err != nil {
			t.Fatal(err)
		}
		r.wantServes("a:latest", "b")
		if err := r.SetAlias(t.Context(), "a:latest", ""); err != nil {
			t.Fatal(err)
		}
		r.wantServes("a:latest", "a:8b")
		a.Aliases = []string{"a:new"}
		if got := r.reconfigured(cfg.Limits, a); !slices.Equal(got.Changed, []string{"a:8b"}) {
			t.Errorf("%+v", got)
		}
		r.wantServes("a:new", "a:8b")
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "a:latest"}); !errors.Is(err, modeltier.ErrNotFound) {
			t.Errorf("a name that it has no more: %v", err)
		}
	})
}

// A model is asked for after its file was replaced and before that is taken up: its mover
// finds more than was set aside.
func TestWatchModelDir_LoadFailsAsItsFileIsAnother_RequestWaitsForThat(t *testing.T) {
	s := newShelf(t, "a", "b", "d")
	synctest.Test(t, func(t *testing.T) {
		cfg := s.watching()
		fault := errors.New("has other bytes than its model")
		broken := false
		cfg.Mover.(*tiertest.Mover).Fault = func(mv tier.Move) error {
			if info, err := os.Stat(mv.Model.Path); err != nil || tier.Bytes(info.Size()) != mv.Model.Size || broken {
				return fault
			}
			return nil
		}
		r := newRig(t, cfg)
		s.put("a", 5000)
		c := r.begin("a")
		<-c.done
		if c.err != nil || c.lease.Model().Size < 5000 || c.took > settle {
			t.Errorf("after %v: %v, %v", c.took, c.lease, c.err)
		}
		s.put("d", 7000)
		both := r.beginAll(named("a", "d")...)
		if <-both.done; both.err != nil || both.leases[1].Model().Size < 7000 || both.took > settle {
			t.Errorf("together after %v: %v", both.took, both.err)
		}
		both.release()
		s.remove("b")
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "b"}); !errors.Is(err, modeltier.ErrNotFound) {
			t.Errorf("one that is gone: %v", err)
		}
		s.put("c", 100)
		r.settle()
		broken = true
		c = r.begin("c")
		if <-c.done; !errors.Is(c.err, fault) || c.took > time.Second {
			t.Errorf("one whose file is as it was: %v after %v", c.err, c.took)
		}
	})
}

func TestWatchModelDir_ManyWaitForFiles_NoMoreThanMaxQueue(t *testing.T) {
	s := newShelf(t, "a")
	synctest.Test(t, func(t *testing.T) {
		cfg := s.watching()
		cfg.MaxQueue = 2
		cfg.Mover.(*tiertest.Mover).Fault = func(tier.Move) error { return errors.New("it has other bytes than its model") }
		r := newRig(t, cfg)
		s.put("a", 3000)
		waiting := 0
		for range 20 {
			c := r.begin("a")
			time.Sleep(50 * time.Millisecond)
			if c.waits() {
				waiting++
			}
		}
		if waiting != cfg.MaxQueue {
			t.Errorf("%d requests wait, MaxQueue is %d", waiting, cfg.MaxQueue)
		}
	})
}

func TestWatchModelDir_ShutdownWhileARequestWaitsForFiles_IsRefused(t *testing.T) {
	s := newShelf(t, "a", "b")
	synctest.Test(t, func(t *testing.T) {
		cfg := s.watching()
		cfg.Mover.(*tiertest.Mover).Fault = func(mv tier.Move) error {
			if mv.Model.Name == "a" {
				return errors.New("it has other bytes than its model")
			}
			return nil
		}
		r := newRig(t, cfg)
		l := r.get("b") // its lease holds the shutdown up
		s.put("a", 3000)
		c := r.begin("a")
		time.Sleep(100 * time.Millisecond)
		if !c.waits() {
			t.Fatal("it does not wait for the files")
		}
		ended := make(chan error, 1)
		go func() { ended <- r.Shutdown(t.Context()) }()
		time.Sleep(time.Second)
		if c.waits() || !errors.Is(c.err, modeltier.ErrClosed) {
			t.Errorf("it waits on, or got %v", c.err)
		}
		l.Release()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
