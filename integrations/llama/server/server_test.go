package server

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/integrations/llama"
	"github.com/modeltier/modeltier/integrations/llama/internal/llamatest"
	"github.com/modeltier/modeltier/tier"
)

// served is an engine with a model of random weights.
type served struct {
	*testing.T
	url   string
	saves string
	model *llama.Model
	uses  atomic.Int32
	left  chan struct{} // one for each request that has been answered or given up
}

func serve(t *testing.T, o llama.Options) *served {
	t.Helper()
	o.Threads = 1
	s := &served{T: t, saves: t.TempDir(), left: make(chan struct{}, 100)}
	s.model = llamatest.Load(t, demo.Llama{Name: "x", Width: 256, Inner: 768, Layers: 2}, o)
	routes := Handler(Config{
		Acquire: s.acquire, Models: func() []string { return []string{"random.gguf"} },
		Saves: llama.Saves{Dir: s.saves, Max: tier.MiB}, MaxTokens: 8,
	})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { s.left <- struct{}{} }()
		routes.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

// acquire has no model but one, and counts its uses.
func (s *served) acquire(_ context.Context, name string) (Use, error) {
	if name == "unknown" {
		return Use{}, &tier.NotFoundError{What: "model", Name: name}
	}
	s.uses.Add(1)
	return Use{Name: cmp.Or(name, "random.gguf"), Model: s.model, Release: func() { s.uses.Add(-1) }}, nil
}

// object is what is read of any answer.
type object struct {
	Object, Model string
	Choices       []struct {
		Text         string
		Message      struct{ Role, Content string }
		Delta        struct{ Role, Content string }
		FinishReason string `json:"finish_reason"`
	}
	Usage *struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
		Total      int `json:"total_tokens"`
		Details    struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	}
	Timings struct {
		Prompt int `json:"prompt_n"`
		Cached int `json:"cache_n"`
	}
	Data   []struct{ Embedding any }
	Tokens []any
	Error  *struct {
		Code          int
		Message, Type string
		Context       int `json:"n_ctx"`
	}
}

// post returns the answer to a body.
func (s *served) post(path, body string) (status int, raw []byte) {
	s.Helper()
	res, err := http.Post(s.url+path, "application/json", strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	defer res.Body.Close()
	if raw, err = io.ReadAll(res.Body); err != nil {
		s.Fatal(err)
	}
	<-s.left
	return res.StatusCode, raw
}

// ok returns the object that answers a body.
func (s *served) ok(path, body string) (o object) {
	s.Helper()
	status, raw := s.post(path, body)
	if err := json.Unmarshal(raw, &o); err != nil || status != http.StatusOK {
		s.Fatalf("%s %s: %d %s %v", path, body, status, raw, err)
	}
	return o
}

// events returns the objects of a stream.
func (s *served) events(path, body string) (all []object) {
	s.Helper()
	status, raw := s.post(path, body)
	rest, ended := strings.CutSuffix(string(raw), "data: [DONE]\n\n")
	if status != http.StatusOK || !ended {
		s.Fatalf("%s %s: %d %s", path, body, status, raw)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(rest), "\n\n") {
		var o object
		if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &o); err != nil {
			s.Fatalf("%q: %v", line, err)
		}
		all = append(all, o)
	}
	return all
}

