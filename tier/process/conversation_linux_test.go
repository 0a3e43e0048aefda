package process

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// stateOf is what a fake engine saves of a conversation: who had it, what was said, and
// bytes that follow from both.
func stateOf(owner, said string, size int) []byte {
	head := fmt.Sprintf("%s|%s|", owner, said)
	seed := uint64(crc32.ChecksumIEEE([]byte(head)))
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	b := make([]byte, len(head)+size)
	r.Read(b[copy(b, head):])
	return b
}

// slot answers as llama-server does to GET, POST with a text that is said, and POST with
// an action.
func (e *fakeServer) slot(w http.ResponseWriter, r *http.Request, slot string) {
	action := r.URL.Query().Get("action")
	if action == "" {
		if said := r.URL.Query().Get("say"); said != "" {
			e.talks[slot] = e.name + "|" + said
		}
		io.WriteString(w, e.talks[slot])
		return
	}
	var body struct{ Filename string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Filename != filepath.Base(body.Filename) {
		http.Error(w, "no name of a file", http.StatusBadRequest)
		return
	}
	e.trace(action + " " + slot)
	path := filepath.Join(e.saves, body.Filename)
	fails := map[string]string{"save": e.Save, "restore": e.Restore}[action]
	switch fails {
	case "refuse":
		http.Error(w, "not supported", http.StatusNotImplemented)
		return
	case "lie":
		return
	case "empty":
		os.WriteFile(path, nil, 0o600)
		return
	case "hang":
		<-r.Context().Done()
		return
	case "die":
		os.Exit(3)
	}
	pace := func(b []byte, each func([]byte) error) (err error) {
		for len(b) > 0 && err == nil {
			n := min(len(b), 64<<10)
			err, b = each(b[:n]), b[n:]
			time.Sleep(e.SavePace)
		}
		return err
	}
	if action == "save" {
		owner, said, _ := strings.Cut(e.talks[slot], "|")
		f, err := os.Create(path)
		if err == nil {
			err = errors.Join(pace(stateOf(owner, said, e.Talk), func(b []byte) error { _, err := f.Write(b); return err }), f.Close())
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
		return
	}
	b, err := os.ReadFile(path)
	part := strings.SplitN(string(b), "|", 3)
	if err != nil || len(part) < 3 || pace(b, func([]byte) error { return nil }) != nil {
		http.Error(w, "no such state", http.StatusBadRequest)
		return
	}
	if e.talks[slot] = part[0] + "|" + part[1]; e.talks[slot] == "|" {
		e.talks[slot] = ""
	}
	if !bytes.Equal(b, stateOf(part[0], part[1], e.Talk)) {
		e.talks[slot] = "damaged"
	}
}

// say has something said in a slot; heard returns what a slot has.
func (r *rig) say(model string, slot int, what string) {
	r.t.Helper()
	r.get(model, fmt.Sprintf("/slots/%d?say=%s", slot, what))
}

func (r *rig) heard(model string, slot int) string {
	r.t.Helper()
	return r.get(model, fmt.Sprintf("/slots/%d", slot))
}

// kept returns the files of conversations in a state folder, without those folders.
func kept(t testing.TB, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, conversationsDir), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}

func talker(f fake) Options {
	f.Talk = cmpOr(f.Talk, 300<<10)
	e := f.engine()
	e.Slots = 2
	return Options{Engine: e}
}

func cmpOr(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

// talking is a rig of which the model was told something in both slots.
func talking(t *testing.T, dir string, opts Options, m tier.Model) *rig {
	t.Helper()
	opts.StateDir = dir
	r := newRig(t, newSystem(), opts)
	r.move(m, tier.Storage, tier.RAM)
	r.say(m.Name, 0, "hello")
	r.say(m.Name, 1, "there")
	return r
}

func (r *rig) wantTalk(m tier.Model, hello, there string) {
	r.t.Helper()
	if a, b := r.heard(m.Name, 0), r.heard(m.Name, 1); a != hello || b != there {
		r.t.Errorf("it has %q and %q, and not %q and %q; %+v", a, b, hello, there, r.engine(m.Name).Conversation)
	}
}

// However an engine comes to be stopped, the next has its conversations before it counts
// as ready.
func TestConversation_EngineStops_TheNextHasIt(t *testing.T) {
	for name, stop := range map[string]func(r *rig, m tier.Model) tier.Tier{
		"ToStorage": func(r *rig, m tier.Model) tier.Tier { r.move(m, tier.RAM, tier.Storage); return tier.Storage },
		"ToSwap":    func(r *rig, m tier.Model) tier.Tier { r.move(m, tier.RAM, tier.Swap); return tier.Swap },
		"FrozenBefore": func(r *rig, m tier.Model) tier.Tier {
			r.move(m, tier.RAM, tier.Swap)
			if s := r.engine(m.Name); s.State != Frozen {
				r.t.Fatalf("it is %s: %s", s.State, s.Note)
			}
			r.move(m, tier.Swap, tier.Storage)
			return tier.Storage
		},
		"Close": func(r *rig, m tier.Model) tier.Tier {
			if err := r.Close(); err != nil {
				r.t.Error(err)
			}
			return tier.Storage
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, opts := t.TempDir(), talker(fake{})
			if name == "ToSwap" {
				opts.Engine.Standby = StandbyStop
			} else {
				opts.Engine.Standby = StandbyFreeze
			}
			opts.Engine.Env = append(opts.Engine.Env, "SAME=1")
			m := modelOf(t, "m", 1<<20)
			r := talking(t, dir, opts, m)
			from := stop(r, m)
			if files := kept(t, dir); len(files) != 2 {
				t.Fatalf("kept are %v", files)
			}
			if name == "Close" {
				// The token is in the environment, which would make it another engine.
				next := opts
				next.StateDir, next.Engine = dir, r.opts.Engine
				mover, err := New(next)
				if err != nil {
					t.Fatal(err)
				}
				defer mover.Close()
				r = &rig{Mover: mover, t: t}
			}
			r.move(m, from, tier.RAM)
			r.wantTalk(m, "m|hello", "m|there")
			s := r.Status()
			if c := r.engine("m").Conversation; c == nil || c.Bytes < 600<<10 || c.At.IsZero() || c.Trouble != "" || s.Conversations.Folder == "" {
				t.Errorf("Status has %+v, %+v", c, s.Conversations)
			}
		})
	}
}

func TestConversation_FrozenAndThawed_StaysInTheEngine(t *testing.T) {
	dir, opts := t.TempDir(), talker(fake{})
	opts.Engine.Standby = StandbyFreeze
	m := modelOf(t, "m", 1<<20)
	r := talking(t, dir, opts, m)
	r.move(m, tier.RAM, tier.Swap)
	if s := r.engine("m"); s.State != Frozen || s.own() == 0 {
		t.Errorf("it is %s and has %v of its own", s.State, s.own())
	}
	r.move(m, tier.Swap, tier.RAM)
	r.wantTalk(m, "m|hello", "m|there")
	if files := kept(t, dir); len(files) > 0 {
		t.Errorf("kept are %v", files)
	}
}

// A frozen engine is being stopped because its weights cannot be dropped, and its model is
// asked for again just then: the conversation is not lost to that.
func TestConversation_WantedBackWhileItIsSaved_IsThere(t *testing.T) {
	sys, trace := withoutCgroups(), filepath.Join(t.TempDir(), "trace")
	sys.pageOut = func(context.Context, int, []region) error { return unix.EPERM }
	opts := talker(fake{Trace: trace, SavePace: 20 * time.Millisecond})
	opts.StateDir = t.TempDir()
	r, m := newRig(t, sys, opts), modelOf(t, "m", 64<<20)
	r.move(m, tier.Storage, tier.RAM)
	r.say("m", 0, "hello")
	r.say("m", 1, "there")
	r.move(m, tier.RAM, tier.Swap)
	if s := r.engine("m"); s.State != Frozen {
		t.Fatalf("it is %s: %s", s.State, s.Note)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Uncache(t.Context(), "m", tier.Unlimited) }()
	eventually(t, "it is saved", func() bool { b, _ := os.ReadFile(trace); return len(b) > 0 })
	r.move(m, tier.Swap, tier.RAM)
	<-ended
	r.wantTalk(m, "m|hello", "m|there")
}

// A save that is under way when less time is left than it takes goes on: to drop weights
// has seconds, and at a Close the conversation is wanted.
func TestConversation_CallEndsWhileItIsSaved_IsSavedAllTheSame(t *testing.T) {
	for name, end := range map[string]struct {
		from  tier.Tier // where the model is
		begin func(ctx context.Context, r *rig, m tier.Model) error
		cause error
	}{
		"Uncache": {tier.Swap, func(ctx context.Context, r *rig, m tier.Model) error {
			return r.Uncache(ctx, m.Name, tier.Unlimited)
		}, context.DeadlineExceeded},
		"MoveAtClose": {tier.RAM, func(ctx context.Context, r *rig, m tier.Model) error {
			return r.Move(ctx, tier.Move{Model: m, From: tier.RAM, To: tier.Storage}, nil)
		}, tier.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			sys, trace := withoutCgroups(), filepath.Join(t.TempDir(), "trace")
			sys.pageOut = func(context.Context, int, []region) error { return unix.EPERM }
			opts := talker(fake{Trace: trace, SavePace: 50 * time.Millisecond})
			opts.StateDir = t.TempDir()
			r, m := newRig(t, sys, opts), modelOf(t, "m", 64<<20)
			r.move(m, tier.Storage, tier.RAM)
			r.say("m", 0, "hello")
			r.say("m", 1, "there")
			if end.from == tier.Swap {
				r.move(m, tier.RAM, tier.Swap)
				if s := r.engine("m"); s.State != Frozen {
					t.Fatalf("it is %s: %s", s.State, s.Note)
				}
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- end.begin(ctx, r, m) }()
			eventually(t, "it is saved", func() bool { b, _ := os.ReadFile(trace); return len(b) > 0 })
			cancel(end.cause)
			if err := <-ended; end.from == tier.Swap && (!errors.Is(err, end.cause) || len(kept(t, opts.StateDir)) == 2) {
				t.Errorf("it has not returned when its time was over: %v", err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if files := kept(t, opts.StateDir); len(files) != 2 {
				t.Errorf("kept are %v: %+v", files, r.engine("m").Conversation)
			}
		})
	}
}

// What was not used since it was restored is not written again.
func TestConversation_NotUsedSince_NotSavedAgain(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "trace")
	m := modelOf(t, "m", 1<<20)
	r := talking(t, t.TempDir(), talker(fake{Trace: trace}), m)
	r.move(m, tier.RAM, tier.Storage)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Storage)
	b, err := os.ReadFile(trace)
	if n, back := strings.Count(string(b), "save"), strings.Count(string(b), "restore"); err != nil || n != 2 || back != 2 {
		t.Errorf("of 2 slots %d were saved and %d restored: %s %v", n, back, b, err)
	}
	r.move(m, tier.Storage, tier.RAM)
	r.wantTalk(m, "m|hello", "m|there")
}

