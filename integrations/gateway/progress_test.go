package gateway_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
	"github.com/modeltier/modeltier/integrations/gateway/room"
)

// progress asks for comments on how far a load is.
const progress = "X-Load-Progress"

// gated is a front end whose engines are not ready before open is called.
func gated(t *testing.T) (f *front, open func()) {
	t.Helper()
	gate := filepath.Join(t.TempDir(), "gate")
	f = newFront(t, func(e *config.Engine) { e.Env = append(slices.Clone(e.Env), enginetest.Gate+"="+gate) })
	return f, func() {
		if err := os.WriteFile(gate, nil, 0o600); err != nil {
			t.Error(err)
		}
	}
}

// told reads comments up to one of that kind, and returns what it says.
func told(t *testing.T, lines *bufio.Reader, kind string) (at room.Loading) {
	t.Helper()
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("%q, %v", line, err)
		}
		if rest, ok := strings.CutPrefix(line, ": "+kind+" "); ok {
			if err := json.Unmarshal([]byte(rest), &at); err != nil {
				t.Fatal(err)
			}
			return at
		}
		if line != "\n" && !strings.HasPrefix(line, ": ") {
			t.Fatalf("%q, which is neither a comment nor the end of one", line)
		}
	}
}

func TestProgress_ClientThatAsks_IsToldInComments(t *testing.T) {
	f, open := gated(t)
	res := f.post(t, t.Context(), "/v1/chat/completions", `{"model":"small","stream":true,"messages":"short"}`, progress, "1")
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("X-Accel-Buffering") != "no" {
		t.Fatalf("%d %s", res.StatusCode, res.Header)
	}
	lines := bufio.NewReader(res.Body)
	at := told(t, lines, "loading")
	if at.Model != "small" || at.JobID == "" || at.Total != 1<<20 || at.Progress < 0 || at.Progress >= 1 || at.Phase != "loading" && at.Phase != "starting" {
		t.Errorf("told of %+v", at)
	}
	if _, known := f.m.Job(at.JobID); !known {
		t.Errorf("there is no job %q", at.JobID)
	}
	open()
	var rest strings.Builder
	if _, err := lines.WriteTo(&rest); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(rest.String(), `: ready {"model":"small","phase":"ready","job_id":"`+at.JobID+`","progress":1,`) {
		t.Errorf("it was not told that the model is ready: %s", rest.String())
	}
	var events []string
	for line := range strings.Lines(rest.String()) {
		if strings.HasPrefix(line, "data: ") {
			events = append(events, strings.TrimSpace(line))
		}
	}
	if got, want := strings.Join(events, "|"), "data: 0|data: 1|data: 2|data: [DONE]"; got != want {
		t.Errorf("the stream was %s, want %s", got, want)
	}
	enginetest.Idle(t, f.m)
}

func TestProgress_NobodyAsks_AnswerIsTheEnginesAlone(t *testing.T) {
	f := newFront(t)
	for _, c := range []struct {
		body   string
		header []string
	}{
		{`{"model":"small","stream":true,"messages":"short"}`, nil},
		{`{"model":"large","messages":"short"}`, []string{progress, "1"}},               // no stream
		{`{"model":"large","stream":true,"messages":"short"}`, []string{progress, "1"}}, // ready
	} {
		res := f.post(t, t.Context(), "/v1/chat/completions", c.body, c.header...)
		if got := enginetest.Whole(t, res); got != "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: [DONE]\n\n" || res.Header.Get("X-Model") == "" {
			t.Errorf("%s: %q", c.body, got)
		}
	}
}

// Once the stream has begun there is no status left to say it with.
func TestProgress_Failure_IsAnEventOfTheStream(t *testing.T) {
	f, open := gated(t)
	event := func(body string, then func()) (p problem) {
		t.Helper()
		res := f.post(t, t.Context(), "/v1/chat/completions", body, progress, "1")
		lines := bufio.NewReader(res.Body)
		told(t, lines, "loading")
		then()
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				if err := json.Unmarshal([]byte(data), &p); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				return p
			}
		}
	}
	// The model is taken out while it loads.
	p := event(`{"model":"large","stream":true}`, func() {
		if _, err := f.m.Reconfigure(t.Context(), f.models[:1], f.limits); err != nil {
			t.Error(err)
		}
	})
	if p.Error.Code != "not_found" || p.Error.Message == "" {
		t.Errorf("%+v", p)
	}
	// The engine refuses.
	if p = event(`{"model":"small","stream":true,"messages":"refuse"}`, open); p.Error.Code != "refused" {
		t.Errorf("%+v", p)
	}
	enginetest.Idle(t, f.m)
}

// Anthropic's clients go by the names of events, and skip one that has none.
func TestProgress_FailureOfMessages_IsAnEventWithItsName(t *testing.T) {
	f, _ := gated(t)
	res := f.post(t, t.Context(), "/v1/messages", `{"model":"large","stream":true,"max_tokens":9,"messages":[{"role":"user","content":"a"}]}`, progress, "1")
	lines := bufio.NewReader(res.Body)
	told(t, lines, "loading")
	if _, err := f.m.Reconfigure(t.Context(), f.models[:1], f.limits); err != nil {
		t.Fatal(err)
	}
	var rest strings.Builder
	if _, err := lines.WriteTo(&rest); err != nil {
		t.Fatal(err)
	}
	if want := "event: error\ndata: {\"type\":\"error\""; !strings.Contains(rest.String(), want) {
		t.Errorf("%q has no %q", rest.String(), want)
	}
	enginetest.Idle(t, f.m)
}

func TestProgress_ClientLeavesWhileItLoads_NothingIsHeld(t *testing.T) {
	f, open := gated(t)
	res := f.post(t, t.Context(), "/v1/chat/completions", `{"model":"small","stream":true}`, progress, "1")
	told(t, bufio.NewReader(res.Body), "loading")
	res.Body.Close()
	waiting := func() (n int) {
		for s := range f.m.Models() {
			n += s.Waiters
		}
		return n
	}
	for end := time.Now().Add(20 * time.Second); waiting() > 0; {
		if time.Now().After(end) {
			t.Fatalf("%d requests wait though no client is there", waiting())
		}
		time.Sleep(time.Millisecond)
	}
	open()
	enginetest.Idle(t, f.m)
}

func TestModelPage_SaysHowFarItsLoadIs(t *testing.T) {
	f, open := gated(t)
	page := func(name string) (status int, v map[string]any) {
		t.Helper()
		res, err := f.Client().Get(f.URL + "/v1/models/" + name)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, v
	}
	if status, v := page("small"); status != http.StatusOK || v["id"] != "small" || v["object"] != "model" || v["loading"] != nil {
		t.Errorf("%d %v", status, v)
	}
	answer := make(chan struct{})
	go func() {
		defer close(answer)
		res, err := f.Client().Post(f.URL+"/v1/completions", "application/json", strings.NewReader(`{"model":"small"}`))
		if err == nil {
			res.Body.Close()
		}
	}()
	for {
		if _, v := page("small"); v["loading"] != nil {
			if at := v["loading"].(map[string]any); at["model"] == "small" {
				break
			}
		}
		select {
		case <-answer:
			t.Fatal("it was loaded, and never loading")
		case <-time.After(time.Millisecond):
		}
	}
	open()
	<-answer
	if status, v := page("smal"); status != http.StatusNotFound || v["error"] == nil {
		t.Errorf("%d %v", status, v)
	}
}
