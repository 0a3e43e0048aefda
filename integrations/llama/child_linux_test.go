package llama_test

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
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/integrations/llama/internal/llamatest"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/process"
)

// built returns the engine's program.
func built(t testing.TB) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "engine")
	if out, err := exec.Command("go", "build", "-o", program, "./engine").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// command returns the template that runs the engine.
func command(program, libs string, flags ...string) process.Engine {
	return process.Engine{Command: append([]string{program, "-m", "{path}", "--port", "{port}", "-libs", libs, "-c", "256", "-t", "1"}, flags...)}
}

// mapping returns the template that runs the engine so that its weights are mapped, on
// any processor.
func mapping(t testing.TB) process.Engine {
	t.Helper()
	return command(built(t), llamatest.Libraries(t), "--no-repack")
}

// said is what an engine answers to a prompt.
func said(t testing.TB, url string, tokens int) string {
	t.Helper()
	res, err := http.Post(url+"/v1/completions", "application/json",
		bytes.NewReader(fmt.Appendf(nil, `{"prompt":%q,"max_tokens":%d,"cache_prompt":false}`, prompt, tokens)))
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
	mover, err := process.New(process.Options{Engine: mapping(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer mover.Close()
	model := sized(t, llamatest.File(t, demo.Llama{Width: 768, Inner: 2304, Layers: 8}))
	moved(t, mover, model, tier.Storage, tier.RAM)
	url, _ := mover.URL(model.Name)
	want := said(t, url, 24)
	if want == "" {
		t.Fatal("the engine says nothing")
	}
	for range 2 {
		moved(t, mover, model, tier.RAM, tier.Swap)
		if err := mover.Uncache(t.Context(), model.Name, model.Size); err != nil {
			t.Error(err)
		}
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

// Tests of movers need engines that map their weights and engines that copy them.
func TestEngine_Flags_DecideWhereItsWeightsAre(t *testing.T) {
	libs, program := llamatest.Libraries(t), built(t)
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	has := func(feature string) bool { return regexp.MustCompile(`\b` + feature + `\b`).Match(cpu) }
	shape := demo.Llama{Width: 1024, Inner: 3072, Layers: 4}
	eights := sized(t, llamatest.File(t, shape))
	shape.Q4 = true
	fours := sized(t, llamatest.File(t, shape))
	// memory is what an engine has once it has answered.
	memory := func(model tier.Model, libs string, flags ...string) (anonymous, file tier.Bytes) {
		mover, err := process.New(process.Options{Engine: command(program, libs, flags...)})
		if err != nil {
			t.Fatal(err)
		}
		defer mover.Close()
		moved(t, mover, model, tier.Storage, tier.RAM)
		url, _ := mover.URL(model.Name)
		said(t, url, 1)
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", mover.Status().Engines[0].Pid))
		if err != nil {
			t.Fatal(err)
		}
		kib := func(name string) (n tier.Bytes) {
			_, rest, _ := strings.Cut(string(b), name+":")
			fmt.Sscan(rest, &n)
			return n * tier.KiB
		}
		return kib("RssAnon"), kib("RssFile")
	}
	for name, model := range map[string]tier.Model{"Q8_0": eights, "Q4_0": fours} {
		most := model.Size * 9 / 10
		base, file := memory(model, libs, "--no-repack")
		if file < most {
			t.Errorf("%s mapped: %v of %v are of the file", name, file, model.Size)
		}
		if anonymous, file := memory(model, libs, "--no-repack", "--no-mmap"); anonymous < base+most || file > most {
			t.Errorf("%s not mapped: %v anonymous after %v, and %v of the file, of %v", name, anonymous, base, file, model.Size)
		}
		copies := has("amx_int8") || name == "Q4_0" && (has("avx2") || has("asimddp"))
		anonymous, _ := memory(model, libs)
		if copied := anonymous > base+most; copied != copies {
			t.Errorf("%s with what the processor has: %v anonymous after %v, of %v; copies are %v", name, anonymous, base, model.Size, copies)
		}
		if has("amx_int8") && name == "Q8_0" {
			if anonymous, _ := memory(model, llamatest.Without(t, "sapphirerapids")); anonymous > base+most {
				t.Errorf("%s without the library for AMX: %v anonymous after %v, of %v", name, anonymous, base, model.Size)
			}
		}
	}
}

// A folder without the best library for this processor has llama.cpp take the next.
func TestEngine_FolderWithoutAVariant_RunsAsTheNext(t *testing.T) {
	mover, err := process.New(process.Options{Engine: command(built(t), llamatest.Without(t, "zen4"))})
	if err != nil {
		t.Fatal(err)
	}
	defer mover.Close()
	model := sized(t, llamatest.File(t, demo.Llama{Width: 256, Inner: 768, Layers: 1}))
	moved(t, mover, model, tier.Storage, tier.RAM)
	if url, _ := mover.URL(model.Name); said(t, url, 4) == "" {
		t.Error("the engine says nothing")
	}
}

// BenchmarkChange measures what a change of model costs with a real engine and
// 0.5 GB of weights, for each tier that the model may come from, in one run: until
// the engine is ready, and "-token" from then until its first token, which faults in
// what is not mapped yet. "-x" is how many times longer than a thaw with its weights
// cached.
func BenchmarkChange(b *testing.B) {
	engine := mapping(b)
	path := llamatest.File(b, demo.Llama{Width: 2048, Inner: 6144, Layers: 9})
	model := sized(b, path)
	took := map[string]time.Duration{}
	m, err := process.New(process.Options{Engine: engine})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	drop := func() {
		began := time.Now()
		if err := m.Uncache(b.Context(), model.Name, tier.Unlimited); err != nil {
			b.Fatal(err)
		}
		took["uncache"] += time.Since(began)
	}
	ready := func(name string, from tier.Tier) {
		d := moved(b, m, model, from, tier.RAM)
		url, _ := m.URL(model.Name)
		began := time.Now()
		said(b, url, 1)
		took[name] += d
		took[name+"-token"] += time.Since(began)
	}
	for b.Loop() {
		chill(b, path)
		ready("start-cold", tier.Storage)
		took["freeze"] += moved(b, m, model, tier.RAM, tier.Swap)
		drop()
		ready("thaw-cold", tier.Swap)
		moved(b, m, model, tier.RAM, tier.Storage)
		ready("start-warm", tier.Storage)
		moved(b, m, model, tier.RAM, tier.Swap)
		ready("thaw-warm", tier.Swap)
		url, _ := m.URL(model.Name)
		began := time.Now()
		said(b, url, 1)
		took["hot-token"] += time.Since(began)
		moved(b, m, model, tier.RAM, tier.Storage)
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
