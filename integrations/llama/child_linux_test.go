package llama

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/examples/server/demo"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/process"
)

// engineCommand builds the engine, and returns the template that runs it.
func engineCommand(t testing.TB, libs string) process.Engine {
	t.Helper()
	program := filepath.Join(t.TempDir(), "engine")
	if out, err := exec.Command("go", "build", "-o", program, "./engine").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return process.Engine{Command: []string{program, "-m", "{path}", "-port", "{port}", "-libs", libs, "-c", "256", "-t", "1"}}
}

// said is what an engine answers to a prompt.
func said(t testing.TB, url string, tokens int) string {
	t.Helper()
	res, err := http.Post(url+"/v1/completions", "application/json",
		bytes.NewReader(fmt.Appendf(nil, `{"prompt":%q,"max_tokens":%d}`, prompt, tokens)))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%d %s %v", res.StatusCode, b, err)
	}
	var answer struct {
		Choices []struct{ Text string }
	}
	if err := json.Unmarshal(b, &answer); err != nil || len(answer.Choices) != 1 {
		t.Fatalf("%s %v", b, err)
	}
	return answer.Choices[0].Text
}

// moved moves a model of an engine and returns how long that took.
func moved(t testing.TB, m *process.Mover, model tier.Model, from, to tier.Tier) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	if err := m.Move(ctx, tier.Move{Model: model, From: from, To: to}, nil); err != nil {
		t.Fatalf("from %v to %v: %v", from, to, err)
	}
	return time.Since(began)
}

func sized(t testing.TB, path string) tier.Model {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return tier.Model{Name: "live", Path: path, Size: tier.Bytes(info.Size()), Runtime: 256 * tier.MiB}
}

func TestChildEngine_FrozenPagedOutAndThawed_SameAnswer(t *testing.T) {
	mover, err := process.New(process.Options{Engine: engineCommand(t, fetched(t))})
	if err != nil {
		t.Fatal(err)
	}
	defer mover.Close()
	model := sized(t, random(t, demo.Llama{Width: 768, Inner: 2304, Layers: 8}))
	moved(t, mover, model, tier.Storage, tier.RAM)
	url, _ := mover.URL(model.Name)
	want := said(t, url, 24)
	if want == "" {
		t.Fatal("the engine says nothing")
	}
	for range 2 {
		moved(t, mover, model, tier.RAM, tier.Swap)
		state := mover.Status().Engines[0]
		if state.State == process.Frozen && state.Cached > model.Size/8 {
			t.Logf("frozen, %v of its weights stay: %s", state.Cached, state.Note)
		}
		moved(t, mover, model, tier.Swap, tier.RAM)
		url, _ = mover.URL(model.Name)
		if got := said(t, url, 24); got != want {
			t.Errorf("after %s it says %q and not %q", state.State, got, want)
		}
	}
	steady, peak, ok := mover.Footprint(model.Name)
	if !ok || steady < model.Size || peak < steady {
		t.Errorf("it was seen to take %v, %v at most, of %v of weights (%v)", steady, peak, model.Size, ok)
	}
}

// BenchmarkChange measures what a change of model costs with a real engine and
// 0.5 GB of weights, for each tier that the model may come from, in one run: until
// the engine is ready, and "-token" from then until its first token, which faults in
// what is not mapped yet. "-x" is how many times longer than a thaw with its weights
// cached.
func BenchmarkChange(b *testing.B) {
	libs := fetched(b)
	path := random(b, demo.Llama{Width: 2048, Inner: 6144, Layers: 9})
	model := sized(b, path)
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	took := map[string]time.Duration{}
	open := func(cached bool) *process.Mover {
		m, err := process.New(process.Options{Engine: engineCommand(b, libs), LeaveCached: cached})
		if err != nil {
			b.Fatal(err)
		}
		return m
	}
	warm, cold := open(true), open(false)
	defer warm.Close()
	defer cold.Close()
	ready := func(name string, m *process.Mover, from tier.Tier) {
		d := moved(b, m, model, from, tier.RAM)
		url, _ := m.URL(model.Name)
		began := time.Now()
		said(b, url, 1)
		took[name] += d
		took[name+"-token"] += time.Since(began)
	}
	for b.Loop() {
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil { // nobody maps it now
			b.Fatal(err)
		}
		ready("start-cold", cold, tier.Storage)
		took["freeze"] += moved(b, cold, model, tier.RAM, tier.Swap)
		ready("thaw-cold", cold, tier.Swap)
		moved(b, cold, model, tier.RAM, tier.Storage)
		ready("start-warm", warm, tier.Storage)
		moved(b, warm, model, tier.RAM, tier.Swap)
		ready("thaw-warm", warm, tier.Swap)
		url, _ := warm.URL(model.Name)
		began := time.Now()
		said(b, url, 1)
		took["hot-token"] += time.Since(began)
		moved(b, warm, model, tier.RAM, tier.Storage)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(model.Size.GB(), "GiB")
	for name, d := range took {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), name+"-ms")
		if !strings.HasSuffix(name, "-token") {
			b.ReportMetric(float64(d)/float64(took["thaw-warm"]), name+"-x")
		}
	}
}
