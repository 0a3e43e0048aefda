package process

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// fleetDir tells the server where its models are. All that it starts inherits it.
const fleetDir = "MODELTIER_TEST_FLEET"

// fleetCalm tells it that there are no outsiders, and no models of the daemon's.
const fleetCalm = "MODELTIER_TEST_FLEET_CALM"

// fleetDaemon tells it the cgroup and the folder of the daemon that runs some of them.
const fleetDaemon = "MODELTIER_TEST_FLEET_DAEMON"

// The fleet: engines for ten models, of which two fit at once, and 64 clients. In
// the page cache there is room for less than half of all weights. If the five engines
// that copy theirs kept the copies, they would hold more than may be held.
const (
	fleetMachine = 700 * tier.MiB
	fleetModels  = 10
	fleetMapped  = 4 // the first: their engines map the weights, and are frozen
	fleetAsleep  = 6 // those up to here copy them, and sleep
	fleetStopped = 8 // those up to here copy them, and are stopped; the rest a daemon runs
	fleetSize    = 100 * tier.MiB
	fleetRuntime = 24 * tier.MiB // what an engine has beside its weights: 14 were seen
	fleetClients = 64
	fleetTime    = 75 * time.Second
	// maxFleetStarts is how often an engine that maps its weights may be started. What ten
	// frozen engines keep and what outsiders take do not fit together, so that some have
	// to be stopped: 8 to 34 times were seen. Without outsiders, eight fit.
	maxFleetStarts = 60
	maxCalmStarts  = 12
	// fleetOwn is for what is in the cgroup beside engines and what the hog takes: 27
	// MiB of the server, 3 of the hog's program, 1 of the shells that watch engines and
	// 6 of the kernel were seen.
	fleetOwn = 64 * tier.MiB
)

var fleetLimits = tier.Limits{RAM: 340 * tier.MiB, Swap: tier.GiB, Reserved: 50 * tier.MiB, MaxModel: 200 * tier.MiB}

// block is what a client asks an engine for: so many bytes of the weights.
const block = 64 << 10

// weightsAt writes what a model's file has in one of its blocks.
func weightsAt(model, at int, b []byte) {
	r := rand.NewPCG(uint64(model), uint64(at))
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
}

// TestFleet_64Clients_NoKillNoOrphanNoWrongAnswer has a Manager serve more models than
// memory holds, by engines that map their weights, engines that copy them and engines
// that a daemon runs, while a hog in the same cgroup takes memory and gives it back, and
// outsiders do so in room that they are given. Beside file pages, memory
// stays within the limits; no process is killed and none is left; every answer is right
// and whole, and each model has some in each third of the time, as outsiders have room.
// In the end no room is reserved, and once the models are removed nothing is charged.
func TestFleet_64Clients_NoKillNoOrphanNoWrongAnswer(t *testing.T) {
	if os.Getenv("MODELTIER_LONG") == "" {
		t.Skip("takes minutes: MODELTIER_LONG=1 runs it")
	}
	for version := 1; version <= 2; version++ {
		t.Run(fmt.Sprint("Cgroup", version), func(t *testing.T) { testFleet(t, version) })
	}
}

// TestFleet_NoOutsiders_FrozenEnginesAreNotStartedAgain is the same without outsiders:
// the engines that map their weights are frozen and thawed, and hardly ever stopped.
func TestFleet_NoOutsiders_FrozenEnginesAreNotStartedAgain(t *testing.T) {
	if os.Getenv("MODELTIER_LONG") == "" {
		t.Skip("takes a minute: MODELTIER_LONG=1 runs it")
	}
	testFleet(t, 1, fleetCalm+"=1")
}

func testFleet(t *testing.T, version int, env ...string) {
	c, dir := newCage(t, version, fleetMachine), t.TempDir()
	for i := range fleetModels {
		writeWeights(t, filepath.Join(dir, fmt.Sprint(i)), i)
	}
	mark := fleetDir + "=" + dir
	parent := c.dir
	if version == 1 { // in which there is no freezer for an engine; memory is charged by the processes
		var err error
		if parent, err = ownCgroup(); err != nil {
			t.Skip("no cgroup v2 here: ", err)
		}
	}
	d := newDaemonIn(t, parent, c)

	hog := exec.Command(os.Args[0])
	hog.Env = append(os.Environ(), role+"=hog")
	feed, err := hog.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	hogSaid := c.start(hog)
	server := exec.Command(os.Args[0], "-test.v", "-test.run=^TestFleetServer$")
	server.Env = append(append(os.Environ(), mark, fleetDaemon+"="+d.dir+":"+d.files), env...)
	serverSaid := c.start(server)
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()

	bound := fleetLimits.RAM + hogMost + fleetOwn
	most, looks := tier.Bytes(0), 0
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for running := true; running; {
		select {
		case err := <-ended:
			if running = false; err != nil || !strings.Contains(serverSaid.String(), "\n--- PASS") {
				t.Errorf("the server ended with %v", err)
			}
		case <-look.C:
			held, err := c.held()
			if err != nil {
				t.Fatal(err)
			}
			if looks++; held > max(most, bound) {
				t.Errorf("%v are held, more than %v", held, bound)
			}
			most = max(most, held)
		}
	}
	if left := carrying(mark); len(left) > 0 {
		t.Errorf("the server has ended, and processes that it started have not: %v", left)
	}
	feed.Close()
	if err := hog.Wait(); err != nil {
		t.Errorf("the hog ended with %v", err)
	}
	kills, err := c.figure(c.kills, "oom_kill")
	if err != nil || kills != 0 {
		t.Errorf("%d OOM kills, %v", int64(kills), err)
	}
	t.Logf("%v\n%v%d times looked at the cgroup: at most %v held, of %v; %d OOM kills", serverSaid, hogSaid, looks, most, bound, int64(kills))
}

