package modeltier_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// crashDir passes the state folder to the child of
// TestManager_KilledAtRandomPoints, crashSeed the seed of its random changes.
const (
	crashDir  = "MODELTIER_TEST_CRASH_DIR"
	crashSeed = "MODELTIER_TEST_CRASH_SEED"
)

// long reports whether tests may take minutes.
func long() bool { return os.Getenv("MODELTIER_LONG") != "" }

// memoir is what a Manager has to persist: homes by model, limits, which models are
// pinned, aliases, and of the model v which file it is and which are its older versions.
type memoir struct {
	Homes   map[string]tier.Tier
	Limits  tier.Limits
	Pinned  map[string]bool // those that are
	Aliases map[string]string
	Current string
	Older   map[string]bool
}

// memoirOf returns what a Manager knows.
func memoirOf(m *modeltier.Manager) memoir {
	st := m.Status()
	got := memoir{Homes: make(map[string]tier.Tier), Limits: st.Limits, Pinned: make(map[string]bool), Aliases: maps.Clone(st.Aliases)}
	if got.Aliases == nil {
		got.Aliases = make(map[string]string)
	}
	got.Older = make(map[string]bool)
	for s := range m.Models() {
		if s.VersionOf != "" {
			got.Older[s.Path] = true
			continue
		}
		if s.Name == "v" {
			got.Current = s.Path
		}
		got.Homes[s.Name] = s.Home
		if s.Pinned {
			got.Pinned[s.Name] = true
		}
	}
	return got
}

// deed is one change of the child: of Limits, of a pin, of an Alias, which stands for
// Model from then on or is gone if that is "", of the file of v, by what the configuration
// Said or by going Back, or else of a home, of which nil is a removal.
type deed struct {
	Said, Back string `json:",omitempty"`

	Model  string       `json:",omitempty"`
	Home   *tier.Tier   `json:",omitempty"`
	Limits *tier.Limits `json:",omitempty"`
	Pinned *bool        `json:",omitempty"`
	Alias  string       `json:",omitempty"`
}

// within reports whether got contains the change.
func (d *deed) within(got memoir) bool {
	switch {
	case d.Limits != nil:
		return got.Limits == *d.Limits
	case d.Pinned != nil:
		return got.Pinned[d.Model] == *d.Pinned
	case d.Alias != "":
		return got.Aliases[d.Alias] == d.Model
	case d.Said+d.Back != "":
		return got.Current == d.Said+d.Back
	}
	home, there := got.Homes[d.Model]
	if d.Home == nil {
		return !there
	}
	return there && home == *d.Home
}

func (d *deed) apply(to memoir) memoir {
	switch {
	case d.Limits != nil:
		to.Limits = *d.Limits
	case d.Pinned != nil && *d.Pinned:
		to.Pinned[d.Model] = true
	case d.Pinned != nil:
		delete(to.Pinned, d.Model)
	case d.Alias != "" && d.Model != "":
		to.Aliases[d.Alias] = d.Model
	case d.Alias != "":
		delete(to.Aliases, d.Alias)
	case d.Said+d.Back != "":
		if next := d.Said + d.Back; next != to.Current {
			to.Older = maps.Clone(to.Older)
			to.Older[to.Current] = true
			delete(to.Older, next)
			to.Current = next
		}
	case d.Home == nil:
		delete(to.Homes, d.Model)
		delete(to.Pinned, d.Model)
	default:
		to.Homes[d.Model] = *d.Home
	}
	return to
}

func crashConfig(dir string) modeltier.Config {
	return modeltier.Config{
		Models:   []tier.Model{model("a", 1), model("b", 1), model("c", 1)},
		Limits:   tier.Limits{RAM: 32 * tier.GiB, Swap: 32 * tier.GiB},
		StateDir: dir, Probe: tiertest.NewProbe(plenty),
		Mover: &tiertest.Mover{Time: func(tier.Move) time.Duration { return 0 }},
	}
}

