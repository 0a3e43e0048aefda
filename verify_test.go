package modeltier_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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

// sumOf returns the SHA-256 of a file's content.
func sumOf(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(content))
}

// holding returns the model with the digest of its file as it is.
func holding(t *testing.T, m tier.Model) tier.Model {
	m.Digests = map[string]tier.Digest{m.Path: {SHA256: sumOf(t, m.Path)}}
	return m
}

// damage changes a byte of a file, as a bad disk does.
func damage(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("!"), 7)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// replace puts a file with other content in the place of one, at once.
func replace(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", content, 0o644), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// verifying is a configuration that verifies the models.
func verifying(models ...tier.Model) modeltier.Config {
	cfg := onlyRAM(models...)
	cfg.Verify = true
	return cfg
}

func TestVerify_FilesAreRight_ServedAndReadOnceForEachIdentity(t *testing.T) {
	m := holding(t, weights(t, "m.gguf", 3*tier.MiB))
	state := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cfg := verifying(m)
		cfg.StateDir = state
		r := newRig(t, cfg)
		load := func(r *rig) string {
			r.use("m.gguf")
			if err := order(t)(r.Unload(t.Context(), "m.gguf")).Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			return r.Sums()
		}
		read := load(r)
		if !strings.Contains(read, m.Digests[m.Path].SHA256) {
			t.Fatalf("the file was not read: %q", read)
		}
		if again := load(r); again != read {
			t.Errorf("the file was read again: %s, %s", again, read)
		}
		r.wantMoves("load m.gguf", "unload m.gguf", "load m.gguf", "unload m.gguf")
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		cfg.Mover = &tiertest.Mover{OnlyRAM: true}
		r = newRig(t, cfg)
		if again := load(r); again != read {
			t.Errorf("the file was read again after a restart: %s, %s", again, read)
		}
		content, err := os.ReadFile(m.Path)
		if err != nil {
			t.Fatal(err)
		}
		replace(t, m.Path, content)
		if again := load(r); again == read || !strings.Contains(again, m.Digests[m.Path].SHA256) {
			t.Errorf("another file of the same content was not read: %s", again)
		}
	})
}

func TestVerify_NotAskedFor_DamagedFileIsServed(t *testing.T) {
	m := holding(t, weights(t, "m.gguf", tier.MiB))
	damage(t, m.Path)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(m))
		r.use("m.gguf")
		if r.Sums() != "" {
			t.Errorf("it was read: %s", r.Sums())
		}
	})
}

func TestVerify_FileIsDamaged_RefusedUntilItIsAnother(t *testing.T) {
	good := holding(t, weights(t, "m.gguf", 3*tier.MiB))
	other := holding(t, weights(t, "other.gguf", tier.MiB))
	content, err := os.ReadFile(good.Path)
	if err != nil {
		t.Fatal(err)
	}
	damage(t, good.Path)
	got := sumOf(t, good.Path)
	state := t.TempDir()
	cfg := verifying(good, other)
	cfg.StateDir = state
	wantDamaged := func(t *testing.T, err error) {
		t.Helper()
		d, ok := errors.AsType[*tier.DigestError](err)
		if !ok || !errors.Is(err, modeltier.ErrDamaged) || tier.Code(err) != "damaged" || d.Path != good.Path || d.Want != good.Digests[good.Path].SHA256 || d.Got != got {
			t.Fatalf("error %v (%s)", err, tier.Code(err))
		}
		for _, word := range []string{good.Path, d.Want, d.Got} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q does not name %s", err, word)
			}
		}
		if s := tier.Suggestions(err); len(s) < 2 || !strings.Contains(s[0], good.Path) {
			t.Errorf("suggestions %q", s)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, cfg)
		a, b := r.begin("m.gguf"), r.begin("m.gguf")
		for _, c := range []*client{a, b} {
			<-c.done
			wantDamaged(t, c.err)
		}
		r.wantMoves("load m.gguf", "unload m.gguf")
		r.wantUsed(0)

		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "m.gguf"})
		wantDamaged(t, err)
		_, err = r.MoveTier(t.Context(), "m.gguf", tier.RAM)
		wantDamaged(t, err)
		r.wantMoves("load m.gguf", "unload m.gguf")
		if s := r.model("m.gguf"); s.Quarantine == nil || s.Quarantine.Got != got || s.Stuck {
			t.Errorf("status %+v", s)
		}
		if list := string(r.HandleRequest(t.Context(), []byte(`{"list_models": true}`))); strings.Count(list, `"quarantine"`) != 1 || !strings.Contains(list, got) || strings.Contains(list, filepath.Dir(good.Path)) {
			t.Errorf("list_models: %s", list)
		}
		// A request that names no model, or falls back, gets the other.
		for _, req := range []modeltier.Request{{Capabilities: []string{"text-generation"}}, {Preferred: "m.gguf", Fallback: true}} {
			l, err := r.Acquire(t.Context(), req)
			if err != nil || l.Model().Name != "other.gguf" {
				t.Fatalf("%+v: %v, %v", req, l, err)
			}
			l.Release()
		}
		if err := errors.Join(r.Check(), r.Close()); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		cfg.Mover = &tiertest.Mover{OnlyRAM: true}
		cfg.Models[0].Home = tier.RAM
		r := newRig(t, cfg)
		synctest.Wait()
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "m.gguf"})
		wantDamaged(t, err)
		r.wantMoves()
		replace(t, good.Path, content)
		r.use("m.gguf")
		r.wantMoves("load m.gguf")
		if s := r.model("m.gguf"); s.Quarantine != nil {
			t.Errorf("status %+v", s)
		}
	})
}