// writeWeights makes the file of a model, clean and not cached: what is cached for this
// process is not charged to the cgroup that reads it.
func writeWeights(t *testing.T, path string, model int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, block)
	for at := range int(fleetSize) / block {
		weightsAt(model, at, b)
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := drop(f, 0, 0); err != nil {
		t.Fatal(err)
	}
	if in, err := cachestat(f, 0, int64(fleetSize)); err != nil || in > 0 {
		t.Fatalf("%d bytes of the weights are cached, %v", in, err)
	}
}

// TestFleetServer is no test: it is the server in the cgroup.
func TestFleetServer(t *testing.T) {
	dir := os.Getenv(fleetDir)
	if dir == "" {
		t.Skip("runs as the child of a test only")
	}
	var (
		m *modeltier.Manager
		r *rig
	)
	d := &daemon{t: t}
	d.dir, d.files, _ = strings.Cut(os.Getenv(fleetDaemon), ":")
	d.socket = filepath.Join(d.files, "socket")
	r = newRig(t, newSystem(), Options{
		Engine: fake{}.engine(),
		EngineOf: func(model *tier.Model) (Engine, error) {
			e := r.opts.Engine
			switch model.Labels["engine"] {
			case "sleeps":
				e.Command = fake{Copy: true}.command()
				e.Sleeper = HTTPSleeper{ToSleep: []Request{{Path: "/sleep"}}, ToWake: []Request{{Path: "/wake"}}}
			case "copies":
				e.Command = fake{Copy: true}.command()
			case "daemon":
				e = d.engine(fake{}, "cgroup")
			case "daemon copies":
				e = d.engine(fake{Copy: true}, "pidfile", "-d")
			}
			e.Env = r.opts.Engine.Env
			return e, nil
		},
		Crashed: func(model string, err error) {
			t.Errorf("the engine of %s crashed: %v", model, err)
			m.ReportCrash(model, err)
		},
	})
	cfg := modeltier.Config{Limits: fleetLimits, Mover: r.Mover}
	for i := range fleetModels {
		model := tier.Model{Name: fmt.Sprint(i), Path: filepath.Join(dir, fmt.Sprint(i)), Runtime: fleetRuntime}
		switch {
		case i < fleetMapped:
		case i < fleetAsleep:
			model.Labels = map[string]string{"engine": "sleeps"}
		case i < fleetStopped:
			model.Labels = map[string]string{"engine": "copies"}
		case i == fleetStopped:
			model.Labels = map[string]string{"engine": "daemon"}
		default:
			model.Labels = map[string]string{"engine": "daemon copies"}
		}
		cfg.Models = append(cfg.Models, model)
	}
	m, err := modeltier.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), fleetTime)
	defer cancel()
	front := httptest.NewServer(m.Handler())
	defer front.Close()
	f := &fleet{t: t, models: fleetModels, starts: maxFleetStarts, outsiders: fleetOutsiders, Manager: m, url: front.URL, mover: r.Mover, began: began, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: fleetClients}}}
	if os.Getenv(fleetCalm) != "" {
		f.models, f.starts, f.outsiders = fleetStopped, maxCalmStarts, 0
	}
	var clients sync.WaitGroup
	for range fleetClients {
		clients.Go(func() {
			for ctx.Err() == nil {
				f.ask(ctx, rand.IntN(f.models))
			}
		})
	}
	for range f.outsiders {
		clients.Go(func() { f.outsider(ctx) })
	}
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for ctx.Err() == nil {
		<-look.C
		if s := m.Status(); s.RAM.Peak > s.Limits.RAM || s.Swap.Peak > s.Limits.Swap {
			t.Errorf("charged beyond the limits: %+v %+v", s.RAM, s.Swap)
		}
	}
	clients.Wait()
	f.report()
	last, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := atRest(last, m, r.Mover); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// fleet is a Manager of engines under load, and what its clients have seen.
