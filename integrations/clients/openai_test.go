package clients

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// engines are the servers that the client is held against.
var engines = map[string]func(t *testing.T, args ...string) string{
	"stand-in": func(t *testing.T, args ...string) string {
		if err := buildStandIn(); err != nil {
			t.Fatal(err)
		}
		return serve(t, append([]string{"demo", "-scale", "4096", "-engine", "'" + standIn + "' gatewaytest-engine {port} {name}"}, args...)...)
	},
	"llama.cpp": func(t *testing.T, args ...string) string {
		if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
			t.Skip("llama.cpp is loaded on linux/amd64 only")
		}
		if _, err := exec.LookPath("npm"); err != nil {
			t.Skip("llama.cpp cannot be fetched: ", err)
		}
		return serve(t, append([]string{"demo", "-scale", "512", "-engine", "llamacpp"}, args...)...)
	},
}

// Models of the demo library.
const small, large = "gpt2-small", "llama-7b"

// clientOf is a client that comes back for two minutes where it is told to: what
// else this machine does may press its memory, under which no model is loaded.
func clientOf(url string, opts ...option.RequestOption) openai.Client {
	return openai.NewClient(append([]option.RequestOption{option.WithBaseURL(url + "/v1"), option.WithAPIKey("none"), option.WithMaxRetries(120)}, opts...)...)
}

func chat(model, text string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model: model, MaxCompletionTokens: openai.Int(5),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(text)},
	}
}

// status is what is read of the server's.
type status struct {
	Models []struct {
		Name       string
		Tier       string
		Leases     int
		ChargedRAM int64 `json:"charged_ram"`
	}
	RAM       struct{ Used, Charged, Reserved, Limit int64 }
	Evictions int
	Memory    struct{ Pressure struct{ Level string } }
	Parts     struct {
		Mover struct{ Engines []struct{ Pid int } }
	}
}

func statusOf(t *testing.T, url string) (s status) {
	t.Helper()
	res, err := http.Get(url + "/status")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

// leases are how many the server says are held.
func leases(t *testing.T, url string) (n int) {
	t.Helper()
	for _, m := range statusOf(t, url).Models {
		n += m.Leases
	}
	return n
}

// idle waits until no lease is held: the server may see the end of an answer a
// moment later than its client.
func idle(t *testing.T, url string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); leases(t, url) > 0; {
		if time.Now().After(end) {
			t.Fatalf("%d leases are held though no client is there", leases(t, url))
		}
	}
}

// said is an error with what the server said.
func said(err error) error {
	if e, ok := errors.AsType[*openai.Error](err); ok {
		return fmt.Errorf("%d %s: %s", e.StatusCode, e.Code, e.Message)
	}
	return err
}

func TestClient_EveryEndpoint(t *testing.T) {
	for name, start := range engines {
		t.Run(name, func(t *testing.T) {
			url := start(t)
			client, ctx := clientOf(url), t.Context()
			for _, model := range []string{small, large} {
				got, err := client.Chat.Completions.New(ctx, chat(model, "What do you know of water?"))
				if err != nil || len(got.Choices) != 1 || len(strings.Fields(got.Choices[0].Message.Content)) != 5 {
					t.Errorf("chat with %s: %+v, %v", model, got, err)
				}
			}
			// With the header that asks for progress as well, which comes as comments.
			for _, opts := range [][]option.RequestOption{nil, {option.WithHeader("X-Load-Progress", "1")}} {
				ask := chat(small, "And what of the sea?")
				ask.StreamOptions.IncludeUsage = openai.Bool(true)
				stream := client.Chat.Completions.NewStreaming(ctx, ask, opts...)
				var all openai.ChatCompletionAccumulator
				for stream.Next() {
					all.AddChunk(stream.Current())
				}
				if err := stream.Err(); err != nil || len(all.Choices) != 1 || len(strings.Fields(all.Choices[0].Message.Content)) != 5 || all.Usage.CompletionTokens != 5 {
					t.Errorf("stream: %+v %+v, %v", all.Choices, all.Usage, said(err))
				}
			}
			complete := openai.CompletionNewParams{
				Model: small, MaxTokens: openai.Int(5), Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("The sea is deep and blue")},
			}
			completion, err := client.Completions.New(ctx, complete)
			if err != nil || len(strings.Fields(completion.Choices[0].Text)) != 5 || completion.Choices[0].FinishReason != "length" || completion.Usage.CompletionTokens != 5 {
				t.Errorf("completion: %+v, %v", completion, said(err))
			}
			complete.StreamOptions.IncludeUsage = openai.Bool(true)
			text, usage := "", openai.CompletionUsage{}
			stream := client.Completions.NewStreaming(ctx, complete)
			for stream.Next() {
				chunk := stream.Current()
				if usage = chunk.Usage; len(chunk.Choices) > 0 {
					text += chunk.Choices[0].Text
				}
			}
			if err := stream.Err(); err != nil || len(strings.Fields(text)) != 5 || usage.CompletionTokens != 5 {
				t.Errorf("completion as a stream: %q %+v, %v", text, usage, said(err))
			}
			// "auto" picks the only model that is able to.
			var by *http.Response
			embedding, err := client.Embeddings.New(ctx, openai.EmbeddingNewParams{Model: "auto", Input: openai.EmbeddingNewParamsInputUnion{OfString: openai.String("water")}}, option.WithResponseInto(&by))
			if err != nil || len(embedding.Data) != 1 || len(embedding.Data[0].Embedding) < 3 || by.Header.Get("X-Model") != "bert-large" {
				t.Errorf("embedding: %+v, %v by %v", embedding, err, by)
			}
			_, err = client.Chat.Completions.New(ctx, chat("auto", "Who?"), option.WithJSONSet("capabilities", []string{"instruction-following"}), option.WithResponseInto(&by))
			if err != nil || by.Header.Get("X-Model") != large {
				t.Errorf("auto: %v by %v", err, by)
			}
			list, err := client.Models.List(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, m := range list.Data {
				names = append(names, m.ID)
			}
			if len(names) != 6 || !slices.Contains(names, small) || !slices.Contains(names, large) {
				t.Errorf("models: %v", names)
			}
			if m, err := client.Models.Get(ctx, small); err != nil || m.ID != small {
				t.Errorf("model: %+v, %v", m, err)
			}
			idle(t, url)
		})
	}
}

