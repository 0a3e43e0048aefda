package modeltier_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
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

// written writes a file of a MiB that is all of one byte, and returns its path.
func written(t testing.TB, path string, content byte) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Repeat(string(rune(content)), 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReconfigure_FileTouchedOrOverwritten_OnlyOtherContentIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := written(t, filepath.Join(t.TempDir(), "a"), '1')
		cfg := onlyRAM(tier.Model{Name: "a", Path: path, Size: tier.GiB})
		r := newRig(t, cfg)
		first := r.model("a").Version
		var list struct {
			Models map[string]struct{ Version string }
		}
		if err := json.Unmarshal(r.HandleRequest(t.Context(), []byte(`{"list_models": true}`)), &list); err != nil || list.Models["a"].Version != first || first == "" {
			t.Errorf("the list says %+v, Status %q, %v", list, first, err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		wantReconfiguration(t, r.reconfigured(cfg.Limits, cfg.Models...), modeltier.Reconfiguration{})
		written(t, path, '2')
		wantReconfiguration(t, r.reconfigured(cfg.Limits, cfg.Models...), modeltier.Reconfiguration{Replaced: []string{"a"}})
		time.Sleep(time.Second)
		if now := r.model("a").Version; now == first || now == "" {
			t.Errorf("version %q, it was %q", now, first)
		}
	})
}

// version returns a model of a GiB by its description, whose file, of another path for each
// content, is there.
func version(t testing.TB, dir, name string, content byte) tier.Model {
	t.Helper()
	m := model(name, 1)
	m.Path = written(t, filepath.Join(dir, fmt.Sprintf("%s-%c", name, content)), content)
	m.Capabilities = []string{"text-generation"}
	return m
}

// at returns what a name and the version of a model make.
func at(r *rig, name string) string { return tier.VersionName(name, r.model(name).Version) }

// wantVersions checks the older versions of a model, the last to have been current at the
// end.
func (r *rig) wantVersions(name string, want ...string) {
	r.t.Helper()
	var got []string
	for s := range r.Models() {
		if s.VersionOf == name {
			got = append(got, s.Name)
			if s.Home != tier.Storage || s.Pinned {
				r.t.Errorf("%s: home %v, pinned %v", s.Name, s.Home, s.Pinned)
			}
		}
	}
	slices.Sort(got)
	if want = slices.Clone(want); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		r.t.Errorf("%s has the older versions %q, want %q", name, got, want)
	}
}

func TestReconfigure_OtherContentAtAnotherPath_OlderVersionIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		v1, v2 := version(t, dir, "a", '1'), version(t, dir, "a", '2')
		v1.Home, v1.Pinned = tier.RAM, true
		v2.Home = tier.RAM
		b := version(t, dir, "b", '1')
		b.Size = 4 * tier.GiB
		cfg := onlyRAM(v1, b)
		r := newRig(t, cfg)
		old := at(r, "a")
		r.use("a")
		l := r.get("a")
		r.reconfigured(cfg.Limits, v2, b)
		if current := at(r, "a"); current != old {
			t.Errorf("while it is leased it is %s, want %s", current, old)
		}
		l.Release()
		r.use("a")
		current := at(r, "a")
		r.wantVersions("a", old)
		r.wantServes(current, "a")
		r.wantServes(old, old)
		if s := r.model(old); s.Path != v1.Path || s.Version == r.model("a").Version {
			t.Errorf("%+v", s)
		}
		for _, req := range []modeltier.Request{{}, {Capabilities: []string{"text-generation"}}, {Preferred: "unknown", Fallback: true}} {
			if c, err := r.Select(req); err != nil || c.Model == old {
				t.Errorf("%+v: %+v, %v", req, c, err)
			}
		}
		if err := order(t)(r.MoveTier(t.Context(), old, tier.Storage)).Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if err := order(t)(r.MoveTier(t.Context(), old, tier.RAM)).Wait(t.Context()); err != nil || r.model(old).Home != tier.Storage {
			t.Errorf("%v, home %v", err, r.model(old).Home)
		}
		_, err := r.Acquire(t.Context(), modeltier.Request{Model: "a@abcdef"})
		if help := strings.Join(tier.Suggestions(err), " "); !errors.Is(err, modeltier.ErrNotFound) || !strings.Contains(help, old) || !strings.Contains(help, current) {
			t.Errorf("an unknown version: %v, %q", err, help)
		}
		wantReconfiguration(t, r.reconfigured(cfg.Limits, v2, b), modeltier.Reconfiguration{})
		if err := order(t)(r.Remove(t.Context(), old)).Wait(t.Context()); err != nil {
			t.Error(err)
		}
		r.wantVersions("a")
	})
}