type fleet struct {
	*modeltier.Manager
	models, outsiders, starts int // that are asked for, that take room, that each engine may have
	t                         *testing.T
	mover                     *Mover
	http                      *http.Client
	url                       string // where its Handler answers
	began                     time.Time

	answers [fleetModels][3]atomic.Int64   // in each third of the time
	left    [fleetModels]atomic.Int64      // clients that did not wait for the answer
	given   [len(roomWays)][3]atomic.Int64 // outsiders that had their room, by the way that they asked
	refused sync.Map                       // counts, by who was refused and the code of the error
}

// third is the part of the time that it is now.
func (f *fleet) third() int { return min(int(3*time.Since(f.began)/fleetTime), 2) }

// refuse counts an error if it is one that may be met here.
func (f *fleet) refuse(who string, err error) {
	switch {
	case errors.Is(err, tier.ErrNoCapacity), errors.Is(err, tier.ErrBusy):
		n, _ := f.refused.LoadOrStore(who+", "+tier.Code(err), new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
	default:
		f.t.Errorf("%s, %s: %v", who, tier.Code(err), err)
	}
}

// ask is a request of one client, which may leave before it is answered.
func (f *fleet) ask(ctx context.Context, model int) {
	all := ctx
	if rand.IntN(8) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, rand.N(2*time.Second))
		defer cancel()
	}
	err := f.answer(ctx, model)
	switch {
	case err == nil:
		f.answers[model][f.third()].Add(1)
	case all.Err() != nil:
	case ctx.Err() != nil:
		f.left[model].Add(1)
	default:
		f.refuse(fmt.Sprint("model ", model), err)
	}
}

// answer leases a model, asks its engine for a block of its weights, or for a stream of
// many, and returns an error if that is not what was written.
func (f *fleet) answer(ctx context.Context, model int) error {
	l, err := f.Acquire(ctx, modeltier.Request{Model: fmt.Sprint(model)})
	if err != nil {
		return err
	}
	defer l.Release()
	url, ok := f.mover.URL(l.Model().Name)
	if !ok {
		return fmt.Errorf("leased from %v, it has no URL", l.Tier())
	}
	n := 1
	if rand.IntN(8) == 0 {
		n = 64
	}
	at := rand.IntN(int(fleetSize)/block - n + 1)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/weights", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at*block, (at+n)*block-1))
	res, err := f.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusPartialContent || res.ContentLength != int64(n*block) {
		return fmt.Errorf("a wrong answer: %s, %d bytes", res.Status, res.ContentLength)
	}
	got, want := make([]byte, block), make([]byte, block)
	for i := range n {
		if _, err := io.ReadFull(res.Body, got); err != nil {
			return fmt.Errorf("a stream broke before block %d of %d: %w", i+1, n, err)
		}
		if weightsAt(model, at+i, want); !bytes.Equal(got, want) {
			return fmt.Errorf("a wrong answer about block %d", at+i)
		}
	}
	return nil
}

// report checks that every model was served all the time and outsiders had room, and
// logs the figures.
func (f *fleet) report() {
	f.t.Helper()
	engines := make(map[string]ModelStatus)
	for _, e := range f.mover.Status().Engines {
		engines[e.Name] = e
	}
	for i := range f.models {
		var thirds [3]int64
		for third := range thirds {
			if thirds[third] = f.answers[i][third].Load(); thirds[third] == 0 {
				f.t.Errorf("model %d was not served in part %d of 3", i, third+1)
			}
		}
		e := engines[fmt.Sprint(i)]
		if i < fleetMapped && e.Starts > f.starts {
			f.t.Errorf("the engine of model %d was started %d times: it is to be frozen and thawed", i, e.Starts)
		}
		f.t.Logf("model %d: %d answers, %d clients left; %d starts, took %v at most, now %s %s %s", i, thirds, f.left[i].Load(), e.Starts, e.Peak, e.State, e.Standby, e.Note)
	}
	for i, way := range roomWays[:min(len(roomWays), f.outsiders)] {
		var thirds [3]int64
		for third := range thirds {
			if thirds[third] = f.given[i][third].Load(); thirds[third] == 0 {
				f.t.Errorf("no outsider that asked by %s had room in part %d of 3", way, third+1)
			}
		}
		f.t.Logf("outsiders by %s: %d had room", way, thirds)
	}
	f.refused.Range(func(why, n any) bool {
		f.t.Logf("%d times refused: %v", n.(*atomic.Int64).Load(), why)
		return true
	})
	s := f.Status()
	f.t.Logf("at most %v charged in ram and %v in swap, moves %v, %d evictions", s.RAM.Peak, s.Swap.Peak, s.Moved, s.Evictions)
}
