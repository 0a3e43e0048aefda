package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
)

// asProgram has this binary be the program.
const asProgram = "MODELTIER_REPLAY"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// writeTrace writes a trace of that name and rows into a folder, and its models.
func writeTrace(t *testing.T, dir, name, rows, models, edge string) {
	t.Helper()
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write([]byte("t_seconds,model_id\n" + rows))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{".csv.gz": z.String(), ".models.csv": "model_id,size_gb,gguf\n" + models}
	if edge != "" {
		files[".models.edge.csv"] = "model_id,size_gb,gguf\n" + edge
	}
	for suffix, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name+suffix), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadTraces_Folder_RequestsModelsAndEdgeSizes(t *testing.T) {
	dir := t.TempDir()
	writeTrace(t, dir, "b", "0,x\n1.5,y\n1.5,x\n", "x,6.6,-\ny,1,-\n", "y,1,-\nx,4.4,-\n")
	writeTrace(t, dir, "a", "0,x\n", "x,2,-\n", "")
	traces, err := readTraces(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(traces) != 2 || traces[0].name != "a" || traces[1].name != "b" {
		t.Fatalf("%d traces, want a and b", len(traces))
	}
	b := traces[1]
	if len(b.at) != 3 || b.at[1] != 1.5 || b.models[b.who[2]].Name != "x" {
		t.Errorf("b is %+v", b)
	}
	for ram, want := range map[float64]tier.Bytes{5: 4_400_000_000, 16: 6_600_000_000} {
		if got := b.library(ram)[b.who[0]]; got.Name != "x" || got.Size != want {
			t.Errorf("with %v GB of ram x is %s of %d bytes, want x of %d", ram, got.Name, got.Size, want)
		}
	}
	if got := traces[0].library(5)[0].Size; got != 2_000_000_000 {
		t.Errorf("without edge sizes x has %d bytes", got)
	}
}

func TestReadTraces_BrokenOnes_SayWhereAndWhat(t *testing.T) {
	for name, c := range map[string]struct{ rows, models, edge, want string }{
		"no time":          {"soon,x\n", "x,1,-\n", "", "line 2"},
		"time goes back":   {"2,x\n1,x\n", "x,1,-\n", "", "line 3"},
		"infinite time":    {"0,x\n+Inf,x\n", "x,1,-\n", "", "line 3"},
		"unknown model":    {"0,z\n", "x,1,-\n", "", `"z"`},
		"no size":          {"0,x\n", "x,much,-\n", "", `"much"`},
		"size below zero":  {"0,x\n", "x,-1,-\n", "", `"-1"`},
		"no requests":      {"", "x,1,-\n", "", "no rows"},
		"edge of another":  {"0,x\n", "x,1,-\n", "z,1,-\n", `"z"`},
		"one column only":  {"0,x\n", "x\n", "", "wrong number of fields"},
		"edge has no rows": {"0,x\n", "x,1,-\n", "\n", "no rows"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeTrace(t, dir, "t", c.rows, c.models, c.edge)
			if _, err := readTraces(dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("err = %v, want one that names %s", err, c.want)
			}
		})
	}
	if _, err := readTraces(t.TempDir()); err == nil {
		t.Error("a folder without traces is none to replay")
	}
}

// What a move takes and what a request pays in the new place are together what the
// old place costs.
func TestTransfer_PlusUseInTheNewPlace_IsTheCostOfTheOld(t *testing.T) {
	const gb = tier.Bytes(1e9)
	size := 4 * gb
	for _, c := range []struct{ from, to where }{
		{where{}, where{ram: size}},
		{where{}, where{swap: size}},
		{where{}, where{ram: gb, swap: gb}},
		{where{swap: size}, where{ram: size}},
		{where{swap: 2 * gb}, where{ram: size}},
		{where{cached: gb}, where{ram: size}},
		{where{cached: gb}, where{ram: gb, swap: gb}},
		{where{swap: size, cached: gb}, where{ram: 2 * gb, swap: 2 * gb}},
		{where{ram: gb, swap: gb}, where{ram: 2 * gb, swap: 2 * gb}},
	} {
		_, took := transfer(c.from, c.to)
		before, _ := c.from.cost(size)
		after, _ := c.to.cost(size)
		if took+after != before {
			t.Errorf("%+v to %+v takes %v, and %v to use; in the old place %v", c.from, c.to, took, after, before)
		}
	}
	if bytes, took := transfer(where{ram: size}, where{swap: size}); bytes != 0 || took != 0 {
		t.Errorf("to give way reads %v in %v", bytes, took)
	}
}