func TestReconfigure_OldFilesAreGoneOrOverwritten_NoOlderVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		v1, v2 := version(t, dir, "a", '1'), version(t, dir, "a", '2')
		cfg := onlyRAM(v1)
		r := newRig(t, cfg)
		written(t, v1.Path, '3') // in its place
		r.reconfigured(cfg.Limits, v1)
		time.Sleep(time.Second)
		r.wantVersions("a")
		written(t, v1.Path, '4') // and then another path
		r.reconfigured(cfg.Limits, v2)
		time.Sleep(time.Second)
		r.wantVersions("a")
		if err := os.Rename(v2.Path, v1.Path); err != nil { // the same content elsewhere
			t.Fatal(err)
		}
		r.reconfigured(cfg.Limits, v1)
		time.Sleep(time.Second)
		r.wantVersions("a")
	})
}

func TestVersions_BeyondTheBound_TheOldestLeaveWhenFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cfg := onlyRAM(version(t, dir, "a", '1'))
		r := newRig(t, cfg)
		var all []string
		step := func(content byte) {
			r.reconfigured(cfg.Limits, version(t, dir, "a", content))
			time.Sleep(time.Second)
			all = append(all, at(r, "a"))
		}
		all = append(all, at(r, "a"))
		step('2')
		if err := r.SetAlias(t.Context(), "good", all[0]); err != nil {
			t.Fatal(err)
		}
		l := r.get(all[0])
		for c := byte('3'); c < '7'; c++ {
			step(c)
		}
		r.wantVersions("a", all[0], all[3], all[4])
		r.wantServes("good", all[0])
		if err := r.SetAlias(t.Context(), "good", ""); err != nil {
			t.Fatal(err)
		}
		step('7')
		if l.Model().Name != all[0] || r.model(all[0]).Leases != 1 {
			t.Error("it was taken from under a lease")
		}
		r.wantServes(all[0], all[0])
		l.Release()
		time.Sleep(10 * time.Second)
		r.wantVersions("a", all[3:6]...)
		if err := order(t)(r.Remove(t.Context(), "a")).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		r.wantVersions("a")
		r.wantUsed(0)
	})
}

func TestReconfigure_LeasedLongerThanRequestsWait_NoneFailsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		v1, v2 := version(t, dir, "a", '1'), version(t, dir, "a", '2')
		cfg := onlyRAM(v1)
		cfg.MaxWait = time.Minute
		r := newRig(t, cfg)
		l := r.get("a")
		r.reconfigured(cfg.Limits, v2)
		next := r.begin("a")
		time.Sleep(59 * time.Second)
		if !next.waits() {
			t.Error("it does not wait")
		}
		second := next.served(time.Minute)
		if second.Model().Path != v1.Path || second.Tier() != tier.RAM {
			t.Errorf("served by %s from %v", second.Model().Path, second.Tier())
		}
		l.Release()
		time.Sleep(10 * time.Second)
		if r.mover.At("a") != tier.RAM || len(r.mover.Moves()) != 1 {
			t.Error("it was taken from under a lease")
		}
		third := r.begin("a")
		time.Sleep(time.Second)
		second.Release()
		if got := third.served(2500 * time.Millisecond); got.Model().Path != v2.Path {
			t.Errorf("served by %s", got.Model().Path)
		}
		// What was overwritten serves no one more.
		third.leave()
		last := r.begin("a")
		last.served(0)
		written(t, v2.Path, '7')
		r.reconfigured(cfg.Limits, v2)
		r.begin("a").refused(modeltier.ErrBusy, time.Minute)
	})
}