func TestClient_Errors_AreItsOwnWithCodes(t *testing.T) {
	client, ctx := clientOf(engines["stand-in"](t)), t.Context()
	for _, c := range []struct {
		model  string
		opts   []option.RequestOption
		status int
		code   string
	}{
		{"gpt2-smal", nil, http.StatusNotFound, "not_found"},
		{"auto", []option.RequestOption{option.WithJSONSet("priority", "haste")}, http.StatusBadRequest, "invalid_request"},
		{"auto", []option.RequestOption{option.WithHeader("X-Capabilities", "flight")}, http.StatusNotFound, "no_capable_model"},
	} {
		tries := 0
		count := option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			tries++
			return next(r)
		})
		_, err := client.Chat.Completions.New(ctx, chat(c.model, "x"), append(c.opts, count)...)
		e, ok := errors.AsType[*openai.Error](err)
		if !ok || e.StatusCode != c.status || e.Code != c.code || e.Message == "" || e.Type == "" {
			t.Errorf("%s: %v", c.model, err)
		}
		if tries != 1 {
			t.Errorf("%s: it was tried %d times, and would be the same each time", c.model, tries)
		}
	}
}

func TestClient_LeavesAStream_LeaseEnds(t *testing.T) {
	url := engines["stand-in"](t)
	client := clientOf(url)
	ctx, leave := context.WithCancel(t.Context())
	stream := client.Chat.Completions.NewStreaming(ctx, chat(small, "for ever"), option.WithHeader("X-Fault", "endless"))
	for range 10 {
		if !stream.Next() {
			t.Fatal(stream.Err())
		}
	}
	if n := leases(t, url); n != 1 {
		t.Errorf("%d leases are held while it streams", n)
	}
	leave()
	idle(t, url)
}

// A model that failed to load is left alone for a while, which the client is told
// and waits for.
func TestClient_Busy_ComesBackWhenToldTo(t *testing.T) {
	dir := t.TempDir()
	config, err := json.Marshal(map[string]any{
		"engines": map[string]any{"e": map[string]any{"command": []string{"false", "{port}"}}},
		"models":  []any{map[string]any{"name": "broken", "path": "broken.bin"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"config.json": config, "broken.bin": make([]byte, 4096)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	client, ctx := clientOf(serve(t, "serve", "-config", filepath.Join(dir, "config.json"))), t.Context()
	for range 2 {
		_, err := client.Chat.Completions.New(ctx, chat("broken", "x"))
		if e, ok := errors.AsType[*openai.Error](err); !ok || e.Code != "move_failed" {
			t.Fatalf("%v, want move_failed", err)
		}
	}
	var (
		codes []int
		times []time.Time
		after string
	)
	watch := option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
		times = append(times, time.Now())
		res, err := next(r)
		if err == nil {
			codes = append(codes, res.StatusCode)
			if res.StatusCode == http.StatusServiceUnavailable {
				after = res.Header.Get("Retry-After")
			}
		}
		return res, err
	})
	for range 5 { // where this machine pauses, the while may be over; the next is longer
		codes, times, after = nil, nil, ""
		_, err = client.Chat.Completions.New(ctx, chat("broken", "x"), option.WithMaxRetries(1), watch)
		if e, ok := errors.AsType[*openai.Error](err); after != "" && ok && e.Code == "move_failed" {
			break
		}
	}
	if !slices.Equal(codes, []int{http.StatusServiceUnavailable, http.StatusInternalServerError}) {
		t.Fatalf("answers %v, Retry-After %q", codes, after)
	}
	told, err := time.ParseDuration(after + "s")
	if waited := times[1].Sub(times[0]); err != nil || waited < told {
		t.Errorf("told to come back in %q seconds, it came after %v", after, waited)
	}
}