func TestCompletions_WholeAndStreamed_TheSameText(t *testing.T) {
	s := serve(t, llama.Options{Context: 256})
	for _, c := range []struct{ path, question string }{
		{"/v1/completions", `"prompt":"the people of the water"`},
		{"/v1/chat/completions", `"messages":[{"role":"system","content":"be short"},{"role":"user","content":[{"type":"text","text":"who is"},{"type":"text","text":" it?"}]}]`},
	} {
		body := `{"model":"m","max_tokens":6,"cache_prompt":false,` + c.question
		o := s.ok(c.path, body+"}")
		if len(o.Choices) != 1 || o.Usage == nil || o.Model != "m" {
			t.Fatalf("%+v", o)
		}
		text := o.Choices[0].Text + o.Choices[0].Message.Content
		if u := o.Usage; len(strings.Fields(text)) != 6 || o.Choices[0].FinishReason != "length" || u.Completion != 6 || u.Prompt < 5 || u.Total != u.Prompt+6 || u.Details.Cached != 0 || o.Timings.Prompt != u.Prompt {
			t.Errorf("%q %+v %+v", text, o, u)
		}
		all := s.events(c.path, body+`,"stream":true,"stream_options":{"include_usage":true}}`)
		var streamed strings.Builder
		for _, part := range all[:len(all)-1] {
			streamed.WriteString(part.Choices[0].Text + part.Choices[0].Delta.Content)
		}
		last, usage := all[len(all)-2], all[len(all)-1]
		if streamed.String() != text || last.Choices[0].FinishReason != "length" || len(usage.Choices) != 0 || !reflect.DeepEqual(usage.Usage, o.Usage) {
			t.Errorf("streamed %q and not %q, %+v, %+v", &streamed, text, last, usage.Usage)
		}
		if role := all[0].Choices[0].Delta.Role; o.Object == "chat.completion" && role != "assistant" {
			t.Errorf("the stream begins with the role %q", role)
		}
	}
}