func TestVerify_DamagedFileIsReplacedOrSaidToBeRight_ComesHomeByItself(t *testing.T) {
	for _, by := range []string{"file", "digest", "file by order"} {
		m := holding(t, weights(t, "m.gguf", tier.MiB))
		content, err := os.ReadFile(m.Path)
		if err != nil {
			t.Fatal(err)
		}
		damage(t, m.Path)
		if by != "file by order" {
			m.Home = tier.RAM
		}
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, verifying(m))
			if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "m.gguf"}); !errors.Is(err, modeltier.ErrDamaged) {
				t.Errorf("error %v", err)
			}
			time.Sleep(time.Minute)
			r.wantMoves("load m.gguf", "unload m.gguf")
			read := r.Sums()
			switch by {
			case "file by order":
				replace(t, m.Path, content)
				if err := order(t)(r.MoveTier(t.Context(), "m.gguf", tier.RAM)).Wait(t.Context()); err != nil {
					t.Error(err)
				}
			case "file":
				replace(t, m.Path, content)
			case "digest":
				now := holding(t, m)
				d, err := r.Reconfigure(t.Context(), []tier.Model{now}, modeltier.Limits{Swap: tier.None})
				if err != nil || !slices.Equal(d.Changed, []string{"m.gguf"}) {
					t.Errorf("%+v, %v", d, err)
				}
			}
			time.Sleep(2 * time.Second)
			r.wantMoves("load m.gguf", "unload m.gguf", "load m.gguf")
			r.wantAt("m.gguf", tier.RAM)
			if again := r.Sums(); by == "digest" && again != read {
				t.Error("the file was read again for another digest")
			}
		})
	}
}

func TestVerify_FileChangesDuringTheLoad_WaitersGetTheNewOne(t *testing.T) {
	m := holding(t, weights(t, "m.gguf", 2*tier.MiB))
	content, err := os.ReadFile(m.Path)
	if err != nil {
		t.Fatal(err)
	}
	// changing has the file replaced during the load of that number; 0: during each.
	changing := func(load int) modeltier.Config {
		cfg, loads := verifying(m), 0
		cfg.Mover.(*tiertest.Mover).Fault = func(mv tier.Move) error {
			if mv.To == tier.RAM {
				if loads++; load == 0 || loads == load {
					replace(t, m.Path, content)
				}
			}
			return nil
		}
		return cfg
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, changing(1))
		r.use("m.gguf")
		r.wantMoves("load m.gguf", "unload m.gguf", "load m.gguf")
		if err := r.Check(); err != nil {
			t.Error(err)
		}
	})
	// One that is known, and so not read again, changes as well.
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, changing(2))
		r.use("m.gguf")
		if err := order(t)(r.Unload(t.Context(), "m.gguf")).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.use("m.gguf")
		r.wantMoves("load m.gguf", "unload m.gguf", "load m.gguf", "unload m.gguf", "load m.gguf")
	})
	// One that changes each time is left alone in between.
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, changing(0))
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "m.gguf"}); !errors.Is(err, modeltier.ErrBusy) {
			t.Errorf("error %v", err)
		}
	})
}