// No engine is given what was saved by another one, or with another model.
func TestConversation_EngineOrModelChanged_NothingIsRestored(t *testing.T) {
	adapter := filepath.Join(t.TempDir(), "adapter")
	write(t, adapter, "one")
	program := filepath.Join(t.TempDir(), "program")
	touch := func(path string) {
		info, err := os.Stat(path)
		if err == nil {
			err = os.Chtimes(path, time.Time{}, info.ModTime().Add(-time.Second))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(e *Engine, m *tier.Model){
		"same":         func(*Engine, *tier.Model) {},
		"argument":     func(e *Engine, m *tier.Model) { e.Command = append(e.Command, "more") },
		"environment":  func(e *Engine, m *tier.Model) { e.Env = append(e.Env, "KIND=q8") },
		"context":      func(e *Engine, m *tier.Model) { e.Context = 9 },
		"program":      func(e *Engine, m *tier.Model) { touch(program) },
		"adapter":      func(e *Engine, m *tier.Model) { touch(adapter) },
		"weights":      func(e *Engine, m *tier.Model) { touch(m.Path) },
		"quantisation": func(e *Engine, m *tier.Model) { m.Labels = map[string]string{QuantisationLabel: "Q9"} },
		"name":         func(e *Engine, m *tier.Model) { m.Name = "n" },
	} {
		t.Run(name, func(t *testing.T) {
			opts := talker(fake{})
			if err := os.RemoveAll(program); err != nil {
				t.Fatal(err)
			}
			if err := os.Link(os.Args[0], program); err != nil {
				b, err := os.ReadFile(os.Args[0])
				if err := errors.Join(err, os.WriteFile(program, b, 0o700)); err != nil {
					t.Fatal(err)
				}
			}
			opts.Engine.Command[0] = program
			opts.Engine.Command = append(opts.Engine.Command, "-name="+adapter, "-name={name}")
			m := modelOf(t, "m", 1<<20)
			r := talking(t, t.TempDir(), opts, m)
			r.move(m, tier.RAM, tier.Storage)
			change(&r.opts.Engine, &m)
			r.move(m, tier.Storage, tier.RAM)
			if name == "same" {
				r.wantTalk(m, "m|hello", "m|there")
			} else {
				r.wantTalk(m, "", "")
			}
		})
	}
}

// A program that is replaced between the look at it and its start is another engine.
func TestRestore_EngineReplacedWhileItStarts_NothingIsRestored(t *testing.T) {
	m := modelOf(t, "m", 1<<20)
	r := talking(t, t.TempDir(), talker(fake{}), m)
	r.move(m, tier.RAM, tier.Storage)
	make := r.sys.cgroup
	r.sys.cgroup = func(parent, mark string) (cgroup, error) {
		now := time.Now().Add(time.Hour)
		if err := os.Chtimes(m.Path, now, now); err != nil {
			t.Error(err)
		}
		return make(parent, mark)
	}
	r.move(m, tier.Storage, tier.RAM)
	r.wantTalk(m, "", "")
}

// What is not as it was saved is removed, and its slot starts empty.
func TestRestore_DamagedFile_RemovedAndTheEngineStartsCold(t *testing.T) {
	for name, damage := range map[string]func(path string, b []byte) error{
		"byte":    func(path string, b []byte) error { b[len(b)/2] ^= 1; return os.WriteFile(path, b, 0o600) },
		"short":   func(path string, b []byte) error { return os.WriteFile(path, b[:len(b)-1], 0o600) },
		"zeroes":  func(path string, b []byte) error { return os.WriteFile(path, make([]byte, len(b)), 0o600) },
		"empty":   func(path string, b []byte) error { return os.Truncate(path, 0) },
		"another": func(path string, b []byte) error { return os.WriteFile(path, stateOf("x", "y", 300<<10), 0o600) },
		"link": func(path string, b []byte) error {
			to := filepath.Join(t.TempDir(), "elsewhere")
			return errors.Join(os.WriteFile(to, b, 0o600), os.Remove(path), os.Symlink(to, path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, m := t.TempDir(), modelOf(t, "m", 1<<20)
			r := talking(t, dir, talker(fake{}), m)
			r.move(m, tier.RAM, tier.Storage)
			files := kept(t, dir)
			i := slices.IndexFunc(files, func(path string) bool { return strings.HasPrefix(filepath.Base(path), "0.") })
			b, err := os.ReadFile(files[i])
			if err := errors.Join(err, damage(files[i], b)); err != nil {
				t.Fatal(err)
			}
			r.move(m, tier.Storage, tier.RAM)
			r.wantTalk(m, "", "m|there")
			if info, err := os.Lstat(files[i]); err == nil && info.Mode().IsRegular() {
				t.Error("the damaged file is still there")
			}
			if c := r.engine("m").Conversation; name != "link" && !strings.Contains(c.Trouble, "damaged") {
				t.Errorf("Status has %+v", c)
			}
		})
	}
}

// An engine that fails to restore serves without, and is not asked again.
func TestRestore_EngineFails_StartsColdAndForgets(t *testing.T) {
	for how, starts := range map[string]int{"refuse": 1, "hang": 2, "die": 2} {
		t.Run(how, func(t *testing.T) {
			trace := filepath.Join(t.TempDir(), "trace")
			dir, m, opts := t.TempDir(), modelOf(t, "m", 1<<20), talker(fake{Restore: how, Trace: trace})
			opts.Conversations.Timeout = 2 * time.Second
			r := talking(t, dir, opts, m)
			r.move(m, tier.RAM, tier.Storage)
			before := r.engine("m").Starts
			r.move(m, tier.Storage, tier.RAM)
			if n := r.engine("m").Starts - before; n != starts {
				t.Errorf("it was started %d times and not %d", n, starts)
			}
			r.wantTalk(m, "", "")
			if files := kept(t, dir); len(files) > 0 {
				t.Errorf("kept are %v", files)
			}
			if c := r.engine("m").Conversation; !strings.Contains(c.Trouble, "not restored") {
				t.Errorf("Status has %+v", c)
			}
		})
	}
}

// What there was no time for is neither damaged nor refused: it is there for the next start,
// and the engine is not to blame.
func TestRestore_TimeIsOverBeforeAFileIsSent_FileStays(t *testing.T) {
	for size, talk := range map[string]int{"Small": 0, "OfManyReads": 9 << 20} {
		t.Run(size, func(t *testing.T) {
			dir, m, opts := t.TempDir(), modelOf(t, "m", 1<<20), talker(fake{Talk: talk})
			r := talking(t, dir, opts, m)
			r.move(m, tier.RAM, tier.Storage)
			limit, before := r.opts.Conversations.Timeout, r.engine("m").Starts
			r.opts.Conversations.Timeout = time.Nanosecond
			r.move(m, tier.Storage, tier.RAM)
			if e := r.engine("m"); e.Starts-before != 1 || !strings.Contains(e.Conversation.Trouble, "longer than") {
				t.Errorf("it was started %d times: %+v", e.Starts-before, e.Conversation)
			}
			if files := kept(t, dir); len(files) != 2 {
				t.Errorf("kept are %v", files)
			}
			r.move(m, tier.RAM, tier.Storage)
			r.opts.Conversations.Timeout = limit
			r.move(m, tier.Storage, tier.RAM)
			r.wantTalk(m, "m|hello", "m|there")
		})
	}
}

// Whatever goes wrong with a save, the engine stops in its time and nothing of it is kept.
func TestSave_Fails_TheStopDoesNot(t *testing.T) {
	for _, c := range []struct {
		name, says string
		fake       fake
		change     func(o *Options, sys *system)
	}{
		{"refused", "not supported", fake{Save: "refuse"}, nil},
		{"no file", "no file", fake{Save: "lie"}, nil},
		{"empty", "empty", fake{Save: "empty"}, nil},
		{"dies", "", fake{Save: "die"}, nil},
		{"hangs", "longer than", fake{Save: "hang"}, nil},
		{"slow", "longer than", fake{SavePace: time.Second}, nil},
		{"too large", "MaxBytes", fake{}, func(o *Options, _ *system) { o.Conversations.MaxBytes = 1000 }},
		{"grows too large", "MaxBytes", fake{Talk: 4 << 20, SavePace: 50 * time.Millisecond, Stubborn: true}, func(o *Options, _ *system) {
			o.Conversations.MaxBytes, o.Conversations.Timeout, o.StopTimeout = 300<<10, patience, patience
		}},
		{"disk full", "free", fake{}, func(_ *Options, s *system) {
			s.room = func(string) (tier.Bytes, error) { return minRoom + tier.KiB, nil }
		}},
		{"disk fills", "free", fake{Talk: 4 << 20, SavePace: 50 * time.Millisecond, Stubborn: true}, func(o *Options, s *system) {
			o.Conversations.Timeout, o.StopTimeout = patience, patience
			n := 0
			s.room = func(string) (tier.Bytes, error) {
				if n++; n == 1 {
					return tier.Unlimited, nil
				}
				return minRoom - 1, nil
			}
		}},
		{"room unknown", "room", fake{}, func(_ *Options, s *system) { s.room = nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, opts, sys := t.TempDir(), talker(c.fake), newSystem()
			opts.StateDir, opts.Conversations.Timeout = dir, 500*time.Millisecond
			if c.change != nil {
				c.change(&opts, sys)
			}
			r, m := newRig(t, sys, opts), modelOf(t, "m", 1<<20)
			r.move(m, tier.Storage, tier.RAM)
			r.say("m", 0, "hello")
			began := time.Now()
			r.move(m, tier.RAM, tier.Storage)
			if took := time.Since(began); opts.StopTimeout == patience && took > patience/2 {
				t.Errorf("an engine that writes too much was left to write on for %v", took)
			}
			if files := kept(t, dir); len(files) > 0 {
				t.Errorf("kept are %v", files)
			}
			if e := r.engine("m"); e.Conversation == nil || !strings.Contains(e.Conversation.Trouble, "not saved") || !strings.Contains(e.Conversation.Trouble, c.says) {
				t.Errorf("Status has %+v", e.Conversation)
			}
			r.move(m, tier.Storage, tier.RAM)
			if got := r.heard("m", 0); got != "" {
				t.Errorf("the next engine has %q", got)
			}
		})
	}
}

// Some engines refuse each time, which is told once.
func TestSave_FailsAgainAndAgain_LoggedOnce(t *testing.T) {
	var said strings.Builder
	opts := talker(fake{Save: "refuse"})
	opts.StateDir, opts.Logger = t.TempDir(), slog.New(slog.NewTextHandler(&said, nil))
	r, m := newRig(t, newSystem(), opts), modelOf(t, "m", 1<<20)
	for range 3 {
		r.move(m, tier.Storage, tier.RAM)
		r.say("m", 0, "hello")
		r.move(m, tier.RAM, tier.Storage)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(said.String(), "not saved"); n != 1 {
		t.Errorf("logged %d times: %s", n, said.String())
	}
}

// Engines that stop together see the same room on the disk, which is not there for each.
func TestArchive_SavesAtTheSameTime_RoomIsTakenOnce(t *testing.T) {
	a := &archive{}
	const free = minRoom + 100
	if err := a.take(free, 60); err != nil {
		t.Error(err)
	}
	if err := a.take(free, 60); err == nil || !strings.Contains(err.Error(), "others") {
		t.Errorf("the second is told %v", err)
	}
	if err := a.take(free, 40); err != nil {
		t.Error(err)
	}
	a.give(60)
	if err := a.take(free, 60); err != nil {
		t.Error(err)
	}
}

// What is kept has a bound in bytes, by which the longest unused goes first, and in age.
func TestArchive_TooMuchOrTooOld_LongestUnusedIsDropped(t *testing.T) {
	dir, opts := t.TempDir(), talker(fake{Talk: 1 << 20})
	opts.StateDir, opts.Engine.Slots = dir, 1
	opts.Conversations.MaxBytes = 5 << 20 / 2
	r := newRig(t, newSystem(), opts)
	var models []tier.Model
	for _, name := range []string{"a", "b", "c"} {
		m := modelOf(t, name, 1<<20)
		models = append(models, m)
		r.move(m, tier.Storage, tier.RAM)
		r.say(name, 0, "hello")
		r.move(m, tier.RAM, tier.Storage)
		if name == "b" { // a is used again: b is the longest unused
			r.move(models[0], tier.Storage, tier.RAM)
			if got := r.heard("a", 0); got != "a|hello" {
				t.Fatalf("a has %q", got)
			}
		}
	}
	if s := r.Status().Conversations; s.Files != 2 || s.Bytes < 2<<20 || s.Bytes > opts.Conversations.MaxBytes {
		t.Errorf("Status has %+v", s)
	}
	if n := len(keptIn(r.slots["a"].talk.folder)); n != 1 {
		t.Errorf("of a, which was used after b, %d files are kept", n)
	}
	r.move(models[0], tier.RAM, tier.Storage)
	for _, c := range []struct {
		model int
		want  string
	}{{0, "a|hello"}, {2, "c|hello"}, {1, ""}} {
		m := models[c.model]
		r.move(m, tier.Storage, tier.RAM)
		if got := r.heard(m.Name, 0); got != c.want {
			t.Errorf("%s has %q and not %q", m.Name, got, c.want)
		}
		r.move(m, tier.RAM, tier.Storage)
	}
	old := time.Now().Add(-r.opts.Conversations.MaxAge - time.Minute)
	for _, path := range kept(t, dir) {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(keptIn(r.slots["c"].talk.folder)); n != 1 {
		t.Fatalf("of c, %d files are kept", n)
	}
	r.move(models[2], tier.Storage, tier.RAM)
	if got := r.heard("c", 0); got != "" {
		t.Errorf("of what is too old it has %q", got)
	}
}

// What an engine was writing when it was killed is removed; what one that lives writes,
// and what nothing is known of yet, stays.
func TestArchive_UnfinishedFiles_OfDeadEnginesAreRemoved(t *testing.T) {
	dir, m := t.TempDir(), modelOf(t, "m", 1<<20)
	r := talking(t, dir, talker(fake{}), m)
	folder := r.slots["m"].talk.folder
	mark := r.slots["m"].child.mark
	for _, name := range []string{mark + "-0.part", "DEAD-0.part", "notes"} {
		write(t, filepath.Join(folder, name), "x")
	}
	other, err := New(Options{Engine: fake{}.engine(), StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var names []string
	for _, path := range kept(t, dir) {
		names = append(names, filepath.Base(path))
	}
	slices.Sort(names)
	if want := slices.Sorted(slices.Values([]string{mark + "-0.part", "notes"})); !slices.Equal(names, want) {
		t.Errorf("left are %v and not %v", names, want)
	}
}

// fakeTalker is a process with a Mover that starts an engine, says a number that grows in
// both of its slots, and stops it, over and over. It prints what it is about to do, and
// the numbers of which it knows that they are kept.
func fakeTalker(args []string) int {
	var opts Options
	if err := json.Unmarshal([]byte(args[0]), &opts.Engine); err != nil {
		fmt.Println(err)
		return 2
	}
	opts.StateDir = args[1]
	m, err := New(opts)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	var model tier.Model
	var n int
	if err := errors.Join(json.Unmarshal([]byte(args[2]), &model), json.Unmarshal([]byte(args[3]), &n)); err != nil {
		fmt.Println(err)
		return 2
	}
	r := &rig{Mover: m}
	for ; ; n++ {
		fmt.Println("starts")
		if r.try(model, tier.Storage, tier.RAM) != nil {
			continue // its engine was killed
		}
		url, _ := r.URL(model.Name)
		heard := 0
		for slot := range 2 {
			if res, err := http.Get(fmt.Sprintf("%s/slots/%d?say=%d", url, slot, n)); err == nil {
				res.Body.Close()
				heard++
			}
		}
		fmt.Println("stops")
		if err := r.try(model, tier.RAM, tier.Storage); err == nil && heard == 2 && r.slots[model.Name].talk.trouble == "" {
			fmt.Println("kept", n)
		}
	}
}

// killedTalks is how often TestConversation_KilledAtRandomPoints kills something, 200
// times with MODELTIER_LONG=1.
const killedTalks = 24

// Whenever a server or an engine is killed, the next engine has what was kept last or
// later, or nothing if nothing was; never a part, and never what another engine had.
func TestConversation_KilledAtRandomPoints_NeverForeignNorDamaged(t *testing.T) {
	points := killedTalks
	if os.Getenv("MODELTIER_LONG") != "" {
		points = 200
	}
	dir, m := t.TempDir(), modelOf(t, "m", 1<<20)
	opts := talker(fake{Talk: 1 << 20, SavePace: time.Millisecond})
	opts.StateDir = dir
	token := "MODELTIER_TEST_TOKEN=" + strings.Repeat("t", 8) + filepath.Base(filepath.Dir(dir)) + itoa(os.Getpid())
	opts.Engine.Env = append(opts.Engine.Env, token)
	engine, err := json.Marshal(opts.Engine)
	if err != nil {
		t.Fatal(err)
	}
	model, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	acknowledged, next, empty, parts := 0, 1, 0, 0
	for point := range points {
		cmd := exec.Command(os.Args[0], string(engine), dir, string(model), itoa(next))
		cmd.Env = append(os.Environ(), role+"=talker")
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		out.(*os.File).SetReadDeadline(time.Now().Add(2 * patience))
		lines := bufio.NewScanner(out)
		read := func(n int) {
			for ; n > 0 && lines.Scan(); n-- {
				if _, err := fmt.Sscanf(lines.Text(), "kept %d", &acknowledged); err != nil && lines.Text() != "starts" && lines.Text() != "stops" {
					t.Fatalf("it said %q", lines.Text())
				}
			}
			if n > 0 {
				t.Fatalf("it says nothing more: %v", lines.Err())
			}
		}
		read(1 + rand.IntN(6))
		time.Sleep(rand.N(60 * time.Millisecond))
		if point%2 == 1 {
			for _, pid := range carrying(token) {
				unix.Kill(pid, unix.SIGKILL)
			}
			read(rand.IntN(3))
		}
		cmd.Process.Kill()
		for lines.Scan() { // what it said before
			fmt.Sscanf(lines.Text(), "kept %d", &acknowledged)
		}
		cmd.Wait()
		awaitGone(t, carrying(token))
		for _, path := range kept(t, dir) {
			if strings.HasSuffix(path, partSuffix) {
				parts++
			}
		}

		after, err := New(opts)
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{Mover: after, t: t}
		for _, path := range kept(t, dir) {
			b, err := os.ReadFile(path)
			part := strings.SplitN(string(b), "|", 3)
			if err != nil || !strings.HasSuffix(path, keptSuffix) || len(part) != 3 || part[0] != "m" && part[0] != "" || !bytes.Equal(b, stateOf(part[0], part[1], 1<<20)) {
				t.Errorf("point %d: %s is kept, of %d bytes: %v", point, filepath.Base(path), len(b), err)
			}
		}
		if point%4 == 0 {
			same := after.opts.Engine
			after.opts.Engine.Command = append(slices.Clone(same.Command), "other")
			r.move(m, tier.Storage, tier.RAM)
			r.wantTalk(m, "", "")
			r.move(m, tier.RAM, tier.Storage)
			after.opts.Engine = same
		}
		r.move(m, tier.Storage, tier.RAM)
		has := [2]int{}
		for slot := range has {
			got, n := r.heard("m", slot), &has[slot]
			_, err := fmt.Sscanf(got, "m|%d", n)
			// What an engine has not survived the restoring of is forgotten.
			forgotten := point%2 == 1 && got == ""
			if got != "" && err != nil || *n < acknowledged && !forgotten {
				t.Errorf("point %d: slot %d has %q, and %d was kept", point, slot, got, acknowledged)
			}
			if next = max(next, *n+1); *n == 0 {
				empty++
			}
		}
		acknowledged = min(has[0], has[1])
		r.move(m, tier.RAM, tier.Storage)
		if err := after.Close(); err != nil {
			t.Error(err)
		}
		if left := carrying(token); len(left) > 0 {
			t.Errorf("point %d: processes are left: %v", point, left)
		}
	}
	t.Logf("%d points: up to number %d was kept, %d slots were empty, %d files unfinished", points, next-1, empty, parts)
	if next == 1 {
		t.Error("nothing was ever kept")
	}
}

func TestValidate_Conversations_EachFaultIsNamed(t *testing.T) {
	good := talker(fake{}).Engine
	for want, change := range map[string]func(e *Engine){
		"Engine.Restore":        func(e *Engine) { e.Restore = Request{} },
		"Engine.Save":           func(e *Engine) { e.Save = Request{} },
		"{file}":                func(e *Engine) { e.Save.Body = `{}` },
		"{slot}":                func(e *Engine) { e.Restore.Path = "/slots/0?action=restore" },
		"slash":                 func(e *Engine) { e.Save.Path = "slots" + e.Save.Path },
		"must be one of {slot}": func(e *Engine) { e.Save.Path += "&x={port}" },
		"Engine.Slots":          func(e *Engine) { e.Slots = 1000 },
		"{state}":               func(e *Engine) { e.Save, e.Restore = Request{}, Request{} },
	} {
		e := good
		change(&e)
		if err := e.Validate(); !errors.Is(err, tier.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for field, change := range map[string]func(e *Engine, arg string){
		"Engine.Pause":       func(e *Engine, arg string) { e.Pause, e.Resume = []string{"a", arg}, []string{"b"} },
		"Engine.Resume":      func(e *Engine, arg string) { e.Pause, e.Resume = []string{"a"}, []string{"b", arg} },
		"Engine.StopCommand": func(e *Engine, arg string) { e.StopCommand = []string{"a", arg} },
		"Engine.Processes":   func(e *Engine, arg string) { e.Processes.Command = []string{"a", arg} },
	} {
		for _, saves := range []bool{true, false} {
			e := Engine{Command: []string{"a", "{port}"}}
			if saves {
				e.Save, e.Restore = good.Save, good.Restore
			}
			change(&e, "{state}/x")
			if err := e.Validate(); (err == nil) != saves || err != nil && !strings.Contains(err.Error(), field) {
				t.Errorf("%s has {state}, Save is set: %v: %v", field, saves, err)
			}
		}
	}
	_, err := New(Options{Engine: good})
	if !errors.Is(err, tier.ErrInvalid) || !strings.Contains(err.Error(), "StateDir") {
		t.Errorf("without a StateDir: %v", err)
	}
	_, err = New(Options{Engine: good, StateDir: t.TempDir(), Conversations: Conversations{MaxBytes: -1, MaxAge: -1, Timeout: -1}})
	for _, field := range []string{"MaxBytes", "MaxAge", "Timeout"} {
		if err == nil || !strings.Contains(err.Error(), "Conversations."+field) {
			t.Errorf("%s is not in %v", field, err)
		}
	}
}

func TestRequest_Words_AreEscapedForWhereTheyStand(t *testing.T) {
	r := Request{Path: "/s/{slot}?f={file}&d={state}&n={name}", Body: `{"f":"{state}/{file}","n":"{name}"}`}
	got := r.about(3, "F.kept", `/a b/"c"&`, "m+1")
	if want := (Request{Path: "/s/3?f=F.kept&d=%2Fa%20b%2F%22c%22%26&n=m%2B1", Body: `{"f":"/a b/\"c\"\u0026/F.kept","n":"m+1"}`}); got != want {
		t.Errorf("%+v", got)
	}
}