// Requests for the same model twice wait as one for it: the lease that each gets on what it
// still is counts.
func TestReconfigure_LeasedLongerThanASetOfOneWaits_EachLeaseHoldsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		v1, v2 := version(t, dir, "a", '1'), version(t, dir, "a", '2')
		cfg := onlyRAM(v1)
		cfg.MaxWait = time.Minute
		r := newRig(t, cfg)
		l := r.get("a")
		r.reconfigured(cfg.Limits, v2)
		c := r.beginAll(named("a", "a")...).served(time.Minute, "a", "a")
		r.wantLeases("a", 3)
		l.Release()
		c.leases[0].Release()
		time.Sleep(10 * time.Second)
		if len(r.mover.Moves()) != 1 {
			t.Error("it was taken from under a lease")
		}
		c.release()
		if got := r.begin("a").served(1500 * time.Millisecond); got.Model().Path != v2.Path {
			t.Errorf("served by %s", got.Model().Path)
		}
	})
}

func TestReconfigure_LeasedAndCrashed_NoLeaseOnWhatIsGone(t *testing.T) {
	for _, order := range []string{"crashed first", "replaced first"} {
		t.Run(order, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				v1, v2, v3 := version(t, dir, "a", '1'), version(t, dir, "a", '2'), version(t, dir, "a", '3')
				cfg := onlyRAM(v1)
				cfg.MaxWait = time.Minute
				r := newRig(t, cfg)
				l := r.get("a")
				if order == "crashed first" {
					r.ReportCrash("a", errors.New("segmentation fault"))
					r.reconfigured(cfg.Limits, v2)
				} else {
					r.reconfigured(cfg.Limits, v2)
					r.ReportCrash("a", errors.New("segmentation fault"))
				}
				r.begin("a").refused(modeltier.ErrBusy, time.Minute)
				l.Release()
				// That was of the one before only.
				next := r.begin("a")
				time.Sleep(10 * time.Second)
				r.reconfigured(cfg.Limits, v3)
				if got := r.begin("a").served(time.Minute); got.Model().Path != v2.Path {
					t.Errorf("served by %s", got.Model().Path)
				}
				next.leave()
			})
		})
	}
}

// The name of a version is resolved before its lease is granted, and not only before the wait.
func TestAcquire_VersionIsReplacedWhileItIsWaitedFor_LeaseIsOnTheOneNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		v1, v2 := version(t, dir, "a", '1'), version(t, dir, "a", '2')
		cfg := onlyRAM(v1, model("b", 1))
		r := newRig(t, cfg)
		one := at(r, "a")
		l := r.get("a")
		r.reconfigured(cfg.Limits, v2, model("b", 1))
		named, any, set := r.begin(one), r.begin("a"), r.beginAll(modeltier.Request{Model: one}, modeltier.Request{Model: "b"})
		time.Sleep(time.Second)
		l.Release()
		for c, want := range map[*client]tier.Model{named: v1, any: v2} {
			if <-c.done; c.err != nil || c.lease.Model().Path != want.Path {
				t.Errorf("served by %+v, %v; want %s", c.lease, c.err, want.Path)
				continue
			}
			c.lease.Release()
		}
		if <-set.done; set.err != nil || set.leases[0].Model().Path != v1.Path {
			t.Errorf("of a set: %+v, %v", set.leases, set.err)
		}
		set.release()
	})
}

