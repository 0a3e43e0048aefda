package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modeltier/modeltier/integrations/llama/internal/llamatest"
	"github.com/modeltier/modeltier/tier"
)

// said is what a model answers to a prompt, whole or streamed.
func said(t *testing.T, url, model string, stream bool) string {
	t.Helper()
	body := fmt.Sprintf(`{"model":%q,"max_tokens":8,"cache_prompt":false,"stream":%v,"messages":[{"role":"user","content":"what of the water?"}]}`, model, stream)
	res, err := http.Post(url+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return ""
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("%s: %d %s %v", model, res.StatusCode, raw, err)
		return ""
	}
	var all strings.Builder
	for line := range bytes.Lines(raw) {
		line = bytes.TrimPrefix(bytes.TrimSpace(line), []byte("data: "))
		var o struct {
			Model   string
			Choices []struct{ Message, Delta struct{ Content string } }
		}
		if len(line) == 0 || string(line) == "[DONE]" {
			continue
		}
		if err := json.Unmarshal(line, &o); err != nil || len(o.Choices) != 1 || o.Model != model {
			t.Errorf("%s: %s %v", model, line, err)
			return ""
		}
		all.WriteString(o.Choices[0].Message.Content + o.Choices[0].Delta.Content)
	}
	return all.String()
}

// Sixteen clients ask for five models, two of which fit: each answer is its model's, and
// never is there more in memory than was allowed.
func TestServer_SixteenClientsOfFiveModelsInTheMemoryOfTwo_EachGetsItsModelsAnswer(t *testing.T) {
	libs := llamatest.Libraries(t)
	load.Threads = 1 // more wait for each other in a loop, which is slow where others work
	dir, err := demoModels(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	models, err := modelsOf(t.Context(), dir)
	if err != nil || len(models) != 5 {
		t.Fatalf("%v: %v", models, err)
	}
	ram := 2*(models[0].Size+models[0].Runtime) + tier.MiB
	m, err := manager(libs, models, ram)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(routes(m))
	defer srv.Close()
	want, seen := map[string]string{}, map[string]bool{}
	for _, mod := range models {
		want[mod.Name] = said(t, srv.URL, mod.Name, false)
		seen[want[mod.Name]] = true
	}
	if len(seen) != 5 {
		t.Fatalf("the models do not differ: %v", want)
	}
	began := time.Now()
	var clients sync.WaitGroup
	for client := range 16 {
		clients.Go(func() {
			for i := range 5 {
				model := models[(client+i)%5].Name
				if got := said(t, srv.URL, model, i%2 == 0); got != want[model] {
					t.Errorf("client %d: %s says %q and not %q", client, model, got, want[model])
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	for watching := true; watching; {
		select {
		case <-done:
			watching = false
		case <-time.After(10 * time.Millisecond):
		}
		if s := m.Status(); s.RAM.Used > s.RAM.Limit || s.RAM.Limit != ram {
			t.Errorf("ram holds %v of %v", s.RAM.Used, s.RAM.Limit)
		}
	}
	t.Logf("80 requests took %v", time.Since(began))
	moves := 0
	for _, moved := range m.Status().Moved {
		moves += int(moved.Succeeded)
	}
	if moves < 8 {
		t.Errorf("only %d moves: the models did not take turns", moves)
	}
	res, err := http.Post(srv.URL+"/v1/completions", "application/json", strings.NewReader(`{"model":"zoe","prompt":"a"}`))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown model is answered with %d", res.StatusCode)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// What is being answered when the server is told to end is answered to its end.
func TestRun_EndsUnderARequest_ItIsAnswered(t *testing.T) {
	llamatest.Libraries(t)
	load.Threads = 1
	dir, err := demoModels(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	models, err := modelsOf(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manager(llamatest.Libraries(t), models, 2*(models[0].Size+models[0].Runtime)+tier.MiB)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, l, m) }()
	body := fmt.Sprintf(`{"model":%q,"prompt":"the people","max_tokens":200,"temperature":1,"stream":true}`, models[0].Name)
	res, err := http.Post("http://"+l.Addr().String()+"/v1/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	cancel() // its answer has begun
	answer, err := io.ReadAll(res.Body)
	if err != nil || !bytes.Contains(answer, []byte("data: [DONE]")) {
		t.Errorf("the answer ends with %q: %v", answer[max(0, len(answer)-200):], err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
