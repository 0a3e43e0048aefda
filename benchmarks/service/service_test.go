package service

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modeltier/modeltier/benchmarks/service/engines"
)

const (
	clients = 64
	// faithful is how many clients ask always for the same model: so many for the first,
	// and so many for the second. The others ask for any.
	faithful = 16
	inputs   = 8 // that are asked
)

// want is what each model answers to each input.
type want map[string][]string

func expected(t *testing.T, models []engines.Model) want {
	t.Helper()
	w := want{}
	for _, m := range models {
		weights, err := os.ReadFile(m.Path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range inputs {
			var answer bytes.Buffer
			if err := engines.Answer(&answer, m.Kind, bytes.NewReader(weights), m.Size, fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
			w[m.Name] = append(w[m.Name], answer.String())
		}
	}
	return w
}

// reply is what came of a request.
type reply struct {
	status int // 0: no answer
	body   string
	engine string
	wait   time.Duration // until the first of the answer
	err    error
}

func (s *server) ask(ctx context.Context, m engines.Model, input string) (r reply) {
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+"/"+m.Kind+"/"+m.Name, strings.NewReader(input))
	if err != nil {
		return reply{err: err}
	}
	res, err := s.client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer res.Body.Close()
	r = reply{status: res.StatusCode, engine: res.Header.Get(engines.EngineHeader), wait: time.Since(began)}
	body, err := io.ReadAll(res.Body)
	r.body, r.err = string(body), err
	return r
}

// tally is what came of many.
type tally struct {
	right, wrong, refused, broken int
	hot, cold                     []time.Duration // waits of right answers, for the two models that have clients of their own, and for the others
	complaint                     string          // the first that was not right
}

func (c *tally) add(r reply, want string, hot bool) {
	switch {
	case r.err != nil || r.status == 0:
		c.broken++
	case r.status != http.StatusOK:
		c.refused++
	case r.body != want:
		c.wrong++
	default:
		c.right++
		if hot {
			c.hot = append(c.hot, r.wait)
		} else {
			c.cold = append(c.cold, r.wait)
		}
		return
	}
	if c.complaint == "" {
		c.complaint = fmt.Sprintf("status %d, %q, %v", r.status, r.body, r.err)
	}
}

func (c *tally) merge(o tally) {
	c.right, c.wrong, c.refused, c.broken = c.right+o.right, c.wrong+o.wrong, c.refused+o.refused, c.broken+o.broken
	c.hot, c.cold = append(c.hot, o.hot...), append(c.cold, o.cold...)
	if c.complaint == "" {
		c.complaint = o.complaint
	}
}

// crowd has all clients ask, one request after the other, at least so many each, and
// until so much time is over.
func (s *server) crowd(models []engines.Model, want want, least int, lasts time.Duration, seed uint64) tally {
	var (
		all   tally
		mu    sync.Mutex
		group sync.WaitGroup
		began = time.Now()
	)
	for client := range clients {
		group.Go(func() {
			var own tally
			random := rand.New(rand.NewPCG(seed, uint64(client)))
			for n := 0; n < least || time.Since(began) < lasts; n++ {
				of := random.IntN(len(models))
				if client < 2*faithful {
					of = client / faithful
				}
				input := random.IntN(inputs)
				own.add(s.ask(context.Background(), models[of], fmt.Sprint(input)), want[models[of].Name][input], of < 2)
			}
			mu.Lock()
			defer mu.Unlock()
			all.merge(own)
		})
	}
	group.Wait()
	return all
}

// leaver has a client ask for each model and leave while that loads, with another one
// waiting for the same; then every model is asked for again.
func (s *server) leaver(models []engines.Model, want want) tally {
	var c tally
	for _, m := range models {
		ctx, leave := context.WithCancel(context.Background())
		first, second := make(chan reply, 1), make(chan reply, 1)
		go func() { first <- s.ask(ctx, m, "0") }()
		go func() { second <- s.ask(context.Background(), m, "0") }()
		leaving := time.AfterFunc(3*time.Millisecond, leave)
		<-first
		leaving.Stop()
		leave()
		c.add(<-second, want[m.Name][0], false)
	}
	for _, m := range models {
		c.add(s.ask(context.Background(), m, "1"), want[m.Name][1], false)
	}
	return c
}

// crash has a chat engine end in the middle of an answer, and returns how long it then
// takes until it answers again, and how many requests failed before.
func (s *server) crash(t *testing.T, m engines.Model, want want) (took time.Duration, failed int) {
	t.Helper()
	if r := s.ask(context.Background(), m, engines.Crash); r.err == nil && r.status == http.StatusOK {
		t.Errorf("%s: the answer of an engine that crashed: %+v", s.way, r)
	}
	began := time.Now()
	for {
		r := s.ask(context.Background(), m, "0")
		if r.err == nil && r.status == http.StatusOK && r.body == want[m.Name][0] {
			return time.Since(began), failed
		}
		if failed++; time.Since(began) > maxWait {
			t.Errorf("%s: no answer after the crash: %+v", s.way, r)
			return time.Since(began), failed
		}
	}
}

// outcome is what one way did in all.
type outcome struct {
	load, leaver     tally
	recovery         time.Duration
	failed           int
	charged          int64
	stopped, killed  bool // an engine was left behind by a server that ended, that was killed
	anonymous, total int64
}

// TestService_SixtyFourClients_EveryAnswerIsRight holds the service over modeltier to what
// it promises, in a short run. The other is run for company, and only logged.
func TestService_SixtyFourClients_EveryAnswerIsRight(t *testing.T) {
	if testing.Short() {
		t.Skip("starts engines and servers")
	}
	const size = 8 << 20
	dir := t.TempDir()
	models, err := engines.Make(dir, size)
	if err != nil {
		t.Fatal(err)
	}
	want, limit := expected(t, models), 2*models[0].Takes()
	o := one(t, "with", dir, models, want, limit, 1, 2, 0)
	t.Logf("with: %+v right, charged %d of %d", o.load.right, o.charged, limit)
	for what, c := range map[string]tally{"load": o.load, "leaver": o.leaver} {
		if c.wrong+c.refused+c.broken > 0 || c.right == 0 {
			t.Errorf("%s: %d right, %d wrong, %d refused, %d broken: %s", what, c.right, c.wrong, c.refused, c.broken, c.complaint)
		}
	}
	if o.charged > limit || o.charged == 0 {
		t.Errorf("%d bytes were charged, and the limit is %d", o.charged, limit)
	}
	if o.failed > 0 {
		t.Errorf("%d requests failed after the crash of an engine", o.failed)
	}
	if o.stopped || o.killed {
		t.Errorf("engines were left behind: by a server that ended %v, by one that was killed %v", o.stopped, o.killed)
	}
}

// one runs a server of a way through everything, once.
func one(t *testing.T, way, dir string, models []engines.Model, want want, limit int64, seed uint64, least int, lasts time.Duration) (o outcome) {
	t.Helper()
	s := start(t, way, dir, models[0].Size, limit)
	sampled := sample(s.cmd.Process.Pid)
	o.load = s.crowd(models, want, least, lasts, seed)
	o.anonymous, o.total = sampled()
	o.leaver = s.leaver(models, want)
	o.recovery, o.failed = s.crash(t, models[0], want)
	o.charged = s.charged(t)
	left := watch(t, s.ask(context.Background(), models[0], "0").engine)
	s.stop(t)
	o.stopped = left.orphan(t)
	s = start(t, way, dir, models[0].Size, limit)
	left = watch(t, s.ask(context.Background(), models[0], "0").engine)
	s.kill(t)
	o.killed = left.orphan(t)
	return o
}

// lines counts the lines of code in a folder: what is not blank and no comment.
func lines(t *testing.T, dir string) (n int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v files in %s, %v", len(files), dir, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
				n++
			}
		}
	}
	return n
}