func TestVerify_HotLoadOfADamagedFile_FailsAndIsNotKept(t *testing.T) {
	m := holding(t, weights(t, "m.bin", tier.MiB))
	damage(t, m.Path)
	m.Home = tier.RAM
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, verifying())
		for range 2 {
			if err := order(t)(r.HotLoad(t.Context(), m)).Wait(t.Context()); !errors.Is(err, modeltier.ErrDamaged) {
				t.Fatalf("the job ended with %v", err)
			}
			time.Sleep(time.Second)
			if _, known := r.Model("m.bin"); known {
				t.Error("it is in the library")
			}
			r.wantUsed(0)
		}
		r.wantMoves("load m.bin", "unload m.bin")
		if err := r.Check(); err != nil {
			t.Error(err)
		}
	})
}

func TestVerify_MoverFails_TheErrorIsItsOwn(t *testing.T) {
	m := holding(t, weights(t, "m.gguf", tier.MiB))
	damage(t, m.Path)
	fault := errors.New("no device")
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, doomed(verifying(m), map[string]error{"m.gguf": fault}))
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "m.gguf"}); !errors.Is(err, fault) {
			t.Errorf("error %v", err)
		}
		r.wantMoves("load m.gguf")
	})
}

// A sparse file of a TiB takes minutes to read.
func TestVerify_LeftWhileItReads_NothingIsLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(1<<40), f.Close())
	}
	if err != nil {
		t.Skip("there are no sparse files here: ", err)
	}
	m := tier.Model{Name: "m.gguf", Path: path, Size: tier.GiB, Digests: map[string]tier.Digest{path: {SHA256: strings.Repeat("0", 64)}}}
	for _, how := range []string{"the request leaves", "Close"} {
		t.Run(how, func(t *testing.T) {
			cfg := verifying(m)
			cfg.Limits.RAM, cfg.Limits.MaxModel = 2<<40, 2<<40
			cfg.Mover.(*tiertest.Mover).Time = func(tier.Move) time.Duration { return 0 }
			loaded := make(chan struct{}, 1)
			cfg.Mover = loadTeller{cfg.Mover.(*tiertest.Mover), loaded}
			cfg.Probe = tiertest.NewProbe(tier.Memory{Total: 4 << 40, Available: 4 << 40})
			r := newRig(t, cfg)
			ctx, leave := context.WithCancelCause(t.Context())
			answered := make(chan error, 1)
			go func() {
				_, err := r.Acquire(ctx, modeltier.Request{Model: "m.gguf"})
				answered <- err
			}()
			<-loaded
			want := errLeft
			if how == "Close" {
				want = modeltier.ErrClosed
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			} else {
				leave(errLeft)
			}
			if err := <-answered; !errors.Is(err, want) {
				t.Errorf("%s: %v", how, err)
			}
			if how != "Close" {
				if j, err := r.Unload(t.Context(), "m.gguf"); err == nil {
					j.Cancel(errLeft)
				}
			}
			leave(nil)
		})
	}
}

// loadTeller is a mover that tells when a load has ended.
type loadTeller struct {
	*tiertest.Mover
	loaded chan<- struct{}
}

func (m loadTeller) Move(ctx context.Context, mv tier.Move, progress func(tier.Bytes)) error {
	err := m.Mover.Move(ctx, mv, progress)
	if mv.To == tier.RAM {
		m.loaded <- struct{}{}
	}
	return err
}

func TestVerify_ListInTheFolderIsWrong_ServedOnceItIsMended(t *testing.T) {
	s := newShelf(t, "a")
	list := s.path("a") + ".sha256"
	write := func(sum string) {
		if err := os.WriteFile(list, []byte(sum+"  a.safetensors\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(strings.Repeat("0", 64))
	cfg := s.watching()
	cfg.Verify, cfg.StateDir = true, t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, cfg)
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "a"})
		if d, ok := errors.AsType[*tier.DigestError](err); !ok || d.Source != list || !strings.Contains(fmt.Sprint(tier.Suggestions(err)), list) {
			t.Fatalf("error %v, suggestions %q", err, tier.Suggestions(err))
		}
		write(sumOf(t, s.path("a")))
		r.settle()
		if q := r.model("a").Quarantine; q != nil {
			t.Errorf("in quarantine for %v", q)
		}
		r.use("a")
		r.wantMoves("load a", "unload a", "load a")
	})
}