func TestRollback_ToTheVersionBeforeAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		v1, v2, v3 := version(t, dir, "a", '1'), version(t, dir, "a", '2'), version(t, dir, "a", '3')
		v1.Capabilities = []string{"embeddings"}
		v3.Home, v3.Pinned = tier.RAM, true
		cfg := onlyRAM(v1)
		cfg.Aliases = map[string]string{"chat": "a"}
		r := newRig(t, cfg)
		one := at(r, "a")
		r.reconfigured(cfg.Limits, v2)
		time.Sleep(time.Second)
		two := at(r, "a")
		if err := r.SetAlias(t.Context(), "second", two); err != nil {
			t.Fatal(err)
		}
		r.reconfigured(cfg.Limits, v3)
		r.use("a")
		three := at(r, "a")
		r.wantServes("second", two)
		back := func(name, version, want string) {
			t.Helper()
			now, err := r.Rollback(t.Context(), name, version)
			if err != nil || tier.VersionName("a", now) != want {
				t.Fatalf("rolled back to %s, %v; want %s", now, err, want)
			}
			time.Sleep(10 * time.Second)
			r.wantServes(want, "a")
			r.wantServes("chat", "a")
		}
		back("chat", "", two)
		r.wantVersions("a", one, three)
		r.wantServes("second", "a")
		if s := r.model("a"); s.Path != v2.Path || s.Home != tier.RAM || !s.Pinned || s.Tier != tier.RAM {
			t.Errorf("%+v, want what was said of a, and the path of its version", s)
		}
		wantReconfiguration(t, r.reconfigured(cfg.Limits, v3), modeltier.Reconfiguration{})
		r.wantServes(two, "a")
		back("a", "", three)
		r.wantVersions("a", one, two)
		r.wantServes("second", two)
		_, digits, _ := strings.Cut(one, "@")
		back("a", digits[:6], one)
		r.wantVersions("a", two, three)
		if s := r.model("a"); !slices.Equal(s.Capabilities, v1.Capabilities) {
			t.Errorf("it can %q, want what its content can", s.Capabilities)
		}
		// The configuration says something else: that counts.
		v4 := version(t, dir, "a", '4')
		wantReconfiguration(t, r.reconfigured(cfg.Limits, v4), modeltier.Reconfiguration{Replaced: []string{"a"}})
		time.Sleep(time.Second)
		r.wantVersions("a", one, two, three)
	})
}

func TestRollback_ModelInUse_IsTheOtherWhenItIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		v1, v2 := version(t, dir, "a", '1'), version(t, dir, "a", '2')
		cfg := onlyRAM(v1)
		r := newRig(t, cfg)
		one := at(r, "a")
		r.reconfigured(cfg.Limits, v2)
		time.Sleep(time.Second)
		two, l, older := at(r, "a"), r.get("a"), r.get(one)
		if _, err := r.Rollback(t.Context(), "a", ""); err != nil {
			t.Fatal(err)
		}
		next := r.begin("a")
		time.Sleep(10 * time.Second)
		if !next.waits() || l.Model().Path != v2.Path || r.mover.At("a") != tier.RAM {
			t.Error("it was taken from under a lease")
		}
		if _, err := r.Rollback(t.Context(), "a", ""); !errors.Is(err, modeltier.ErrInUse) {
			t.Errorf("a second rollback meanwhile: %v", err)
		}
		l.Release()
		if got := next.served(10*time.Second + 1500*time.Millisecond); got.Model().Path != v1.Path {
			t.Errorf("served by %s", got.Model().Path)
		} else {
			got.Release()
		}
		r.wantServes(one, "a") // what is leased still under that name takes no more
		older.Release()
		time.Sleep(10 * time.Second)
		r.wantServes(one, "a")
		r.wantVersions("a", two)
		r.wantUsed(tier.GiB)
	})
}

func TestRollback_Wrong_IsNamedAndChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		v1, v2 := version(t, dir, "Llama-3", '1'), version(t, dir, "Llama-3", '2')
		cfg := onlyRAM(v1, model("b", 1))
		r := newRig(t, cfg)
		one := at(r, "Llama-3")
		r.reconfigured(cfg.Limits, v2, model("b", 1))
		time.Sleep(time.Second)
		two := at(r, "Llama-3")
		for _, c := range []struct{ request, code, says string }{
			{`{"model_name": "llama_3"}`, "not_found", "Did you mean Llama-3?"},
			{`{"model_name": "b"}`, "not_found", "no older version"},
			{`{"model_name": "Llama-3", "version": "abcdef"}`, "not_found", one},
			{`{"model_name": "Llama-3", "version": "1"}`, "not_found", two},
			{`{"model_name": "Llama-3", "version": "` + strings.TrimPrefix(two, "Llama-3@") + `"}`, "invalid_request", "another than the current one"},
			{`{"version": "abcdef"}`, "invalid_request", "model_name"},
			{`{"model_name": "Llama-3", "to": "abcdef"}`, "invalid_request", "model_name, version"},
		} {
			answer := string(r.HandleRequest(t.Context(), []byte(`{"rollback": `+c.request+`}`)))
			var a struct {
				Code        string
				Suggestions []string
			}
			if err := json.Unmarshal([]byte(answer), &a); err != nil || a.Code != c.code || !strings.Contains(answer, c.says) || len(a.Suggestions) == 0 {
				t.Errorf("%s: %s, want %s that says %q", c.request, answer, c.code, c.says)
			}
		}
		written(t, v1.Path, '9')
		if _, err := r.Rollback(t.Context(), "Llama-3", ""); !errors.Is(err, modeltier.ErrInvalid) {
			t.Errorf("other content is where it was: %v", err)
		}
		if now := at(r, "Llama-3"); now != two {
			t.Errorf("it is %s", now)
		}
		written(t, v1.Path, '1')
		want := `{"status":"success","model_name":"Llama-3","version":"` + r.model(one).Version + `"}`
		if got := string(r.HandleRequest(t.Context(), []byte(`{"rollback": {"model_name": "Llama-3"}}`))); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

