package llama_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/integrations/llama"
	"github.com/modeltier/modeltier/integrations/llama/internal/llamatest"
	"github.com/modeltier/modeltier/tier"
)

// small is a model that computes a token in a moment.
var small = demo.Llama{Name: "x", Width: 256, Inner: 768, Layers: 2}

const prompt = "the people of the water"

// ask makes a request of the prompt, for its likeliest answer.
func ask(t testing.TB, m *llama.Model, text string, tokens int) llama.Request {
	t.Helper()
	p, err := m.Tokenize(text, true, true)
	if err != nil {
		t.Fatal(err)
	}
	return llama.Request{Prompt: p, MaxTokens: tokens, Slot: llama.AnySlot, Fresh: true}
}

// generate returns the text of an answer, and what was done for it.
func generate(t testing.TB, m *llama.Model, r llama.Request) (string, llama.Answer) {
	t.Helper()
	var b strings.Builder
	a, err := m.Generate(t.Context(), r, func(piece string) error {
		b.WriteString(piece)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), a
}

func decode(t testing.TB, m *llama.Model, n int) string {
	t.Helper()
	text, _ := generate(t, m, ask(t, m, prompt, n))
	return text
}

func TestOpen_AnotherFolder_IsRefused(t *testing.T) {
	l := llamatest.Open(t)
	if again, err := llama.Open(llamatest.Libraries(t)); err != nil || again != l {
		t.Errorf("the same folder again: %p, %v, and not %p", again, err, l)
	}
	if _, err := llama.Open(t.TempDir()); err == nil {
		t.Error("another folder is opened beside it")
	}
}

func TestLoad_NoModel_ErrorWithWhatLlamaSaid(t *testing.T) {
	l := llamatest.Open(t)
	path := filepath.Join(t.TempDir(), "not.gguf")
	if err := os.WriteFile(path, []byte("GGUF but not really"), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := l.Load(t.Context(), path, llama.Options{}); err == nil {
		m.Close()
		t.Errorf("%s is loaded", path)
	} else if !strings.Contains(err.Error(), "llama_model_load") {
		t.Errorf("the error has no reason: %v", err)
	}
	if _, err := l.Load(t.Context(), path+".missing", llama.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is missing: %v", err)
	}
	for _, o := range []llama.Options{{Context: -1}, {Slots: 1 << 30}, {Threads: 1 << 20}} {
		if _, err := l.Load(t.Context(), path, o); err == nil || strings.Contains(err.Error(), "llama.cpp") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// A load into memory tells how far it is, and ends with its context.
func TestLoad_IntoMemory_TellsProgressAndCanBeCalledOff(t *testing.T) {
	l, path := llamatest.Open(t), llamatest.File(t, demo.Llama{Width: 512, Inner: 1536, Layers: 6})
	load := func(ctx context.Context, progress func(float64)) (*llama.Model, error) {
		return l.Load(ctx, path, llama.Options{Context: 256, Threads: 1, NoMmap: true, Progress: progress})
	}
	var shares []float64
	m, err := load(t.Context(), func(share float64) { shares = append(shares, share) })
	if err != nil {
		t.Fatal(err)
	}
	want := decode(t, m, 8)
	m.Close()
	if n := len(shares); n < 5 || !slices.IsSorted(shares) || shares[n-1] != 1 {
		t.Errorf("progress is %v", shares)
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	if _, err := load(ctx, func(share float64) {
		if share > 0.3 {
			if share > 0.9 {
				t.Error("it goes on")
			}
			cancel(why)
		}
	}); err != why {
		t.Errorf("a load that is called off: %v", err)
	}
	func() {
		defer func() {
			if v := recover(); v != "no" {
				t.Errorf("a progress function that panics: %v", v)
			}
		}()
		load(t.Context(), func(float64) { panic("no") })
	}()
	if m, err = load(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if got := decode(t, m, 8); got != want {
		t.Errorf("afterwards it says %q and not %q", got, want)
	}
}

func TestMemory_SaysWhatIsMappedAndWhatIsCopied(t *testing.T) {
	l, path := llamatest.Open(t), llamatest.File(t, small)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	size := tier.Bytes(info.Size())
	about := func(got tier.Bytes) bool { return got > size*9/10 && got < size*11/10 }
	for _, o := range []llama.Options{{NoRepack: true}, {NoMmap: true, NoRepack: true}} {
		o.Context, o.Threads = 256, 1
		m, err := l.Load(t.Context(), path, o)
		if err != nil {
			t.Fatal(err)
		}
		takes := m.Memory()
		m.Close()
		of, other := takes.Mapped, takes.Copied
		if o.NoMmap {
			of, other = other, of
		}
		if !about(of) || other != 0 || takes.Context < 256*tier.KiB || takes.Context > 64*tier.MiB {
			t.Errorf("of a file of %v, not mapped %v, it says %+v", size, o.NoMmap, takes)
		}
	}
}

func TestDemoModel_SaysWords_AndKnowsTextsApart(t *testing.T) {
	m := llamatest.Load(t, demo.Llama{Name: "x", Width: 512, Inner: 1536, Layers: 3}, llama.Options{Context: 256, Threads: 1})
	text, a := generate(t, m, ask(t, m, prompt, 32))
	if words := strings.Fields(text); len(words) != a.Tokens || strings.ContainsFunc(text, func(r rune) bool { return r != ' ' && (r < 'a' || r > 'z') }) {
		t.Errorf("%d tokens are %q", a.Tokens, text)
	}
	embed := func(text string) ([]float32, error) { return m.Embed(t.Context(), ask(t, m, text, 0).Prompt) }
	vector := func(text string) []float32 {
		v, err := embed(text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	dot := func(a, b []float32) (sum float32) {
		for i := range a {
			sum += a[i] * b[i]
		}
		return sum
	}
	one, again, other := vector("the water"), vector("the water"), vector("a small house")
	if len(one) != 512 || dot(one, again) < 0.999 || dot(one, one) > 1.001 || dot(one, other) > 0.99 {
		t.Errorf("%d numbers; a text and itself are %v alike, and %v with another", len(one), dot(one, again), dot(one, other))
	}
	if after := decode(t, m, 32); after != text {
		t.Errorf("after an embedding it says %q and not %q", after, text)
	}
	_, err := embed(strings.Repeat("water ", 300))
	if long, ok := errors.AsType[*llama.TooLongError](err); !ok || !errors.Is(err, llama.ErrTooLong) || long.Tokens < 300 || long.Context != 256 {
		t.Errorf("a text of 300 tokens: %v", err)
	}
}

func TestGenerate_CalledOff_EndsWithItsCause(t *testing.T) {
	m := llamatest.Load(t, small, llama.Options{Context: 256, Threads: 1})
	why := fmt.Errorf("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	n := 0
	_, err := m.Generate(ctx, ask(t, m, prompt, 100), func(string) error {
		if n++; n == 3 {
			cancel(why)
		}
		return nil
	})
	if err != why || n != 3 {
		t.Errorf("after %d tokens: %v", n, err)
	}
	r := ask(t, m, prompt, 1)
	m.Close()
	if _, err := m.Generate(t.Context(), r, nil); err != llama.ErrClosed {
		t.Errorf("a closed model says %v", err)
	}
}

// ending is a context that ends when its state was asked for so many times.
type ending struct {
	context.Context
	left  int
	asked int
}

func (e *ending) Err() error {
	if e.asked++; e.asked > e.left {
		return context.Canceled
	}
	return nil
}

// A prompt takes one computation, within which the request ends.
func TestGenerate_CalledOffWhileComputing_EndsWithinTheToken(t *testing.T) {
	m := llamatest.Load(t, demo.Llama{Width: 128, Inner: 384, Layers: 8}, llama.Options{Context: 256, Threads: 1})
	r := ask(t, m, strings.Repeat("the water ", 30), 1)
	want, _ := generate(t, m, r)
	whole := &ending{Context: context.Background(), left: 1 << 30}
	if _, err := m.Generate(whole, r, func(string) error { return nil }); err != nil || whole.asked < 100 {
		t.Fatalf("%v; whether it goes on was asked %d times", err, whole.asked)
	}
	const left = 20
	ctx := &ending{Context: context.Background(), left: left}
	a, err := m.Generate(ctx, r, func(string) error { return nil })
	if !errors.Is(err, context.Canceled) || a.Tokens != 0 || ctx.asked > left+5 {
		t.Errorf("it has gone on for %d tokens, and asked %d times: %v", a.Tokens, ctx.asked, err)
	}
	if s := m.Slots()[0]; s.Busy || s.Tokens != 0 {
		t.Errorf("the slot afterwards: %+v", s)
	}
	if got, _ := generate(t, m, r); got != want {
		t.Errorf("afterwards it says %q and not %q", got, want)
	}
}

func TestGenerate_SameSeed_SameChoices(t *testing.T) {
	m := llamatest.Load(t, small, llama.Options{Context: 256, Threads: 1})
	said := func(temperature, topP float32, seed uint32) string {
		r := ask(t, m, prompt, 24)
		r.Temperature, r.TopP, r.Seed = temperature, topP, seed
		text, _ := generate(t, m, r)
		return text
	}
	greedy, one := said(0, 0, 1), said(1.5, 0, 1)
	if said(0, 0, 2) != greedy {
		t.Error("at temperature 0 the seed counts")
	}
	if said(1.5, 0, 1) != one || one == greedy || said(1.5, 0, 2) == one {
		t.Errorf("greedy %q, seed 1 %q, again %q, seed 2 %q", greedy, one, said(1.5, 0, 1), said(1.5, 0, 2))
	}
	if got := said(1.5, 1e-6, 1); got != greedy {
		t.Errorf("of the likeliest alone it says %q and not %q", got, greedy)
	}
}

func TestGenerate_StopWord_EndsBeforeIt(t *testing.T) {
	m := llamatest.Load(t, small, llama.Options{Context: 256, Threads: 1})
	r := ask(t, m, prompt, 24)
	all, a := generate(t, m, r)
	if a.Ended || a.Tokens != 24 {
		t.Fatalf("%+v", a)
	}
	words := strings.Fields(all)
	end := strings.Join(words[3:5], " ") // across two tokens
	want, _, _ := strings.Cut(all, end)
	r.Stop = []string{"", "no such thing", end}
	if got, a := generate(t, m, r); got != want || !a.Ended {
		t.Errorf("it says %q and not %q: %+v", got, want, a)
	}
}

func TestGenerate_FullSlot_EndsThere(t *testing.T) {
	m := llamatest.Load(t, small, llama.Options{Context: 256, Threads: 1})
	r := ask(t, m, strings.Repeat("water ", 240), 1000)
	if _, a := generate(t, m, r); a.Ended || len(r.Prompt)+a.Tokens != m.Context()+1 {
		t.Errorf("a prompt of %d tokens in a context of %d: %+v", len(r.Prompt), m.Context(), a)
	}
}

func TestGenerate_TokensThatAreNone_AreRefused(t *testing.T) {
	m := llamatest.Load(t, small, llama.Options{Context: 256, Threads: 1})
	for _, prompt := range [][]int32{nil, {-1}, {1, 1 << 30}} {
		if _, err := m.Generate(t.Context(), llama.Request{Prompt: prompt, MaxTokens: 1}, nil); !errors.Is(err, llama.ErrNoText) {
			t.Errorf("%v: %v", prompt, err)
		}
	}
	if _, err := m.Tokenize("a\x00b", true, true); !errors.Is(err, llama.ErrNoText) {
		t.Errorf("a zero byte: %v", err)
	}
	if _, err := m.Generate(t.Context(), llama.Request{Prompt: []int32{1}, Slot: 7}, nil); !errors.Is(err, llama.ErrNoSlot) {
		t.Errorf("slot 7 of 1: %v", err)
	}
}

// What a slot has of a prompt is not computed again.
func TestGenerate_SamePromptAgain_IsKept(t *testing.T) {
	m := llamatest.Load(t, small, llama.Options{Context: 512, Threads: 1, Slots: 2})
	r := ask(t, m, prompt, 4)
	r.Fresh = false
	_, first := generate(t, m, r)
	_, second := generate(t, m, r)
	if n := len(r.Prompt) - 1; first.Cached != 0 || second.Cached != n || second.Slot != first.Slot {
		t.Errorf("of %d tokens: %+v, then %+v", n+1, first, second)
	}
	other, err := m.Tokenize("a small house", true, true)
	if err != nil {
		t.Fatal(err)
	}
	r.Prompt = other
	if _, a := generate(t, m, r); a.Slot != first.Slot { // both begin with the same token
		t.Logf("another prompt is answered by slot %d", a.Slot)
	}
	r.Fresh = true
	if _, a := generate(t, m, r); a.Cached != 0 {
		t.Errorf("a fresh one: %+v", a)
	}
}

func TestGenerate_ManyAtOnce_EachItsOwn(t *testing.T) {
	m := llamatest.Load(t, small, llama.Options{Context: 1024, Threads: 1, Slots: 4})
	if m.Context() != 256 {
		t.Errorf("each slot has %d tokens", m.Context())
	}
	texts := []string{"the people", "a small house", "water", "light of day", "my mother", "one word", "two men", "her hand"}
	want := make(map[string]string)
	for _, text := range texts {
		want[text], _ = generate(t, m, ask(t, m, text, 12))
	}
	var all sync.WaitGroup
	for _, text := range texts {
		all.Go(func() {
			if got, _ := generate(t, m, ask(t, m, text, 12)); got != want[text] {
				t.Errorf("to %q it says %q among others, and %q alone", text, got, want[text])
			}
		})
	}
	all.Wait()
	for _, s := range m.Slots() {
		if s.Busy {
			t.Errorf("at the end: %+v", s)
		}
	}
}

// The answer goes on in another model of the same file as it would have in the first.
func TestRestore_InAnotherProcess_SameContinuation(t *testing.T) {
	l, path := llamatest.Open(t), llamatest.File(t, small)
	load := func() *llama.Model {
		m, err := l.Load(t.Context(), path, llama.Options{Context: 512, Threads: 1, Slots: 2})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		return m
	}
	first, file := load(), filepath.Join(t.TempDir(), "state")
	r := ask(t, first, strings.Repeat(prompt+" ", 8), 16)
	r.Slot, r.Fresh = 0, false
	said, _ := generate(t, first, r)
	saved, err := first.Save(t.Context(), 0, file, nil)
	info, err2 := os.Stat(file)
	if err := errors.Join(err, err2); err != nil || saved.Bytes != info.Size() || saved.Tokens != len(r.Prompt)+15 {
		t.Fatalf("%+v of %d tokens: %v", saved, len(r.Prompt)+15, err)
	}
	r.Prompt = ask(t, first, strings.Repeat(prompt+" ", 8)+said+" and", 0).Prompt
	want, a := generate(t, first, r)
	if a.Cached < saved.Tokens-1 || want == "" {
		t.Fatalf("%+v of %d tokens", a, len(r.Prompt))
	}
	first.Close()

	second := load()
	restored, err := second.Restore(t.Context(), 1, file)
	if err != nil || restored != saved {
		t.Fatalf("%+v, and %+v was saved: %v", restored, saved, err)
	}
	r.Slot = 1
	got, b := generate(t, second, r)
	if got != want || b.Cached != a.Cached {
		t.Errorf("it says %q (%+v) and not %q (%+v)", got, b, want, a)
	}
	if n, err := second.Erase(t.Context(), 1); err != nil || n == 0 || second.Slots()[1].Tokens != 0 {
		t.Errorf("%d tokens erased, %+v: %v", n, second.Slots()[1], err)
	}
}

func TestRestore_FileThatDoesNotFit_IsRefused(t *testing.T) {
	m := llamatest.Load(t, small, llama.Options{Context: 256, Threads: 1})
	other := llamatest.Load(t, demo.Llama{Width: 512, Inner: 768, Layers: 1}, llama.Options{Context: 256, Threads: 1})
	dir := t.TempDir()
	decode(t, other, 8)
	foreign := filepath.Join(dir, "foreign")
	if _, err := other.Save(t.Context(), 0, foreign, nil); err != nil {
		t.Fatal(err)
	}
	want := decode(t, m, 8)
	own := filepath.Join(dir, "own")
	if _, err := m.Save(t.Context(), 0, own, nil); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"empty": nil, "torn": whole[:len(whole)/2], "head": whole[:10], "noise": []byte(strings.Repeat("noise", 100)), "changed": append([]byte("x"), whole[1:]...)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Of the same shape and name, but with other weights.
	twin := llamatest.Load(t, demo.Llama{Name: "y", Width: small.Width, Inner: small.Inner, Layers: small.Layers}, llama.Options{Context: 256, Threads: 1})
	decode(t, twin, 8)
	if _, err := twin.Save(t.Context(), 0, filepath.Join(dir, "twin"), nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"missing", "empty", "torn", "head", "noise", "changed", "foreign", "twin"} {
		if _, err := m.Restore(t.Context(), 0, own); err != nil {
			t.Fatal(err)
		}
		if st, err := m.Restore(t.Context(), 0, filepath.Join(dir, name)); !errors.Is(err, llama.ErrNoRestore) {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
	}
	if got := decode(t, m, 8); got != want {
		t.Errorf("afterwards it says %q and not %q", got, want)
	}
}

func TestChat_TemplateOfTheFile(t *testing.T) {
	l := llamatest.Open(t)
	path := llamatest.File(t, small)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		old, new   string // what is changed in the file
		want, says string
	}{
		// The token that begins a text is in the template, and Tokenize adds it.
		{"", "", "system: be short\nuser: who?\nassistant:", ""},
		{"tokenizer.chat_template", "tokenizer.chat_templat_", "<|im_start|>system\nbe short<|im_end|>\n<|im_start|>user\nwho?<|im_end|>\n<|im_start|>assistant\n", ""},
		{"{{ bos_token }}", "{% if broken %}", "", "template"},
		{"{{ bos_token }}", "{{ missing() }}", "", "template"},
	} {
		if err := os.WriteFile(path, bytes.Replace(file, []byte(c.old), []byte(c.new), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := l.Load(t.Context(), path, llama.Options{Context: 256, Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		got, err := m.Chat([]map[string]any{{"role": "system", "content": "be short"}, {"role": "user", "content": "who?"}})
		if got != c.want || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q as %q: %q, %v", c.old, c.new, got, err)
		}
		m.Close()
	}
}
