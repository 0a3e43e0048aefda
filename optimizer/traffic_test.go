package optimizer_test

import (
	"compress/gzip"
	"encoding/csv"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
)

const traces = "../../shared/field/traces"

// trace is a sequence of requests over a library.
type trace struct {
	name   string
	models []tier.Model
	at     []float64
	who    []int32
}

func readCSV(t testing.TB, path string) [][]string {
	f, err := os.Open(path)
	if err != nil {
		t.Skipf("the recorded traces are not here: %v", err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	if strings.HasSuffix(path, ".gz") {
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		r = csv.NewReader(z)
	}
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows[1:]
}

func readTrace(t testing.TB, name string, edge bool) *trace {
	tr := &trace{name: name}
	sizes := name + ".models.csv"
	if edge {
		sizes = name + ".models.edge.csv"
	}
	index := map[string]int32{}
	for _, row := range readCSV(t, filepath.Join(traces, sizes)) {
		gb, err := strconv.ParseFloat(row[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		index[row[0]] = int32(len(tr.models))
		tr.models = append(tr.models, tier.Model{Name: row[0], Path: row[0], Size: tier.Bytes(math.Round(gb * 1e9))})
	}
	for _, row := range readCSV(t, filepath.Join(traces, name+".csv.gz")) {
		at, err := strconv.ParseFloat(row[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		tr.at = append(tr.at, at)
		tr.who = append(tr.who, index[row[1]])
	}
	return tr
}

// machine carries a placement's plans out in no time and checks the account.
type machine struct {
	view          tier.View
	place         tier.Placement
	learner       tier.Learner
	batch         []tier.Access
	moved         tier.Bytes
	waits         []float64
	plans         int
	fails, wasted int
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newMachine(lib *tier.Library, limits tier.Limits, p tier.Placement) *machine {
	m := &machine{place: p}
	m.learner, _ = p.(tier.Learner)
	m.view = tier.View{Now: epoch, Library: lib, States: make([]tier.State, lib.Len()), Limits: limits}
	for i := range m.view.States {
		m.view.States[i] = tier.State{Divisible: true, Leaves: true, InPlace: true}
	}
	m.room()
	return m
}

func (m *machine) room() {
	m.view.Charged = tier.Footprint{}
	for i := range m.view.States {
		m.view.Charged = m.view.Charged.Plus(m.view.Footprint(i))
	}
	m.view.Room = tier.Footprint{tier.Swap: m.view.Limits.Swap, tier.RAM: m.view.Limits.RAM}.Minus(m.view.Charged)
}

func (m *machine) step(s tier.Step) error {
	i, ok := m.view.Library.Find(s.Model.Name)
	st := &m.view.States[i]
	if !ok || st.Tier != s.From {
		return fmt.Errorf("step %v %v→%v: model is in %v", s.Model.Name, s.From, s.To, st.Tier)
	}
	before := m.view.Footprint(i)
	after := s.Footprint(false)
	for t, more := range after.Beyond(before) {
		if more > 0 && more > m.view.Room[t] {
			return fmt.Errorf("step %v %v→%v keep %v: needs %v, room %v", s.Model.Name, s.From, s.To, s.Keep, after.Beyond(before), m.view.Room)
		}
		m.moved += more
	}
	if after[tier.RAM] < 0 || after[tier.Swap] < 0 {
		return fmt.Errorf("step %v %v→%v keep %v: charges %v", s.Model.Name, s.From, s.To, s.Keep, after)
	}
	st.Tier, st.Kept, st.Left = s.To, 0, 0
	if s.To == tier.Swap {
		st.Kept, st.Left = s.Keep, s.Leave
	}
	m.room()
	return nil
}

// rest lets time pass from one moment to the next, and the placement improve
// things meanwhile. A step that is not done when the time is over is called off.
func (m *machine) rest(from, to float64) error {
	now, pause := from, 1.0
	for first := true; first || now < to && now < from+7200; first = false {
		m.view.Now = epoch.Add(time.Duration(now * 1e9))
		m.tell()
		plan := m.place.Plan(&m.view, nil)
		took := 0.0
		for _, s := range plan.Steps {
			i, _ := m.view.Library.Find(s.Model.Name)
			before := m.view.Footprint(i)
			after := s.Footprint(false)
			up := max(after[tier.RAM]-before[tier.RAM], 0)
			read := max(after[tier.RAM]+after[tier.Swap]-before[tier.RAM]-before[tier.Swap], 0)
			took += float64(up)*0.4e-9 + float64(read)*1.0e-9
			if now+took > to {
				m.wasted++
				m.moved += up
				return nil
			}
			if err := m.step(s); err != nil {
				return err
			}
			if m.learner != nil {
				m.learner.Moved([]tier.Moved{{Move: s.Move, Bytes: up + read, Took: time.Duration((float64(up)*0.4 + float64(read)))}})
			}
		}
		if took > 0 {
			now += took
			continue
		}
		now += pause
		pause = min(pause*1.5, 30)
	}
	return nil
}

func (m *machine) tell() {
	if m.learner != nil && len(m.batch) > 0 {
		m.learner.Accessed(m.batch)
		m.batch = m.batch[:0]
	}
}

func (m *machine) request(i int, at float64) error {
	m.view.Now = epoch.Add(time.Duration(at * 1e9))
	mod := m.view.Library.At(i)
	st := &m.view.States[i]
	m.batch = append(m.batch, tier.Access{Model: mod.Name, At: m.view.Now})
	f := m.view.Footprint(i)
	ram, swap := float64(f[tier.RAM])/1e9, float64(f[tier.Swap])/1e9
	m.waits = append(m.waits, 0.1*ram+0.5*swap+1.5*(float64(mod.Size)/1e9-ram-swap))
	if st.Tier == tier.RAM {
		st.LastUse = m.view.Now
		return nil
	}
	m.tell()
	st.Waiters = 1
	m.plans++
	plan := m.place.Plan(&m.view, &tier.Need{Model: i, Waiters: 1})
	if plan.Err != nil {
		m.fails++
		return plan.Err
	}
	for _, s := range plan.Steps {
		if err := m.step(s); err != nil {
			return err
		}
	}
	st.Waiters = 0
	if st.Tier == tier.Storage {
		return fmt.Errorf("%s cannot be served after the plan", mod.Name)
	}
	st.LastUse = m.view.Now
	return nil
}

type figures struct {
	mean, p50, p99, moved float64
}

func (m *machine) figures() figures {
	w := slices.Clone(m.waits)
	slices.Sort(w)
	sum := 0.0
	for _, x := range w {
		sum += x
	}
	n := len(w)
	return figures{sum / float64(n), w[n/2], w[min(n*99/100, n-1)], float64(m.moved) / 1e9 / float64(n)}
}

// announcement is a model that is said to be asked for before a request, or -1.
type announcement func(before int) int32

func silent(int) int32 { return -1 }

func replay(t testing.TB, tr *trace, ram, swap float64, p tier.Placement, announce announcement) figures {
	lib, err := tier.NewLibrary(tr.models)
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(lib, tier.Limits{RAM: tier.Bytes(ram * 1e9), Swap: tier.Bytes(swap * 1e9)}, p)
	for k, at := range tr.at {
		if k > 0 {
			last := tr.at[k-1]
			if who := announce(k); who >= 0 {
				m.tell()
				p.(tier.Hinter).Hint(tr.models[who].Name, 1, time.Duration(max(at-last, 1)*1e9), epoch.Add(time.Duration(last*1e9)))
			}
			if prefetches(p) {
				if err := m.rest(last, at); err != nil {
					t.Fatalf("%s after request %d: %v", tr.name, k-1, err)
				}
			}
		}
		if err := m.request(int(tr.who[k]), at); err != nil {
			t.Fatalf("%s request %d: %v", tr.name, k, err)
		}
	}
	return m.figures()
}

func prefetches(p tier.Placement) bool {
	_, ok := p.(*optimizer.Learned)
	return ok
}

// TestLearned_TrafficBuiltAgainstIt_IsHardlyWorseThanLRU plays traffic that breaks
// what the estimates go by.
func TestLearned_TrafficBuiltAgainstIt_IsHardlyWorseThanLRU(t *testing.T) {
	const models, requests = 16, 3000
	dice := rand.New(rand.NewPCG(3, 4))
	skewed := func() int { return min(int(dice.ExpFloat64()*2.5), models-1) }
	for _, c := range []struct {
		name string
		next func(k int) int
	}{
		{"popularity is swapped every 500 requests", func(k int) int {
			if k/500%2 == 0 {
				return skewed()
			}
			return models - 1 - skewed()
		}},
		{"two sets that do not fit together alternate every 40", func(k int) int { return k/40%2*8 + dice.IntN(8) }},
		{"every other request is for a one-hit wonder", func(k int) int {
			if k%2 == 0 {
				return 4 + k/2%(models-4)
			}
			return dice.IntN(4)
		}},
		{"a sweep over all of them every 200", func(k int) int {
			if k%200 < models {
				return k % 200
			}
			return skewed()
		}},
		{"round and round", func(k int) int { return k % models }},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := madeUp(c.name, models, requests, dice, c.next)
			lru := replay(t, tr, 5, 10, new(optimizer.LRU), silent)
			learned := replay(t, tr, 5, 10, optimizer.New(), silent)
			t.Logf("%.3f of LRU's wait", learned.mean/lru.mean)
			if learned.mean > 1.1*lru.mean {
				t.Errorf("waits %.3f s in the mean, LRU %.3f", learned.mean, lru.mean)
			}
		})
	}
}

// madeUp is a trace of models of 0.4 to 3 GB, of which next names one for each
// request.
func madeUp(name string, models, requests int, dice *rand.Rand, next func(k int) int) *trace {
	tr := &trace{name: name}
	for i := range models {
		tr.models = append(tr.models, tier.Model{Name: fmt.Sprint("m", i), Size: tier.Bytes(0.4e9 + 2.6e9*float64(i*7%models)/float64(models))})
	}
	at := 0.0
	for k := range requests {
		at += 20 * dice.ExpFloat64()
		tr.at, tr.who = append(tr.at, at), append(tr.who, int32(next(k)))
	}
	return tr
}

// TestHint_Liar_IsSoonNotBelieved has one caller announce, before every request, a
// model that is not asked for then, and sees what that does to everybody else.
func TestHint_Liar_IsSoonNotBelieved(t *testing.T) {
	const models, requests = 16, 3000
	dice := rand.New(rand.NewPCG(5, 6))
	tr := madeUp("liar", models, requests, dice, func(int) int { return min(int(dice.ExpFloat64()*2.5), models-1) })
	honest := func(k int) int32 { return tr.who[k] }
	lies := map[string]announcement{
		"always the model that is asked for least": func(int) int32 { return models - 1 },
		"another one each time":                    func(k int) int32 { return (tr.who[k] + 1 + int32(k)%(models-1)) % models },
		"the truth at first": func(k int) int32 {
			if k < requests/10 {
				return honest(k)
			}
			return (tr.who[k] + 1) % models
		},
	}
	without := replay(t, tr, 5, 10, optimizer.New(), silent)
	with := replay(t, tr, 5, 10, optimizer.New(), honest)
	t.Logf("honest hints: %.3f of the wait without any", with.mean/without.mean)
	if with.mean > 0.7*without.mean {
		t.Errorf("honest hints bring little")
	}
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			lied := replay(t, tr, 5, 10, optimizer.New(), lie)
			t.Logf("%.3f of the wait without hints, %.3f GB moved a request, %.3f without", lied.mean/without.mean, lied.moved, without.moved)
			if lied.mean > 1.05*without.mean {
				t.Errorf("waits %.3f s in the mean, %.3f without hints", lied.mean, without.mean)
			}
		})
	}
}

// development are the traces that constants may be chosen on.
var development = []string{"azure19_a50", "edge8_azure_a", "edge8_gentd_nov", "edge8_servegen", "gentd26_early", "gentd26_nov", "servegen_w1"}

// TestEstimator_LeaveOneTraceOut_WaitsAreTheSame chooses, for each recorded trace,
// the constants that do best on all others, and wants what they come to on the one
// that was left out to be what the constants in use come to there: none is fitted
// to a trace.
func TestEstimator_LeaveOneTraceOut_WaitsAreTheSame(t *testing.T) {
	if os.Getenv("MODELTIER_LONG") == "" {
		t.Skip("takes minutes: MODELTIER_LONG=1 runs it")
	}
	inUse := optimizer.AsChosen()
	choices := []optimizer.Chosen{inUse}
	for _, ahead := range []float64{2, 10, 20} {
		choices = append(choices, optimizer.Chosen{Ahead: ahead, Lessons: inUse.Lessons})
	}
	for _, long := range []int{4, 16} {
		c := inUse
		c.Lessons[1] = long
		choices = append(choices, c)
	}
	const ram, swap = 5e9, 10e9
	logs := make([][]float64, len(choices)) // of the wait over that by the constants in use, by choice and trace
	for _, name := range development {
		tr := readTrace(t, name, true)
		lib, err := tier.NewLibrary(tr.models)
		if err != nil {
			t.Fatal(err)
		}
		used := optimizer.Shadowed(lib, tr.at, tr.who, ram, swap, inUse)
		for k, c := range choices {
			logs[k] = append(logs[k], math.Log(optimizer.Shadowed(lib, tr.at, tr.who, ram, swap, c)/used))
		}
	}
	left := 0.0
	for i, name := range development {
		best, least := 0, math.Inf(1)
		for k := range choices {
			sum := 0.0
			for j, x := range logs[k] {
				if j != i {
					sum += x
				}
			}
			if sum < least {
				best, least = k, sum
			}
		}
		t.Logf("%-16s waits %.3f of that with the constants in use by %+v, the best for the others", name, math.Exp(logs[best][i]), choices[best])
		left += logs[best][i] / float64(len(development))
	}
	for k, c := range choices {
		sum := 0.0
		for _, x := range logs[k] {
			sum += x / float64(len(development))
		}
		t.Logf("%+v: %.4f in the geometric mean", c, math.Exp(sum))
	}
	t.Logf("geometric mean with each trace left out: %.4f", math.Exp(left))
	if math.Abs(left) > 0.01 {
		t.Errorf("they differ by more than 1 %%")
	}
}