func TestRestart_VersionsAndRollbacks_AreAsTheyWereLeft(t *testing.T) {
	dir := t.TempDir()
	v1, v2, v3 := version(t, dir, "a", '1'), version(t, dir, "a", '2'), version(t, dir, "a", '3')
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(v1, model("b", 1))
		cfg.StateDir = t.TempDir()
		var r *rig
		start := func(models ...tier.Model) {
			t.Helper()
			if r != nil {
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
			}
			next := onlyRAM(models...)
			next.StateDir = cfg.StateDir
			r = newRig(t, next)
		}
		start(cfg.Models...)
		one := at(r, "a")
		l := r.get("a") // until the Manager is closed: the switch has not come by then
		r.reconfigured(cfg.Limits, v2, cfg.Models[1])
		_ = l
		for range 2 { // also what was kept of what was kept
			start(v2, cfg.Models[1])
			r.wantVersions("a", one)
		}
		two := at(r, "a")
		if _, err := r.Rollback(t.Context(), "a", ""); err != nil {
			t.Fatal(err)
		}
		if err := r.SetPinned(t.Context(), "a", true); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			start(v2, cfg.Models[1])
			r.wantServes(one, "a")
			r.wantVersions("a", two)
			if s := r.model("a"); s.Path != v1.Path || !s.Pinned {
				t.Errorf("after a restart it is %+v", s)
			}
			wantReconfiguration(t, r.reconfigured(cfg.Limits, v2, cfg.Models[1]), modeltier.Reconfiguration{})
		}
		// The Config says something else than when it was rolled back.
		start(v3, cfg.Models[1])
		three := at(r, "a")
		if s := r.model("a"); s.Path != v3.Path {
			t.Errorf("it is %+v", s)
		}
		r.wantVersions("a", one, two)
		if _, err := r.Rollback(t.Context(), "a", ""); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(v1.Path); err != nil {
			t.Fatal(err)
		}
		start(v3, cfg.Models[1])
		r.wantVersions("a", two)
		if now := at(r, "a"); now != three {
			t.Errorf("the files of what it was rolled back to are gone, and it is %s", now)
		}
	})
}

// hubRevision has the cache of Hugging Face hold a revision of a model, which is current
// from then on.
func hubRevision(t *testing.T, dir, revision string) {
	t.Helper()
	content := tensors(64)
	digest := fmt.Sprintf("%x", sha256.Sum256(content))
	repository := filepath.Join(dir, "models--o--m")
	link := filepath.Join(repository, "snapshots", revision, "m.safetensors")
	for path, content := range map[string][]byte{
		filepath.Join(repository, "blobs", digest): content, filepath.Join(repository, "refs", "main"): []byte(revision),
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o700), os.Symlink(filepath.Join("..", "..", "blobs", digest), link)); err != nil {
		t.Fatal(err)
	}
}