// quick is a short workload with a few models that are asked for most.
func quick() *trace { return ownTrace("quick", 7, 12, 400, 1.2, 0.3, 2) }

func playIn(t *testing.T, r *run) (f figures) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var err error
		if f, err = r.play(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	return f
}

func TestPlay_HalfIsAnnounced_PeopleWaitLess(t *testing.T) {
	r := &run{trace: quick(), capacity: capacity{5, 10}, make: func() tier.Placement { return optimizer.New() }}
	silent := playIn(t, r)
	r.hints = 0.5
	if told := playIn(t, r); told.Mean >= silent.Mean {
		t.Errorf("with half announced the mean wait is %v s, without %v s", told.Mean, silent.Mean)
	}
}

func TestPlay_PageCache_PeopleWaitLessAndTheBoundHolds(t *testing.T) {
	c := capacity{5, 10}
	r := &run{trace: quick(), capacity: c, make: func() tier.Placement { return optimizer.New() }}
	without := playIn(t, r)
	r.cached = 1.2
	with := playIn(t, r)
	if least := bound(r.trace, c, r.cached); with.Mean >= without.Mean || with.Mean < least.Mean {
		t.Errorf("with 1.2 GB of cached bytes the mean wait is %v s, without %v s; the bound is %v s", with.Mean, without.Mean, least.Mean)
	}
}

func TestMover_PageCacheIsFull_KernelTakesWhatWasNotTouchedForLongest(t *testing.T) {
	const gb = tier.Bytes(1e9)
	m := &mover{at: make(map[string]where), room: 5 * gb}
	for _, name := range []string{"a", "b"} {
		m.use(&tier.Model{Name: name, Size: 2 * gb})
	}
	m.use(&tier.Model{Name: "a", Size: 2 * gb})
	if err := m.Move(t.Context(), tier.Move{Model: tier.Model{Name: "c", Size: 2 * gb}, To: tier.RAM}, nil); err != nil {
		t.Fatal(err)
	}
	if a, b, c := m.where("a"), m.where("b"), m.where("c"); a.cached != 2*gb || b.cached != gb || c.ram != 2*gb {
		t.Errorf("a %+v, b %+v, c %+v; want b to have lost a GB", a, b, c)
	}
}

func TestPlay_EveryPolicy_NoneBeatsTheBound(t *testing.T) {
	tr := quick()
	c := capacity{5, 10}
	least := bound(tr, c, 0)
	for _, p := range placements {
		f := playIn(t, &run{trace: tr, capacity: c, policy: p.name, make: func() tier.Placement { return p.make(0) }})
		if f.Mean < least.Mean || f.Mean <= 0 || f.P99 < f.P50 || f.Warm <= 0 || f.Warm > 1 {
			t.Errorf("%s: %+v, the bound is %+v", p.name, f, least)
		}
	}
}

// With a clock that runs, loads take time and requests meet in queues.
func TestPlay_ClockRuns_RequestsWaitForEachOther(t *testing.T) {
	tr := &trace{name: "two", models: []tier.Model{{Name: "a", Size: 4e9}, {Name: "b", Size: 4e9}}, at: []float64{0, 0, 1}, who: []int32{0, 1, 0}}
	r := &run{trace: tr, capacity: capacity{5, 10}, policy: "lru", make: func() tier.Placement { return new(optimizer.LRU) }}
	still := playIn(t, r)
	r.real = true
	if runs := playIn(t, r); runs.Mean < still.Mean || runs.P99 <= 0 {
		t.Errorf("with a clock that runs %+v, with one that stands still %+v", runs, still)
	}
}