func TestCompletions_WhatARequestSays(t *testing.T) {
	s := serve(t, llama.Options{Context: 256, Slots: 2})
	ask := func(more string) object {
		t.Helper()
		return s.ok("/v1/completions", `{"prompt":"the people of the water","cache_prompt":false`+more+`}`)
	}
	plain := ask("")
	text := plain.Choices[0].Text
	if plain.Usage.Completion != 8 || plain.Model != "random.gguf" {
		t.Errorf("what is not said: %+v", plain)
	}
	if o := ask(`,"max_completion_tokens":3,"max_tokens":5`); o.Usage.Completion != 3 {
		t.Errorf("the newer name counts: %+v", o.Usage)
	}
	if o := ask(`,"max_tokens":-1`); o.Usage.Total != s.model.Context()+1 || o.Choices[0].FinishReason != "length" { // one beyond, which is not computed
		t.Errorf("until a slot is full: %+v", o.Usage)
	}
	word := strings.Fields(text)[2]
	for _, stop := range []string{`"` + word + `"`, `["nothing","` + word + `"]`} {
		if o := ask(`,"stop":` + stop); strings.Contains(o.Choices[0].Text, word) || !strings.HasPrefix(text, o.Choices[0].Text) || o.Choices[0].FinishReason != "stop" {
			t.Errorf("stop %s: %+v", stop, o.Choices)
		}
	}
	one, same, other := ask(`,"temperature":1.5,"seed":1`), ask(`,"temperature":1.5,"seed":1`), ask(`,"temperature":1.5,"seed":2`)
	if a, b, c := one.Choices[0].Text, same.Choices[0].Text, other.Choices[0].Text; a != b || a == c || a == text {
		t.Errorf("seeds 1, 1 and 2 say %q, %q and %q; greedy %q", a, b, c, text)
	}
	if o := ask(`,"temperature":1.5,"seed":1,"top_p":0.000001`); o.Choices[0].Text != text {
		t.Errorf("of the likeliest alone: %+v", o.Choices)
	}
	s.ok("/v1/completions", `{"prompt":"a b c d e f g h","max_tokens":0,"id_slot":1}`)
	if o := s.ok("/v1/completions", `{"prompt":"a b c d e f g h","id_slot":1}`); o.Usage.Details.Cached != o.Usage.Prompt-1 || o.Timings.Cached == 0 {
		t.Errorf("of a prompt that slot 1 had: %+v", o.Usage)
	}
	tokens := s.ok("/tokenize", `{"content":"the people of the water","add_special":true}`).Tokens
	if o := s.ok("/v1/completions", fmt.Sprintf(`{"prompt":%s,"cache_prompt":false}`, encode(t, tokens))); o.Choices[0].Text != text {
		t.Errorf("of tokens it says %q and not %q", o.Choices[0].Text, text)
	}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEmbeddings_FloatsAndBase64(t *testing.T) {
	s := serve(t, llama.Options{Context: 256})
	floats := s.ok("/v1/embeddings", `{"input":["the water","a small house"]}`)
	packed := s.ok("/v1/embeddings", `{"input":"the water","encoding_format":"base64"}`)
	if len(floats.Data) != 2 || len(packed.Data) != 1 || floats.Usage.Prompt != floats.Usage.Total || floats.Usage.Prompt < 5 {
		t.Fatalf("%+v %+v", floats, packed)
	}
	b, err := base64.StdEncoding.DecodeString(packed.Data[0].Embedding.(string))
	if one := floats.Data[0].Embedding.([]any); err != nil || len(one) != 256 || len(b) != 4*len(one) || reflect.DeepEqual(one, floats.Data[1].Embedding) {
		t.Errorf("%d numbers, and %d bytes: %v", len(one), len(b), err)
	}
}

func TestTokenize_WithPieces(t *testing.T) {
	s := serve(t, llama.Options{Context: 256})
	plain := s.ok("/tokenize", `{"content":"the é"}`)
	special := s.ok("/tokenize", `{"content":"the é","add_special":true,"with_pieces":true}`)
	if len(plain.Tokens) != 4 || len(special.Tokens) != 5 || special.Tokens[0].(map[string]any)["id"] != 1.0 {
		t.Fatalf("%v, %v", plain.Tokens, special.Tokens)
	}
	if got := fmt.Sprint(special.Tokens[1:]); !strings.Contains(got, "piece: the") || !strings.Contains(got, "piece:[195]") || !strings.Contains(got, "piece:[169]") {
		t.Errorf("%s", got)
	}
}

// What a slot had goes through a file, and the answer goes on as it would have.
func TestSlots_SaveEraseRestore_SameContinuation(t *testing.T) {
	s := serve(t, llama.Options{Context: 512, Slots: 2})
	const prompt = "the people of the water and the men of the house and the mother of the people"
	ask := func() (string, int) {
		o := s.ok("/v1/completions", `{"prompt":"`+prompt+` that","id_slot":0,"max_tokens":12}`)
		return o.Choices[0].Text, o.Usage.Details.Cached
	}
	slot := func(query, body string) (out map[string]any) {
		t.Helper()
		status, raw := s.post("/slots/0?action="+query, body)
		if err := json.Unmarshal(raw, &out); err != nil || status != http.StatusOK {
			t.Fatalf("%s: %d %s", query, status, raw)
		}
		return out
	}
	s.ok("/v1/completions", `{"prompt":"`+prompt+`","id_slot":0,"max_tokens":0}`)
	saved := slot("save", `{"filename":"a.bin"}`)
	want, cached := ask()
	info, err := os.Stat(filepath.Join(s.saves, "a.bin"))
	if err != nil || saved["n_written"] != float64(info.Size()) || saved["n_saved"].(float64) < 15 || saved["filename"] != "a.bin" || saved["timings"].(map[string]any)["save_ms"] == nil {
		t.Fatalf("%v: %v", saved, err)
	}
	if n := slot("erase", "")["n_erased"]; n.(float64) < saved["n_saved"].(float64) {
		t.Errorf("%v erased", n)
	}
	if got, n := ask(); n != 0 {
		t.Errorf("of an erased slot %d were cached: %q", n, got)
	}
	slot("erase", "")
	restored := slot("restore", `{"filename":"a.bin"}`)
	if restored["n_restored"] != saved["n_saved"] || restored["n_read"] != saved["n_written"] || restored["timings"].(map[string]any)["restore_ms"] == nil {
		t.Errorf("%v, after %v", restored, saved)
	}
	if got, n := ask(); got != want || n != cached || n < 15 {
		t.Errorf("it says %q with %d cached, and not %q with %d", got, n, want, cached)
	}
	slot("erase", "")
	if saved := slot("save", `{"filename":"empty.bin"}`); saved["n_saved"] != 0.0 {
		t.Errorf("of an empty slot: %v", saved)
	}
	if restored := slot("restore", `{"filename":"empty.bin"}`); restored["n_restored"] != 0.0 {
		t.Errorf("an empty slot: %v", restored)
	}
}

func TestRequests_ThatAreBad_AreRefused(t *testing.T) {
	s := serve(t, llama.Options{Context: 256})
	if err := os.WriteFile(filepath.Join(s.saves, "noise.bin"), bytes.Repeat([]byte("noise"), 100), 0o600); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("water ", 300)
	for _, c := range []struct {
		path, body string
		status     int
		kind       string
	}{
		{"/v1/completions", `{`, 400, "invalid_request_error"},
		{"/v1/completions", `{"model":"unknown","prompt":"a"}`, 404, "not_found_error"},
		{"/v1/completions", `{}`, 400, "invalid_request_error"},
		{"/v1/completions", `{"prompt":null}`, 400, "invalid_request_error"},
		{"/v1/completions", `{"prompt":["a","b"]}`, 400, "invalid_request_error"},
		{"/v1/completions", `{"prompt":"a","n":2}`, 400, "invalid_request_error"},
		{"/v1/completions", `{"prompt":"a","id_slot":5}`, 400, "invalid_request_error"},
		{"/v1/completions", `{"prompt":"a\u0000b"}`, 400, "invalid_request_error"},
		{"/v1/completions", `{"prompt":[1,99999999]}`, 400, "invalid_request_error"},
		{"/v1/completions", `{"prompt":"` + long + `"}`, 400, "exceed_context_size_error"},
		{"/v1/completions", `{"prompt":"` + long + `","stream":true}`, 400, "exceed_context_size_error"},
		{"/v1/completions", `{"prompt":"` + strings.Repeat("a", maxBody) + `"}`, 400, "invalid_request_error"},
		{"/v1/chat/completions", `{"messages":[]}`, 400, "invalid_request_error"},
		{"/v1/chat/completions", `{"messages":[{"content":"a"}]}`, 400, "invalid_request_error"},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}`, 400, "invalid_request_error"},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":7}]}`, 400, "invalid_request_error"},
		{"/v1/embeddings", `{}`, 400, "invalid_request_error"},
		{"/v1/embeddings", `{"input":"a","encoding_format":"x"}`, 400, "invalid_request_error"},
		{"/v1/embeddings", `{"input":[[]]}`, 400, "invalid_request_error"},
		{"/tokenize", `{"content":"a\u0000b"}`, 400, "invalid_request_error"},
		{"/slots/x?action=erase", ``, 400, "invalid_request_error"},
		{"/slots/1?action=erase", ``, 400, "invalid_request_error"},
		{"/slots/-1?action=erase", ``, 400, "invalid_request_error"},
		{"/slots/0?action=jump", ``, 400, "invalid_request_error"},
		{"/slots/0?action=save", `{}`, 400, "invalid_request_error"},
		{"/slots/0?action=save", `{"filename":"../a"}`, 400, "invalid_request_error"},
		{"/slots/0?action=save", `{"filename":"/a"}`, 400, "invalid_request_error"},
		{"/slots/0?action=save", `{"filename":"a\u0000"}`, 400, "invalid_request_error"},
		{"/slots/0?action=restore", `{"filename":".."}`, 400, "invalid_request_error"},
		{"/slots/0?action=restore", `{"filename":"missing.bin"}`, 400, "invalid_request_error"},
		{"/slots/0?action=restore", `{"filename":"noise.bin"}`, 400, "invalid_request_error"},
	} {
		status, raw := s.post(c.path, c.body)
		var o object
		if err := json.Unmarshal(raw, &o); err != nil || status != c.status || o.Error == nil || o.Error.Type != c.kind || o.Error.Code != c.status || o.Error.Message == "" {
			t.Errorf("%s %.60s: %d %s %v", c.path, c.body, status, raw, err)
		}
	}
	if n := s.uses.Load(); n != 0 {
		t.Errorf("%d uses of the model have not ended", n)
	}
	if entries, err := os.ReadDir(s.saves); err != nil || len(entries) != 1 {
		t.Errorf("in the folder of saved slots: %v %v", entries, err)
	}
}