func TestWatchModelDir_HubCacheGetsARevision_TheOneBeforeCanBeHadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf(t)
		hubRevision(t, s.dir, "1")
		cfg := s.watching()
		cfg.StateDir = t.TempDir()
		r := newRig(t, cfg)
		names := r.names()
		if len(names) != 1 {
			t.Fatalf("there are %q", names)
		}
		name := names[0]
		one := at(r, name)
		hubRevision(t, s.dir, "2")
		r.settle()
		two := at(r, name)
		r.wantVersions(name, one)
		if one == two || !strings.HasPrefix(r.model(name).Version, tier.VersionDigest) {
			t.Errorf("it was %s, and is %s", one, two)
		}
		if _, err := r.Rollback(t.Context(), name, ""); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			r.settle()
			r.reconfigured(cfg.Limits)
			r.settle()
			r.wantServes(one, name)
			r.wantVersions(name, two)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			next := s.watching()
			next.StateDir = cfg.StateDir
			r = newRig(t, next)
		}
		hubRevision(t, s.dir, "3")
		r.settle()
		if now := at(r, name); now == one || now == two {
			t.Errorf("there is a newer revision, and it is %s", now)
		}
		r.wantVersions(name, two, one)
	})
}

// A state folder that was written before there were versions, by its format of then.
func TestRestart_StateFromBeforeThereWereVersions_IsTakenUp(t *testing.T) {
	dir := t.TempDir()
	v1, v2 := version(t, dir, "a", '1'), version(t, dir, "a", '2')
	hot := version(t, dir, "hot", '1')
	basis := `{"limits":{"ram":5368709120,"swap":-1,"reserved":-1,"max_model":5368709120},"homes":{"a":"storage","b":"storage","gone":"storage"}}`
	body := fmt.Sprintf(`{"generation":3,"saved":"2026-01-02T03:04:05Z","limits":{},"homes":{"b":"ram"},"pins":{"a":true},"aliases":{"chat":"a","h":"hot"},"removed":["gone"],"blobs":{"basis":%q},"models":[{"name":"hot","path":%q,"size":1073741824,"home":"swap","capabilities":["x"],"labels":{"k":"v"}}]}`+"\n",
		base64.StdEncoding.EncodeToString([]byte(basis)), hot.Path)
	state := t.TempDir()
	header := fmt.Sprintf("modeltier-state 1 %x\n", sha256.Sum256([]byte(body)))
	if err := os.WriteFile(filepath.Join(state, "state-a"), []byte(header+body), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		cfg := onlyRAM(v1, model("b", 1), model("gone", 1))
		cfg.StateDir = state
		r := newRig(t, cfg)
		for range 2 {
			if s := r.Status(); len(s.StateTrouble) > 0 || len(s.Models) != 3 || s.Aliases["h"] != "hot" {
				t.Fatalf("%d models, aliases %v, trouble %q", len(s.Models), s.Aliases, s.StateTrouble)
			}
			r.wantServes("chat", "a")
			if h := r.model("hot"); h.Home != tier.Swap || h.Labels["k"] != "v" || h.Version == "" || !r.model("a").Pinned || r.model("b").Home != tier.RAM {
				t.Errorf("hot is %+v, a is pinned: %v, b is at home in %v", h, r.model("a").Pinned, r.model("b").Home)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			cfg = onlyRAM(cfg.Models...)
			cfg.StateDir = state
			r = newRig(t, cfg)
		}
		one := at(r, "a")
		r.reconfigured(cfg.Limits, v2, model("b", 1), model("gone", 1))
		time.Sleep(time.Second)
		r.wantVersions("a", one)
	})
}