func TestReport_JSON_OneObjectALineWithTheNamedKeys(t *testing.T) {
	var out bytes.Buffer
	tr, c := quick(), capacity{5, 10}
	rep := newReport(&options{json: true, capacities: []capacity{c}}, &out, []*trace{tr})
	rep.add(tr, c, []row{
		{run: &run{trace: tr, capacity: c, policy: "lru"}, figures: figures{Mean: 2, P50: 1, P99: 6, Moved: 1}},
		{run: &run{trace: tr, capacity: c, policy: "learned"}, figures: figures{Mean: 1, P50: 0.5, P99: 3, Moved: 0.5}},
	}, figures{Mean: 0.8, P99: 2})
	if err := rep.close(); err != nil {
		t.Fatal(err)
	}
	var lines []map[string]any
	for text := range strings.Lines(out.String()) {
		var l map[string]any
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		lines = append(lines, l)
	}
	if len(lines) != 3 {
		t.Fatalf("%d lines, want one of LRU, one of Learned, one of the bound:\n%s", len(lines), out.String())
	}
	for _, key := range []string{"trace", "ram_gb", "swap_gb", "policy", "mean_wait_s", "p50_wait_s", "p99_wait_s", "moved_gb_per_request", "vs_lru", "vs_bound"} {
		if _, there := lines[1][key]; !there {
			t.Errorf("no key %s in %v", key, lines[1])
		}
	}
	if l := lines[1]; l["vs_lru"] != 0.5 || l["vs_bound"] != 1.25 {
		t.Errorf("ratios %v and %v, want 0.5 and 1.25", l["vs_lru"], l["vs_bound"])
	}
}

// The program, as it is run from the command line, on a folder of traces.
func TestProgram_EveryClockAndHints_ALineForEachPolicyAndTheBound(t *testing.T) {
	dir := t.TempDir()
	tr := quick()
	var rows, models strings.Builder
	for i, at := range tr.at {
		fmt.Fprintf(&rows, "%.3f,%s\n", at, tr.models[tr.who[i]].Name)
	}
	for i := range tr.models {
		fmt.Fprintf(&models, "%s,%g,-\n", tr.models[i].Name, gb(tr.models[i].Size))
	}
	writeTrace(t, dir, "quick", rows.String(), models.String(), models.String())
	for _, args := range [][]string{nil, {"-clock", "real"}, {"-hints", "0.5"}, {"-cached", "1.2"}} {
		c := exec.CommandContext(t.Context(), os.Args[0], append([]string{"-traces", dir, "-json", "-capacities", "5/10,16/32"}, args...)...)
		c.Env = append(os.Environ(), asProgram+"=1")
		c.Stderr = os.Stderr
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if want := 2 * (len(placements) + 1); len(lines) != want {
			t.Fatalf("%v: %d lines, want %d: %q", args, len(lines), want, lines)
		}
		for _, text := range lines {
			var l line
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				t.Fatalf("%v: %v: %s", args, err, text)
			}
			if l.Trace != "quick" || l.Mean <= 0 || l.P99 < l.P50 || l.VsLRU <= 0 || l.VsBound <= 0 || l.Policy == "lru" && l.VsLRU != 1 {
				t.Errorf("%v: %s", args, text)
			}
		}
	}
}

// BenchmarkReplay plays workloads of its own making, and recorded traces where
// there are any, under LRU and under the default placement, and tells how much
// less people waited.
func BenchmarkReplay(b *testing.B) {
	for _, tr := range ownTraces(1) {
		b.Run(tr.name, func(b *testing.B) { benchReplay(b, tr) })
	}
	const recorded = "../../../shared/field/traces"
	traces, err := readTraces(recorded)
	if err != nil {
		b.Run("recorded", func(b *testing.B) { b.Skipf("no recorded traces: %v", err) })
	}
	for _, tr := range traces {
		b.Run(tr.name, func(b *testing.B) { benchReplay(b, tr) })
	}
}

func benchReplay(b *testing.B, tr *trace) {
	c := capacity{5, 10}
	var lru, learned figures
	play := func(make func() tier.Placement, into *figures) {
		r := &run{trace: tr, capacity: c, make: make}
		inBubble(b, func(t *testing.T) {
			var err error
			if *into, err = r.play(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
	for b.Loop() {
		play(func() tier.Placement { return new(optimizer.LRU) }, &lru)
		play(func() tier.Placement { return optimizer.New() }, &learned)
	}
	b.ReportMetric(learned.Mean/lru.Mean, "x-lru")
	b.ReportMetric(learned.Mean/bound(tr, c, 0).Mean, "x-bound")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(2*len(tr.at)), "ns/request")
}

// inBubble runs fn in a bubble of virtual time, which only a test has: it is
// made one.
func inBubble(b *testing.B, fn func(*testing.T)) {
	b.Helper()
	everything := func(string, string) (bool, error) { return true, nil }
	if !testing.RunTests(everything, []testing.InternalTest{{Name: b.Name(), F: func(t *testing.T) { synctest.Test(t, fn) }}}) {
		b.Fatal("the replay failed")
	}
}