func TestVerify_NewVersionIsDamaged_TheOneBeforeStaysInService(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	old := holding(t, version(t, dir, "m", '1'))
	now := holding(t, version(t, dir, "m", '2'))
	damage(t, now.Path)
	synctest.Test(t, func(t *testing.T) {
		cfg := verifying(old)
		cfg.StateDir = state
		r := newRig(t, cfg)
		r.use("m")
		wantReconfiguration(t, r.reconfigured(cfg.Limits, now), modeltier.Reconfiguration{Replaced: []string{"m"}})
		a, b := r.begin("m"), r.begin("m")
		for _, c := range []*client{a, b} {
			if <-c.done; c.err != nil || c.lease.Model().Path != old.Path {
				t.Fatalf("%v, %v", c.lease, c.err)
			}
			c.lease.Release()
		}
		bad := ""
		for _, s := range r.Status().Models {
			if s.Path == now.Path {
				bad = s.Name
			}
			if (s.Quarantine != nil) != (s.Path == now.Path) {
				t.Errorf("%+v", s)
			}
		}
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: bad}); bad == "m" || !errors.Is(err, modeltier.ErrDamaged) {
			t.Errorf("%q: %v", bad, err)
		}
		// What the configuration says again does not bring the damaged one back.
		wantReconfiguration(t, r.reconfigured(cfg.Limits, now), modeltier.Reconfiguration{})
		r.use("m")
		r.wantMoves("load m", "unload m", "load m", "unload m", "load m")
		if err := errors.Join(r.Check(), r.Close()); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		cfg := verifying(now)
		cfg.StateDir = state
		r := newRig(t, cfg)
		if l := r.get("m"); l.Model().Path != old.Path {
			t.Errorf("after a restart it is %+v", l.Model())
		} else {
			l.Release()
		}
	})
}

func TestVerify_VersionThatIsNamedIsDamaged_NoOtherIsServedForIt(t *testing.T) {
	dir := t.TempDir()
	old := holding(t, version(t, dir, "m", '1'))
	now := holding(t, version(t, dir, "m", '2'))
	damage(t, now.Path)
	synctest.Test(t, func(t *testing.T) {
		cfg := verifying(old)
		r := newRig(t, cfg)
		r.use("m")
		r.reconfigured(cfg.Limits, now)
		time.Sleep(time.Second)
		named, any := r.begin(at(r, "m")), r.begin("m")
		if <-named.done; !errors.Is(named.err, modeltier.ErrDamaged) {
			t.Errorf("%+v, %v", named.lease, named.err)
		}
		if <-any.done; any.err != nil || any.lease.Model().Path != old.Path {
			t.Errorf("%+v, %v", any.lease, any.err)
		}
		any.lease.Release()
	})
}

func TestVerify_DamagedFileIsMended_ServedAmongOthersAtOnce(t *testing.T) {
	good := holding(t, weights(t, "m.gguf", 3*tier.MiB))
	other := holding(t, weights(t, "other.gguf", tier.MiB))
	content, err := os.ReadFile(good.Path)
	if err != nil {
		t.Fatal(err)
	}
	damage(t, good.Path)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, verifying(good, other))
		if _, err := r.Acquire(t.Context(), modeltier.Request{Model: "m.gguf"}); !errors.Is(err, modeltier.ErrDamaged) {
			t.Fatal(err)
		}
		if _, err := r.AcquireAll(t.Context(), named("other.gguf", "m.gguf")...); !errors.Is(err, modeltier.ErrDamaged) {
			t.Fatal(err)
		}
		replace(t, good.Path, content)
		c := r.beginAll(named("other.gguf", "m.gguf")...)
		if <-c.done; c.err != nil {
			t.Error(c.err)
		}
	})
}

func TestVerify_NewVersionIsDamaged_SetGetsTheOneBefore(t *testing.T) {
	dir := t.TempDir()
	old := holding(t, version(t, dir, "m", '1'))
	now := holding(t, version(t, dir, "m", '2'))
	other := holding(t, version(t, dir, "other", '1'))
	damage(t, now.Path)
	for _, names := range [][]string{{"m", "other"}, {"other", "m"}, {"m", "m"}} {
		synctest.Test(t, func(t *testing.T) {
			cfg := verifying(old, other)
			r := newRig(t, cfg)
			r.use("m")
			r.reconfigured(cfg.Limits, now, other)
			c := r.beginAll(named(names...)...)
			if <-c.done; c.err != nil {
				t.Fatal(c.err)
			}
			for i, l := range c.leases {
				if names[i] == "m" && l.Model().Path != old.Path {
					t.Errorf("served by %s", l.Model().Path)
				}
			}
		})
	}
}