func TestRestart_MoverOfAVersionIsConfiguredNoMore_TheConfigCounts(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	v1, v2 := version(t, dir, "a", '1'), version(t, dir, "a", '2')
	v1.Mover, v2.Mover = "old", "new"
	was, is := tier.Mover(&tiertest.Mover{OnlyRAM: true}), tier.Mover(&tiertest.Mover{OnlyRAM: true})
	synctest.Test(t, func(t *testing.T) {
		var r *rig
		start := func(movers map[string]tier.Mover, m tier.Model) {
			t.Helper()
			if r != nil {
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
			}
			cfg := onlyRAM(m)
			cfg.StateDir, cfg.Movers = state, movers
			r = newRig(t, cfg)
		}
		both, left := map[string]tier.Mover{"old": was, "new": is}, map[string]tier.Mover{"new": is}
		keepsV1 := func() (one string) {
			t.Helper()
			start(both, v1)
			one = at(r, "a")
			r.reconfigured(r.Status().Limits, v2)
			time.Sleep(time.Second)
			r.wantVersions("a", one)
			return one
		}
		keepsV1()
		start(left, v2)
		r.wantVersions("a")
		r.use("a")

		keepsV1()
		if _, err := r.Rollback(t.Context(), "a", ""); err != nil {
			t.Fatal(err)
		}
		if err := r.SetPinned(t.Context(), "a", true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		start(left, v2)
		if s := r.model("a"); s.Path != v2.Path || !s.Pinned {
			t.Errorf("rolled back to what cannot be moved, it is %+v", s)
		}
		r.use("a")
		time.Sleep(time.Second)
		r.wantVersions("a")
	})
}

func TestRollback_VersionIsNamedWhileItsOldEntryLeaves_IsTheModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		v1, v2 := version(t, dir, "a", '1'), version(t, dir, "a", '2')
		cfg := slowUnload(onlyRAM(v1), 5*time.Second)
		r := newRig(t, cfg)
		one := at(r, "a")
		r.reconfigured(cfg.Limits, v2)
		time.Sleep(time.Second)
		two := at(r, "a")
		if err := r.SetAlias(t.Context(), "stable", one); err != nil {
			t.Fatal(err)
		}
		l := r.get(one)
		if _, err := r.Rollback(t.Context(), "a", ""); err != nil {
			t.Fatal(err)
		}
		r.use("a")
		for range 10 {
			for _, name := range []string{one, "stable"} {
				next, err := r.Acquire(t.Context(), modeltier.Request{Model: name})
				if err != nil {
					t.Fatal(err)
				}
				l.Release()
				l = next
				if s, ok := r.Manager.Model(name); !ok || s.Name != "a" {
					t.Errorf("%s is %q", name, s.Name)
				}
			}
			time.Sleep(10 * time.Second)
		}
		if used := r.Status().RAM.Used; used != tier.GiB {
			t.Errorf("%v in ram for one version", used)
		}
		r.wantVersions("a", two)
		l.Release()
	})
}

func TestRollback_ContextEnds_ReturnsAVersionOrAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		v1, v2 := version(t, dir, "a", '1'), version(t, dir, "a", '2')
		cfg := onlyRAM(v1)
		r := newRig(t, cfg)
		r.reconfigured(cfg.Limits, v2)
		time.Sleep(time.Second)
		l := r.get("a") // so that all but the first are refused, on the loop
		defer l.Release()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 200 { // the call returns while the loop is at it
			if now, err := r.Rollback(ctx, "a", ""); (err == nil) != (now != "") {
				t.Fatalf("%q, %v", now, err)
			}
		}
	})
}

func TestReconfigure_FollowsARollback_NothingIsReloaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		v1, v2 := version(t, dir, "a", '1'), version(t, dir, "a", '2')
		cfg := onlyRAM(v1)
		r := newRig(t, cfg)
		r.reconfigured(cfg.Limits, v2)
		time.Sleep(time.Second)
		if _, err := r.Rollback(t.Context(), "a", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		l := r.get("a")
		v1.KeepAlive = time.Hour
		wantReconfiguration(t, r.reconfigured(cfg.Limits, v1), modeltier.Reconfiguration{Changed: []string{"a"}})
		r.use("a")
		l.Release()
		r.wantMoves("load a")
	})
}

func TestSetAlias_VersionOfAModelWithALongName_IsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v1 := version(t, t.TempDir(), "a", '1')
		v1.Name = strings.Repeat("n", tier.MaxNameLength-8)
		r := newRig(t, onlyRAM(v1))
		_, digits, _ := strings.Cut(r.model(v1.Name).Version, ":")
		if err := r.SetAlias(t.Context(), "stable", v1.Name+"@"+digits[:6]); !errors.Is(err, modeltier.ErrInvalid) {
			t.Errorf("%v", err)
		}
		if err := r.SetAlias(t.Context(), "stable", v1.Name); err != nil {
			t.Error(err)
		}
	})
}
