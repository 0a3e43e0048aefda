package llama_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/integrations/llama/internal/llamatest"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/process"
)

// remembering returns the template that runs the engine so that its weights are mapped
// and its conversations are saved.
func remembering(t testing.TB, context, slots int) process.Engine {
	t.Helper()
	e := mapping(t)
	e.Command = append(e.Command, "-c", fmt.Sprint(context), "-np", fmt.Sprint(slots), "--slot-save-path", "{state}")
	e.Save = process.Request{Path: "/slots/{slot}?action=save", Body: `{"filename":"{file}"}`}
	e.Restore = process.Request{Path: "/slots/{slot}?action=restore", Body: `{"filename":"{file}"}`}
	e.Slots = slots
	return e
}

// told is a conversation with a model, which grows.
type told struct {
	testing.TB
	mover *process.Mover
	model tier.Model
	slot  int
	text  string
}

// turn is one of its answers: of how many tokens it was, how many of them were known
// already, and how long it took.
type turn struct {
	prompt, cached int
	took           time.Duration
}

// more adds to the conversation, and returns its next turn, of one token.
func (c *told) more(text string) turn {
	c.Helper()
	c.text += text
	url, ok := c.mover.URL(c.model.Name)
	if !ok {
		c.Fatal("it has no URL")
	}
	began := time.Now()
	res, err := http.Post(url+"/v1/completions", "application/json", bytes.NewReader(fmt.Appendf(nil, `{"prompt":%q,"max_tokens":1,"id_slot":%d}`, c.text, c.slot)))
	if err != nil {
		c.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	took := time.Since(began)
	var answer struct {
		Choices []struct{ Text string }
		Usage   struct {
			Prompt  int `json:"prompt_tokens"`
			Details struct {
				Cached int `json:"cached_tokens"`
			} `json:"prompt_tokens_details"`
		}
	}
	if err == nil {
		err = json.Unmarshal(b, &answer)
	}
	if err != nil || res.StatusCode != http.StatusOK || len(answer.Choices) != 1 || answer.Choices[0].Text == "" {
		c.Fatalf("%d %s %v", res.StatusCode, b, err)
	}
	return turn{answer.Usage.Prompt, answer.Usage.Details.Cached, took}
}

// A frozen engine has its cache of the prompt, with its weights kept or dropped, and
// shows what it has of its own.
func TestConversation_EngineIsFrozen_ThePromptIsNotEvaluatedAgain(t *testing.T) {
	const context, layers, width = 2048, 8, 768
	e := remembering(t, context, 1)
	e.Standby = process.StandbyFreeze
	mover, err := process.New(process.Options{Engine: e, StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer mover.Close()
	model := sized(t, llamatest.File(t, demo.Llama{Width: width, Inner: 2304, Layers: layers}))
	model.Runtime = tier.GiB
	moved(t, mover, model, tier.Storage, tier.RAM)
	c := &told{TB: t, mover: mover, model: model}
	first := c.more(strings.Repeat("the water ", 50))
	if first.cached != 0 || first.prompt < 100 {
		t.Fatalf("%+v", first)
	}
	for _, dropped := range []bool{false, true} {
		moved(t, mover, model, tier.RAM, tier.Swap)
		if dropped {
			if err := mover.Uncache(t.Context(), model.Name, tier.Unlimited); err != nil {
				t.Error(err)
			}
		}
		state := mover.Status().Engines[0]
		// Keys and values, of two bytes a number.
		cache := tier.Bytes(context * layers * width * 2 * 2)
		if state.State != process.Frozen || state.Anon < cache || state.Anon > cache+200*tier.MiB {
			t.Errorf("it is %s and has %v of its own, of which %v are its cache", state.State, state.Anon, cache)
		}
		moved(t, mover, model, tier.Swap, tier.RAM)
		if next := c.more("of"); next.cached < first.prompt-1 || next.prompt-next.cached > 2 {
			t.Errorf("dropped %v: %+v after %+v", dropped, next, first)
		}
	}
}

// An engine that was stopped has its conversations after its start, one in each slot, and
// one of another model or with another context has none.
func TestConversation_EngineIsStopped_ThePromptIsNotEvaluatedAgain(t *testing.T) {
	dir, e := t.TempDir(), remembering(t, 1024, 2)
	model := sized(t, llamatest.File(t, small))
	start := func(e process.Engine) (*process.Mover, [2]*told) {
		mover, err := process.New(process.Options{Engine: e, StateDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { mover.Close() })
		moved(t, mover, model, tier.Storage, tier.RAM)
		var c [2]*told
		for slot := range c {
			c[slot] = &told{TB: t, mover: mover, model: model, slot: slot}
		}
		return mover, c
	}
	mover, c := start(e)
	texts := [2]string{strings.Repeat("the water ", 50), strings.Repeat("a house ", 60)}
	var first [2]turn
	for slot, text := range texts {
		if first[slot] = c[slot].more(text); first[slot].cached != 0 {
			t.Fatalf("%+v", first)
		}
	}
	back := func(what string, c [2]*told, want bool) {
		t.Helper()
		for slot, text := range texts {
			c[slot].text = ""
			if next := c[slot].more(text + "of"); (next.cached >= first[slot].prompt-1) != want || !want && next.cached != 0 {
				t.Errorf("%s: slot %d has %+v after %+v; %+v", what, slot, next, first[slot], c[slot].mover.Status().Engines[0].Conversation)
			}
		}
	}
	moved(t, mover, model, tier.RAM, tier.Storage)
	moved(t, mover, model, tier.Storage, tier.RAM)
	back("stopped", c, true)
	if err := mover.Close(); err != nil {
		t.Fatal(err)
	}
	mover, c = start(e)
	back("another server", c, true)
	if s := mover.Status().Engines[0].Conversation; s == nil || s.Bytes == 0 || s.Trouble != "" {
		t.Errorf("Status has %+v", s)
	}
	mover.Close()

	other := e
	other.Command = append(slices.Clone(e.Command), "-c", "512")
	mover, c = start(other)
	back("another context", c, false)
	mover.Close()

	// The same name, path, size and shape, with other weights.
	llamatest.Write(t, demo.Llama{Name: "y", Width: small.Width, Inner: small.Inner, Layers: small.Layers}, model.Path)
	if info, err := os.Stat(model.Path); err != nil || tier.Bytes(info.Size()) != model.Size {
		t.Fatal(info.Size(), err)
	}
	_, c = start(e)
	back("another model", c, false)
}

// BenchmarkConversation measures the time to the first token on return to a conversation
// of 1 500 tokens and more, each time with a few new ones: in an engine that is there, in
// one that was frozen with its pages kept, and in one that was stopped and is started
// with what it had saved; beside the time that all of the conversation takes. The times
// of the moves count. One run, medians.
func BenchmarkConversation(b *testing.B) {
	e := remembering(b, 2048, 1)
	e.Standby = process.StandbyFreeze
	mover, err := process.New(process.Options{Engine: e, StateDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer mover.Close()
	path := llamatest.File(b, demo.Llama{Width: 2048, Inner: 6144, Layers: 9})
	model := sized(b, path)
	model.Runtime = 2 * tier.GiB
	took, saved := map[string][]time.Duration{}, tier.Bytes(0)
	const times = 5
	for b.Loop() {
		moved(b, mover, model, tier.Storage, tier.RAM)
		c := &told{TB: b, mover: mover, model: model}
		first := c.more(strings.Repeat("the water of a house ", 300) + fmt.Sprint(b.N))
		if first.prompt < 1500 {
			b.Fatalf("%+v", first)
		}
		took["prefill"] = append(took["prefill"], first.took)
		next := func(name string, before time.Duration) {
			t := c.more(" and the men")
			if t.prompt-t.cached > 8 {
				b.Fatalf("%s: %+v", name, t)
			}
			took[name] = append(took[name], before+t.took)
		}
		for range times {
			next("resident", 0)
			moved(b, mover, model, tier.RAM, tier.Swap)
			next("frozen", moved(b, mover, model, tier.Swap, tier.RAM))
			next("resident", 0)
			took["save"] = append(took["save"], moved(b, mover, model, tier.RAM, tier.Storage))
			next("restored", moved(b, mover, model, tier.Storage, tier.RAM))
			saved = mover.Status().Engines[0].Conversation.Bytes
		}
		c.text = ""
		c.more("x") // the next round begins from the start
		moved(b, mover, model, tier.RAM, tier.Storage)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(model.Size.GB(), "GiB")
	b.ReportMetric(float64(saved)/float64(tier.MiB), "saved-MiB")
	median := func(name string) float64 {
		slices.Sort(took[name])
		d := took[name][len(took[name])/2]
		b.ReportMetric(float64(d.Microseconds())/1000, name+"-ms")
		return float64(d)
	}
	resident, prefill := median("resident"), median("prefill")
	b.ReportMetric(median("frozen")/resident, "frozen/resident")
	b.ReportMetric(median("restored")/prefill, "restored/prefill")
	median("save")
}
