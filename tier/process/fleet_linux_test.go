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

// The fleet: engines for eight models, of which two fit at once, and 64 clients. In
// the page cache there is room for less than half of all weights. If the four engines
// that copy theirs kept the copies, they would hold more than may be held.
const (
	fleetMachine = 700 * tier.MiB
	fleetModels  = 8
	fleetMapped  = 4 // the first: their engines map the weights, and are frozen
	fleetAsleep  = 6 // those up to here copy them, and sleep; the rest copy them, and are stopped
	fleetSize    = 100 * tier.MiB
	fleetRuntime = 24 * tier.MiB // what an engine has beside its weights: 14 were seen
	fleetClients = 64
	fleetTime    = 75 * time.Second
	// maxFleetStarts is how often an engine that maps its weights may be started: 2 to 4
	// times were seen, and 27 where frozen engines were stopped for room that came anyway.
	maxFleetStarts = 12
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
// memory holds, by engines that map their weights and engines that copy them, while a
// hog in the same cgroup takes memory and gives it back. Beside file pages, memory
// stays within the limits; no process is killed and none is left; every answer is right,
// and each model has some in each third of the time.
func TestFleet_64Clients_NoKillNoOrphanNoWrongAnswer(t *testing.T) {
	if os.Getenv("MODELTIER_LONG") == "" {
		t.Skip("takes minutes: MODELTIER_LONG=1 runs it")
	}
	for version := 1; version <= 2; version++ {
		t.Run(fmt.Sprint("Cgroup", version), func(t *testing.T) { testFleet(t, version) })
	}
}

func testFleet(t *testing.T, version int) {
	c, dir := newCage(t, version, fleetMachine), t.TempDir()
	for i := range fleetModels {
		writeWeights(t, filepath.Join(dir, fmt.Sprint(i)), i)
	}
	mark := fleetDir + "=" + dir

	hog := exec.Command(os.Args[0])
	hog.Env = append(os.Environ(), role+"=hog")
	feed, err := hog.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	hogSaid := c.start(hog)
	server := exec.Command(os.Args[0], "-test.v", "-test.run=^TestFleetServer$")
	server.Env = append(os.Environ(), mark)
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
	r = newRig(t, newSystem(), Options{
		Engine: fake{}.engine(),
		EngineOf: func(model *tier.Model) (Engine, error) {
			e := r.opts.Engine
			if model.Labels["engine"] != "" {
				e.Command = fake{Copy: true}.command()
			}
			if model.Labels["engine"] == "sleeps" {
				e.Sleeper = HTTPSleeper{ToSleep: []Request{{Path: "/sleep"}}, ToWake: []Request{{Path: "/wake"}}}
			}
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
		default:
			model.Labels = map[string]string{"engine": "copies"}
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
	f := &fleet{t: t, Manager: m, mover: r.Mover, began: began, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: fleetClients}}}
	var clients sync.WaitGroup
	for range fleetClients {
		clients.Go(func() {
			for ctx.Err() == nil {
				f.ask(ctx, rand.IntN(fleetModels))
			}
		})
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
	if err := m.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// fleet is a Manager of engines under load, and what its clients have seen.
type fleet struct {
	*modeltier.Manager
	t     *testing.T
	mover *Mover
	http  *http.Client
	began time.Time

	answers [fleetModels][3]atomic.Int64 // in each third of the time
	left    [fleetModels]atomic.Int64    // clients that did not wait for the answer
	refused sync.Map                     // counts, by model and code of the error
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
		third := int(3 * time.Since(f.began) / fleetTime)
		f.answers[model][min(third, 2)].Add(1)
	case all.Err() != nil:
	case ctx.Err() != nil:
		f.left[model].Add(1)
	case errors.Is(err, tier.ErrNoCapacity), errors.Is(err, tier.ErrBusy):
		n, _ := f.refused.LoadOrStore(fmt.Sprintf("model %d, %s", model, tier.Code(err)), new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
	default:
		f.t.Errorf("model %d, %s: %v", model, tier.Code(err), err)
	}
}

// answer leases a model, asks its engine for a block of its weights, and returns an
// error if that is not what was written.
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
	at := rand.IntN(int(fleetSize) / block)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/weights", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at*block, (at+1)*block-1))
	res, err := f.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(io.LimitReader(res.Body, block+1))
	if err != nil {
		return err
	}
	want := make([]byte, block)
	if weightsAt(model, at, want); res.StatusCode != http.StatusPartialContent || !bytes.Equal(got, want) {
		return fmt.Errorf("a wrong answer about block %d: %s, %d bytes", at, res.Status, len(got))
	}
	return nil
}

// report checks that every model was served all the time, and logs the figures.
func (f *fleet) report() {
	f.t.Helper()
	engines := make(map[string]ModelStatus)
	for _, e := range f.mover.Status().Engines {
		engines[e.Name] = e
	}
	for i := range fleetModels {
		var thirds [3]int64
		for third := range thirds {
			if thirds[third] = f.answers[i][third].Load(); thirds[third] == 0 {
				f.t.Errorf("model %d was not served in part %d of 3", i, third+1)
			}
		}
		e := engines[fmt.Sprint(i)]
		if i < fleetMapped && e.Starts > maxFleetStarts {
			f.t.Errorf("the engine of model %d was started %d times: it is to be frozen and thawed", i, e.Starts)
		}
		f.t.Logf("model %d: %d answers, %d clients left; %d starts, took %v at most, now %s %s %s", i, thirds, f.left[i].Load(), e.Starts, e.Peak, e.State, e.Standby, e.Note)
	}
	f.refused.Range(func(why, n any) bool {
		f.t.Logf("%d times refused: %v", n.(*atomic.Int64).Load(), why)
		return true
	})
	s := f.Status()
	f.t.Logf("at most %v charged in ram and %v in swap, moves %v, %d evictions", s.RAM.Peak, s.Swap.Peak, s.Moved, s.Evictions)
}