// killedConfig is that of the process that is killed, whose model v is of the file that
// the configuration in the folder says.
func killedConfig(dir string) (modeltier.Config, error) {
	cfg := crashConfig(filepath.Join(dir, "state"))
	said, err := os.ReadFile(filepath.Join(dir, "said"))
	cfg.Models = append(cfg.Models, tier.Model{Name: "v", Path: string(said)})
	return cfg, err
}

// say has the configuration in the folder say another file.
func say(dir, path string) error {
	next := filepath.Join(dir, "next")
	return errors.Join(os.WriteFile(next, []byte(path), 0o600), os.Rename(next, filepath.Join(dir, "said")))
}

// TestCrashChild is no test: it is the process that is killed. It changes persistent
// state as fast as it can and prints each change before it ("begin") and once it is
// acknowledged ("done").
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("runs as the child of TestManager_KilledAtRandomPoints only")
	}
	fail := func(what string, err error) {
		if err != nil {
			fmt.Println("failed", what, err)
			os.Exit(1)
		}
	}
	cfg, err := killedConfig(dir)
	fail("configuration", err)
	m, err := modeltier.New(cfg)
	fail("New", err)
	var seed uint64
	_, err = fmt.Sscan(os.Getenv(crashSeed), &seed)
	fail("seed", err)
	dice := rand.New(rand.NewPCG(seed, 0))
	tell := func(what string, d deed) {
		text, err := json.Marshal(d)
		fail("JSON", err)
		fmt.Println(what, string(text))
	}
	ctx := context.Background()
	for {
		now := memoirOf(m)
		name := fmt.Sprintf("model-%d", dice.IntN(8))
		if n := dice.IntN(4); n == 0 {
			name = []string{"a", "b", "c", "v"}[dice.IntN(4)]
		}
		home, known := now.Homes[name]
		to := tier.Tier(dice.IntN(int(tier.Count)))
		d := deed{Model: name, Home: &to}
		var act func() (*modeltier.Job, error)
		switch {
		case dice.IntN(4) == 0: // v becomes another
			var err error
			switch older := slices.Sorted(maps.Keys(now.Older)); {
			case len(older) > 0 && dice.IntN(2) == 0:
				d = deed{Back: older[dice.IntN(len(older))]}
				version := ""
				for s := range m.Models() {
					if s.VersionOf != "" && s.Path == d.Back {
						_, version, _ = strings.Cut(s.Version, ":")
					}
				}
				tell("begin", d)
				_, err = m.Rollback(ctx, "v", version)
			default:
				d = deed{Said: filepath.Join(dir, fmt.Sprint("v-", dice.IntN(4)))}
				if d.Said == cfg.Models[len(cfg.Models)-1].Path {
					continue
				}
				tell("begin", d)
				fail("say", say(dir, d.Said))
				cfg, err = killedConfig(dir)
				fail("configuration", err)
				_, err = m.Reconfigure(ctx, cfg.Models, cfg.Limits)
			}
			fail("v", err)
			tell("done", d)
			for s, _ := m.Model("v"); s.Path != d.Said+d.Back; s, _ = m.Model("v") {
				runtime.Gosched() // what it was leaves memory first
			}
			continue
		case dice.IntN(6) == 0:
			l := tier.Limits{RAM: 32*tier.GiB + tier.Bytes(dice.IntN(1000)), Swap: 32*tier.GiB + tier.Bytes(dice.IntN(1000)), Reserved: tier.GiB, MaxModel: now.Limits.MaxModel}
			d = deed{Limits: &l}
			tell("begin", d)
			_, _, err := m.UpdateLimits(ctx, l)
			fail("UpdateLimits", err)
			tell("done", d)
			continue
		case known && dice.IntN(6) == 0:
			pinned := !now.Pinned[name]
			d = deed{Model: name, Pinned: &pinned}
			tell("begin", d)
			fail("SetPinned", m.SetPinned(ctx, name, pinned))
			tell("done", d)
			continue
		case known && dice.IntN(6) == 0:
			d = deed{Model: name, Alias: fmt.Sprint("alias-", dice.IntN(3))}
			if _, there := now.Aliases[d.Alias]; there && dice.IntN(2) == 0 {
				d.Model = ""
			} else if s, _ := m.Model("v"); name == "v" && dice.IntN(2) == 0 {
				d.Model = tier.VersionName("v", s.Version)
			}
			tell("begin", d)
			fail("SetAlias", m.SetAlias(ctx, d.Alias, d.Model))
			tell("done", d)
			continue
		case !known:
			act = func() (*modeltier.Job, error) {
				return m.HotLoad(ctx, tier.Model{Name: name, Size: tier.GiB, Home: to})
			}
		case name != "v" && dice.IntN(3) == 0:
			d.Home = nil
			act = func() (*modeltier.Job, error) { return m.Remove(ctx, name) }
		case home == to:
			continue
		default:
			act = func() (*modeltier.Job, error) { return m.MoveTier(ctx, name, to) }
		}
		tell("begin", d)
		job, err := act()
		if errors.Is(err, tier.ErrInUse) {
			tell("never", d) // it moves to its home tier
			continue
		}
		fail(fmt.Sprint(d), err)
		fail("job", job.Wait(ctx))
		tell("done", d)
	}
}