func quantile(waits []time.Duration, q float64) time.Duration {
	if len(waits) == 0 {
		return 0
	}
	slices.Sort(waits)
	return waits[int(q*float64(len(waits)-1))].Round(100 * time.Microsecond)
}

// TestService_Long_BothSideBySide measures both ways, in turns, and prints a table.
func TestService_Long_BothSideBySide(t *testing.T) {
	if os.Getenv("MODELTIER_LONG") == "" {
		t.Skip("takes minutes: MODELTIER_LONG=1 runs it")
	}
	for _, token := range []time.Duration{0, 20 * time.Millisecond} {
		t.Run(fmt.Sprintf("%v_a_token", token), func(t *testing.T) { sideBySide(t, token) })
	}
}

func sideBySide(t *testing.T, token time.Duration) {
	const size, rounds, lasts = 40 << 20, 3, 15 * time.Second
	dir := t.TempDir()
	models, err := engines.Make(dir, size)
	if err != nil {
		t.Fatal(err)
	}
	want, limit := expected(t, models), 2*models[0].Takes()
	t.Setenv(pace, token.String())
	var table strings.Builder
	fmt.Fprintf(&table, "| | %s |\n| --- | --- | --- |\n", strings.Join([]string{"with", "without"}, " | "))
	columns := map[string]*outcome{"with": {}, "without": {}}
	var recoveries = map[string][]time.Duration{}
	orphans := map[string]int{}
	for round := range rounds {
		for _, way := range []string{"with", "without"} {
			o, sum := one(t, way, dir, models, want, limit, uint64(round), 1, lasts), columns[way]
			sum.load.merge(o.load)
			sum.leaver.merge(o.leaver)
			sum.failed += o.failed
			sum.charged, sum.anonymous, sum.total = max(sum.charged, o.charged), max(sum.anonymous, o.anonymous), max(sum.total, o.total)
			recoveries[way] = append(recoveries[way], o.recovery)
			if o.stopped {
				orphans[way+" stopped"]++
			}
			if o.killed {
				orphans[way+" killed"]++
			}
			t.Logf("round %d, %s: %d right, cold p99 %v", round, way, o.load.right, quantile(o.load.cold, 0.99))
		}
	}
	row := func(name string, cell func(way string, o *outcome) string) {
		fmt.Fprintf(&table, "| %s | %s | %s |\n", name, cell("with", columns["with"]), cell("without", columns["without"]))
	}
	mib := func(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }
	waits := func(w []time.Duration) string {
		return fmt.Sprintf("%d: %v / %v / %v", len(w), quantile(w, 0.5), quantile(w, 0.99), quantile(w, 1))
	}
	row("lines of code, without the engines", func(way string, _ *outcome) string { return fmt.Sprint(lines(t, way)) })
	row("answers right / wrong / refused / broken", func(_ string, o *outcome) string {
		return fmt.Sprintf("%d / %d / %d / %d", o.load.right, o.load.wrong, o.load.refused, o.load.broken)
	})
	row("the two busy models: answers, waits p50 / p99 / longest", func(_ string, o *outcome) string { return waits(o.load.hot) })
	row("the three others: the same", func(_ string, o *outcome) string { return waits(o.load.cold) })
	row("most memory charged, of "+mib(limit), func(_ string, o *outcome) string { return mib(o.charged) })
	row("most memory seen: anonymous / with file pages", func(_ string, o *outcome) string { return mib(o.anonymous) + " / " + mib(o.total) })
	row("a client leaves while a model loads: others right / not", func(_ string, o *outcome) string {
		return fmt.Sprintf("%d / %d", o.leaver.right, o.leaver.wrong+o.leaver.refused+o.leaver.broken)
	})
	row("an engine crashes: right again after, requests failed before", func(way string, o *outcome) string {
		return fmt.Sprintf("%v, %d", quantile(recoveries[way], 0.5), o.failed)
	})
	row(fmt.Sprintf("engines left behind, of %d: server ended / killed", rounds), func(way string, _ *outcome) string {
		return fmt.Sprintf("%d / %d", orphans[way+" stopped"], orphans[way+" killed"])
	})
	t.Log("\n" + table.String())
	for way, o := range columns {
		if c := o.load.complaint + o.leaver.complaint; c != "" {
			t.Logf("%s: the first answer that was not right: %s", way, c)
		}
	}
}