// Whatever clients save, the folder does not grow beyond its bound, and what is saved
// again takes the place of what was there.
func TestSlots_SavedBeyondTheBound_AreRefused(t *testing.T) {
	s := serve(t, llama.Options{Context: 512})
	s.ok("/v1/completions", `{"prompt":"`+strings.Repeat("water ", 400)+`","max_tokens":0}`)
	refused := 0
	for i := range 6 {
		status, raw := s.post("/slots/0?action=save", fmt.Sprintf(`{"filename":"%d"}`, i))
		if status == http.StatusBadRequest && strings.Contains(string(raw), "no room") {
			refused++
		} else if status != http.StatusOK {
			t.Fatalf("%d %s", status, raw)
		}
	}
	size := int64(0)
	entries, err := os.ReadDir(s.saves)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
	}
	if err != nil || refused == 0 || len(entries) != 6-refused || size > 1<<20 || size < 1<<18 {
		t.Errorf("%d were refused, and %d files have %d bytes: %v", refused, len(entries), size, err)
	}
	if status, raw := s.post("/slots/0?action=save", `{"filename":"0"}`); status != http.StatusOK {
		t.Errorf("saved again: %d %s", status, raw)
	}
}

func TestSlots_WithoutAFolder_AreNotSupported(t *testing.T) {
	s := serve(t, llama.Options{Context: 256})
	w := httptest.NewRecorder()
	Handler(Config{Acquire: s.acquire}).ServeHTTP(w, httptest.NewRequest("POST", "/slots/0?action=save", strings.NewReader(`{"filename":"a"}`)))
	if w.Code != http.StatusNotImplemented || !strings.Contains(w.Body.String(), `"not_supported_error"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Of a client that goes away, the one slot is free again before it is full.
func TestClientGoesAway_DecodingStops(t *testing.T) {
	s := serve(t, llama.Options{Context: 2048})
	for _, stream := range []bool{true, false} {
		ctx, leave := context.WithCancel(t.Context())
		body := fmt.Sprintf(`{"prompt":"the people","max_tokens":-1,"cache_prompt":false,"stream":%v}`, stream)
		req, err := http.NewRequestWithContext(ctx, "POST", s.url+"/v1/completions", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		first := make(chan struct{})
		go func() {
			res, err := http.DefaultClient.Do(req)
			if err == nil {
				defer res.Body.Close()
				bufio.NewReader(res.Body).ReadString('\n')
				close(first)
				_, err = io.Copy(io.Discard, res.Body)
			}
			ended <- err
		}()
		if stream {
			<-first
		} else {
			for s.model.Slots()[0].Tokens == 0 {
			}
		}
		leave()
		<-s.left
		if err := <-ended; err == nil {
			t.Errorf("stream %v: the client has had it all", stream)
		}
		at := s.model.Slots()[0]
		if at.Busy || at.Tokens >= s.model.Context() {
			t.Errorf("stream %v: the slot is at %+v", stream, at)
		}
		t.Logf("stream %v: stopped after %d of %d tokens", stream, at.Tokens, s.model.Context())
		if _, err := s.model.Erase(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPages_OfAModelThatServes(t *testing.T) {
	s := serve(t, llama.Options{Context: 256})
	for path, want := range map[string]string{"/health": `{"status":"ok"}`, "/v1/models": "random.gguf", "/slots": `"is_processing":false`} {
		res, err := http.Get(s.url + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		if res.Body.Close(); err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(b), want) {
			t.Errorf("%s: %d %s %v", path, res.StatusCode, b, err)
		}
	}
}

// What a Manager refuses is answered as its own pages answer it (modeltier.HTTPStatus).
func TestRequests_ThatAManagerRefuses_HaveItsStatus(t *testing.T) {
	for _, c := range []struct {
		err         error
		status      int
		kind, again string
	}{
		{&tier.BusyError{}, http.StatusTooManyRequests, "unavailable_error", "1"},
		{tier.ErrStuck, http.StatusServiceUnavailable, "unavailable_error", "1"},
		{tier.ErrTooLarge, http.StatusInsufficientStorage, "unavailable_error", ""},
		{tier.ErrNoCapableModel, http.StatusNotFound, "not_found_error", ""},
		{context.DeadlineExceeded, http.StatusGatewayTimeout, "unavailable_error", "1"},
		{tier.ErrDamaged, http.StatusInternalServerError, "server_error", ""},
	} {
		h := Handler(Config{Acquire: func(context.Context, string) (Use, error) { return Use{}, c.err }})
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/completions", strings.NewReader(`{"prompt":"a"}`)))
		if again := w.Header().Get("Retry-After"); w.Code != c.status || again != c.again || !strings.Contains(w.Body.String(), `"type":"`+c.kind+`"`) {
			t.Errorf("%v: %d, again after %q: %s", c.err, w.Code, again, w.Body)
		}
	}
}