// TestManager_KilledAtRandomPoints_NothingAcknowledgedIsLost kills a process that
// changes its Manager without pause and starts a Manager on the same StateDir, 60
// times, or 500 with MODELTIER_LONG=1.
func TestManager_KilledAtRandomPoints_NothingAcknowledgedIsLost(t *testing.T) {
	leavesNothing(t)
	kills := 60
	if long() {
		kills = 500
	}
	dir := t.TempDir()
	for i := range 4 {
		written(t, filepath.Join(dir, fmt.Sprint("v-", i)), '0'+byte(i))
	}
	if err := say(dir, filepath.Join(dir, "v-0")); err != nil {
		t.Fatal(err)
	}
	dice := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	known := memoir{}
	deeds, switches := 0, 0
	for i := range kills {
		acked, open, err := liveAndDie(t.Context(), dir, dice)
		if err != nil {
			t.Fatalf("life %d: %v", i, err)
		}
		cfg, err := killedConfig(dir)
		if err != nil {
			t.Fatal(err)
		}
		m, err := modeltier.New(cfg)
		if err != nil {
			t.Fatalf("life %d: %v", i, err)
		}
		got := memoirOf(m)
		if trouble := m.Status().StateTrouble; len(trouble) > 0 {
			t.Errorf("life %d: %q", i, trouble)
		}
		if err := m.Close(); err != nil {
			t.Errorf("life %d: Close: %v", i, err)
		}
		if known.Homes == nil { // the first life began with the Config
			known = memoir{Current: filepath.Join(dir, "v-0"), Older: map[string]bool{}, Homes: map[string]tier.Tier{"a": 0, "b": 0, "c": 0, "v": 0}, Limits: crashConfig("").Limits.OrElse(tier.DefaultLimits()), Pinned: map[string]bool{}, Aliases: map[string]string{}}
		}
		for _, d := range acked {
			known = d.apply(known)
		}
		if open != nil && open.within(got) {
			was := known.Current
			known = open.apply(known) // persisted, and killed before it was acknowledged
			if open.Said != "" && !got.Older[was] {
				delete(known.Older, was) // the Manager was killed before it knew of the configuration
			}
		}
		if open != nil && open.Said+open.Back != "" {
			switches++
		}
		if fmt.Sprint(got) != fmt.Sprint(known) {
			t.Fatalf("life %d, %d deeds: a Manager remembers\n%v\nwhat was acknowledged is\n%v\nunderway: %+v", i, len(acked), got, known, open)
		}
		deeds += len(acked)
	}
	if deeds < kills {
		t.Errorf("only %d deeds in %d lives: the kills come too early to prove anything", deeds, kills)
	}
	t.Logf("%d kills, %d of them during a switch or rollback, %d acknowledged deeds", kills, switches, deeds)
}

// liveAndDie runs a child until some changes were acknowledged and kills it at a
// random instant after that. open is the change that it had begun.
func liveAndDie(ctx context.Context, dir string, dice *rand.Rand) (acked []deed, open *deed, err error) {
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestCrashChild$")
	child.Env = append(os.Environ(), crashDir+"="+dir, crashSeed+"="+fmt.Sprint(dice.Uint32()))
	out, err := child.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := child.Start(); err != nil {
		return nil, nil, err
	}
	defer child.Wait()
	defer child.Process.Kill()
	// The timer only chooses the random instant of the kill.
	last := dice.IntN(20)
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	lines := bufio.NewReader(out)
	for {
		if len(acked) >= last && timer == nil {
			timer = time.AfterFunc(time.Duration(dice.Int64N(int64(10*time.Millisecond))), func() { child.Process.Kill() })
		}
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
			return acked, open, nil // a truncated line was not acknowledged
		}
		if err != nil {
			return acked, open, err
		}
		what, text, _ := strings.Cut(line, " ")
		if what == "failed" {
			return acked, open, errors.New(line)
		}
		var d deed
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			return acked, open, fmt.Errorf("%q: %w", line, err)
		}
		switch what {
		case "begin":
			open = &d
		case "done":
			acked, open = append(acked, d), nil
		case "never":
			open = nil
		}
	}
}

func TestNew_StateDirHeldByAnother_IsInUse(t *testing.T) {
	leavesNothing(t)
	dir := t.TempDir()
	first, err := modeltier.New(crashConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	second, err := modeltier.New(crashConfig(dir))
	if !errors.Is(err, tier.ErrInUse) {
		t.Errorf("a second Manager on the folder gets %v, want ErrInUse", err)
	}
	if second != nil {
		second.Close()
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	third, err := modeltier.New(crashConfig(dir))
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	if err := third.Close(); err != nil {
		t.Error(err)
	}
}

// Its job was cancelled, so it is not in the library after a restart either.
func TestRestart_ClosedDuringAHotLoad_ModelIsNotKnown(t *testing.T) {
	cfg := modeltier.Config{StateDir: t.TempDir(), Probe: tiertest.NewProbe(plenty)}
	cfg.Mover = &tiertest.Mover{Time: func(tier.Move) time.Duration { return time.Minute }}
	m, err := modeltier.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	h := model("h", 1)
	h.Home = tier.RAM
	job := order(t)(m.HotLoad(t.Context(), h))
	for len(cfg.Mover.(*tiertest.Mover).Moves()) == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if job.Err() == nil {
		t.Fatal("the hot load succeeded")
	}
	cfg.Mover = &tiertest.Mover{}
	if m, err = modeltier.New(cfg); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if s, known := m.Model("h"); known {
		t.Errorf("known after a restart: %+v", s)
	}
}

// A model that was hot loaded under the name of a configured one, which had been
// removed, is not that one after a restart.
func TestRestart_HotLoadedUnderTheNameOfARemovedModel_IsWhatWasLoaded(t *testing.T) {
	cfg := crashConfig(t.TempDir())
	name := cfg.Models[0].Name
	m, err := modeltier.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx := t.Context()
	if err := order(t)(m.Remove(ctx, name)).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	size := cfg.Models[0].Size + 7*tier.MiB
	if err := order(t)(m.HotLoad(ctx, tier.Model{Name: name, Size: size, Capabilities: []string{"new"}})).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	for range 2 { // also what was kept of what was kept
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if m, err = modeltier.New(cfg); err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if s, ok := m.Model(name); !ok || s.Size != size || len(s.Capabilities) != 1 || s.Capabilities[0] != "new" {
			t.Errorf("after a restart it is %+v, want %v", s, size)
		}
		if err := order(t)(m.HotLoad(ctx, tier.Model{Name: fmt.Sprint("other", len(m.Status().Models)), Size: tier.MiB})).Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
