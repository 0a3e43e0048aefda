package anthropic

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/go-json-experiment/json/jsontext"
)

func TestMessagesResponse_Translated(t *testing.T) {
	message := func(content, stop, sequence, usage string) string {
		return `{"id":"msg_1","type":"message","role":"assistant","model":"m","content":` + content + `,"stop_reason":"` + stop + `","stop_sequence":` + sequence + `,"usage":` + usage + `}`
	}
	const none = `{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}`
	answer := func(message, more string) string {
		return `{"id":"chatcmpl-1","object":"chat.completion","created":5,"model":"file.gguf","choices":[{"index":0,"message":` + message + more + `}]}`
	}
	for name, c := range map[string]struct{ in, want string }{
		"text and usage": {
			`{"id":"chatcmpl-1","choices":[{"index":0,"message":{"role":"assistant","content":"a"},"finish_reason":"stop"},{"index":1,"message":{"content":"b"}}],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":5}}}`,
			message(`[{"type":"text","text":"a"}]`, "end_turn", "null", `{"input_tokens":4,"cache_creation_input_tokens":0,"cache_read_input_tokens":5,"output_tokens":4}`),
		},
		"thinking and calls": {
			answer(`{"reasoning_content":"hm","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}},{"id":"d","function":{"name":"g","arguments":""}}]}`, `,"finish_reason":"stop"`),
			message(`[{"type":"thinking","thinking":"hm","signature":""},{"type":"tool_use","id":"c","name":"f","input":{"a":1}},{"type":"tool_use","id":"d","name":"g","input":{}}]`, "tool_use", "null", none),
		},
		"cut":              {answer(`{"content":"a"}`, `,"finish_reason":"length"`), message(`[{"type":"text","text":"a"}]`, "max_tokens", "null", none)},
		"cut in a call":    {answer(`{"content":"","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{\"a\":"}}]}`, `,"finish_reason":"length"`), message(`[]`, "max_tokens", "null", none)},
		"filtered":         {answer(`{"content":"a"}`, `,"finish_reason":"content_filter"`), message(`[{"type":"text","text":"a"}]`, "refusal", "null", none)},
		"refused":          {answer(`{"refusal":"no"}`, `,"finish_reason":"stop"`), message(`[{"type":"text","text":"no"}]`, "refusal", "null", none)},
		"at a sequence":    {answer(`{"content":"a"}`, `,"finish_reason":"stop","stop_reason":"END"`), message(`[{"type":"text","text":"a"}]`, "stop_sequence", `"END"`, none)},
		"at a token":       {answer(`{"content":"a"}`, `,"finish_reason":"stop","stop_reason":7`), message(`[{"type":"text","text":"a"}]`, "end_turn", "null", none)},
		"without a reason": {answer(`{"content":"a"}`, `,"finish_reason":null`), message(`[{"type":"text","text":"a"}]`, "end_turn", "null", none)},
		"arguments with half an emoji": {
			answer(`{"tool_calls":[{"id":"c","function":{"name":"f","arguments":"{\"a\":\"\\ud83d\"}"}}]}`, ``),
			message(`[{"type":"tool_use","id":"c","name":"f","input":{"a":"\ufffd"}}]`, "tool_use", "null", none),
		},
		"usage that cannot be": {`{"id":"1","choices":[{"message":{}}],"usage":{"prompt_tokens":-4,"completion_tokens":1e300,"prompt_tokens_details":{"cached_tokens":9}}}`, message(`[]`, "end_turn", "null", none)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := MessagesResponse([]byte(c.in), "m")
			if err != nil {
				t.Fatal(err)
			}
			if got, want := canonical(t, string(got)), canonical(t, c.want); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestMessagesResponse_MakesNoSense_IsTheEnginesFault(t *testing.T) {
	for in, want := range map[string]string{
		``:                            "502 the engine's answer cannot be read",
		`{"choices":[]}`:              "502 the engine's answer has no choices",
		`{"error":{"message":"bad"}}`: "502 bad",
		`{"choices":[{"message":{"tool_calls":[{"function":{"name":"f","arguments":"no"}}]}}]}`:  `502 the model called the tool "f" with arguments that are not a JSON object`,
		`{"choices":[{"message":{"tool_calls":[{"function":{"name":"f","arguments":"[1]"}}]}}]}`: `502 the model called the tool "f" with arguments that are not a JSON object`,
		`{"choices":[{"message":{"tool_calls":[{"function":{"arguments":"{}"}}]}}]}`:             "502 the engine's answer has a tool call without a name",
	} {
		_, err := MessagesResponse([]byte(in), "m")
		if err == nil {
			t.Errorf("%s: no error", in)
			continue
		}
		status, message := Error(err)
		if status != 502 || !strings.HasPrefix("502 "+message, want) {
			t.Errorf("%s: %d %s", in, status, message)
		}
	}
}

// chunks is the stream of an engine: thoughts, text, a call, usage.
const chunks = `data: {"id":"chatcmpl-1","created":5,"choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}

: still there

data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}

data: {"choices":[{"index":0,"delta":{"content":"a<b"}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{\"a\":"}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}}]}

data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}

data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":5}}}

data: [DONE]

`

const events = `event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}}

event: ping
data: {"type":"ping"}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":""}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"a<b"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: content_block_start
data: {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"c","name":"f","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"1}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":2}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":4,"cache_creation_input_tokens":0,"cache_read_input_tokens":5,"output_tokens":4}}

event: message_stop
data: {"type":"message_stop"}

`

func streamed(t testing.TB, engine io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(NewStream(io.NopCloser(engine), "m"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestNewStream_Translated(t *testing.T) {
	if got := streamed(t, strings.NewReader(chunks)); got != events {
		t.Errorf("got:\n%s", got)
	}
}

func TestNewStream_EngineEndsInTheMiddle_LastEventIsAnError(t *testing.T) {
	const want = `event: error
data: {"type":"error","error":{"type":"api_error","message":"the engine ended in the middle of its answer"},"request_id":null}

`
	got := streamed(t, strings.NewReader(chunks[:strings.Index(chunks, `data: {"choices":[{"index":0,"delta":{"tool_calls"`)]))
	if !strings.HasSuffix(got, want) || strings.Contains(got, "message_stop") {
		t.Errorf("got:\n%s", got)
	}
	got = streamed(t, strings.NewReader(`data: {"error":{"message":"busy","code":503}}`+"\n\n"))
	if got != strings.NewReplacer("api_error", "overloaded_error", "the engine ended in the middle of its answer", "busy").Replace(want) {
		t.Errorf("got:\n%s", got)
	}
}

func FuzzNewStream(f *testing.F) {
	f.Add([]byte(chunks))
	f.Add([]byte(`data: {"choices":[{"delta":{"tool_calls":[{"function":{"name":"\"\n","arguments":{"a":"\u2028"}}}]}}]}` + "\n\ndata: [DONE]\n\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		engine := "data: {\"id\":\"1\"}\n\n" + string(stream) // else each has an ID of its own
		whole := streamed(t, strings.NewReader(engine))
		if cut := streamed(t, iotest.OneByteReader(strings.NewReader(engine))); cut != whole {
			t.Errorf("byte by byte:\n%s\nat once:\n%s", cut, whole)
		}
		for event := range strings.SplitSeq(strings.TrimSuffix(whole, "\n\n"), "\n\n") {
			name, data, ok := strings.Cut(event, "\ndata: ")
			if !ok || !strings.HasPrefix(name, "event: ") || !jsontext.Value(data).IsValid() {
				t.Fatalf("not an event: %q", event)
			}
		}
	})
}

func TestErrorBody_InAnthropicsShape(t *testing.T) {
	const want = `{"type":"error","error":{"type":"not_found_error","message":"no model \"x\"","suggestions":["ask for y"]},"request_id":"r"}`
	if got := string(ErrorBody(404, `no model "x"`, "r", "ask for y")); got != want {
		t.Errorf("got %s", got)
	}
	for status, want := range map[int]string{
		400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error", 405: "invalid_request_error",
		413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 501: "api_error", 502: "api_error", 503: "overloaded_error", 504: "timeout_error", 529: "overloaded_error",
	} {
		if got := ErrorType(status); got != want {
			t.Errorf("%d: %s, want %s", status, got, want)
		}
	}
}

func TestTranslate_AnswersOfEveryKind(t *testing.T) {
	const whole = `{"id":"1","choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}`
	for name, c := range map[string]struct {
		status     int
		kind, body string
		stream     bool
		want       int
		begin      string
	}{
		"whole":               {200, "application/json; charset=utf-8", whole, false, 200, `{"id":"msg_1","type":"message",`},
		"a stream":            {200, "text/event-stream", chunks, true, 200, "event: message_start\n"},
		"no stream":           {200, "application/json", whole, true, 502, `{"type":"error","error":{"type":"api_error","message":"the engine was asked for an event stream`},
		"an error":            {400, "application/json", `{"error":{"message":"bad","type":"invalid_request_error","code":400}}`, true, 400, `{"type":"error","error":{"type":"invalid_request_error","message":"bad"},"request_id":"r"}`},
		"vLLM's error":        {404, "application/json", `{"object":"error","message":"no such model","code":404}`, false, 404, `{"type":"error","error":{"type":"not_found_error","message":"no such model"},"request_id":"r"}`},
		"an error as text":    {500, "text/plain", "oops", false, 500, `{"type":"error","error":{"type":"api_error","message":"oops"},"request_id":"r"}`},
		"an error in nothing": {503, "", "", false, 503, `{"type":"error","error":{"type":"overloaded_error","message":"the engine answered 503"},"request_id":"r"}`},
		"a stream unasked":    {200, "text/event-stream", chunks, false, 502, `{"type":"error","error":{"type":"api_error","message":"the engine's answer cannot be read`},
		"a redirect":          {302, "text/html", "moved", false, 502, `{"type":"error","error":{"type":"api_error","message":"the engine answered 302`},
		"an error behind 200": {200, "application/json", `{"error":"bad"}`, false, 502, `{"type":"error","error":{"type":"api_error","message":"bad"},"request_id":"r"}`},
	} {
		t.Run(name, func(t *testing.T) {
			res := &http.Response{
				StatusCode: c.status, Header: http.Header{"Content-Type": {c.kind}, "Content-Length": {"7"}}, Body: io.NopCloser(strings.NewReader(c.body)), ContentLength: 7,
				Request: &http.Request{Header: http.Header{requestID: {"r"}}},
			}
			if err := Translate(res, "m", c.stream); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != c.want || !strings.HasPrefix(string(got), c.begin) {
				t.Errorf("%d %s, %v", res.StatusCode, got, err)
			}
			if n := res.ContentLength; n != -1 && n != int64(len(got)) || n == -1 && res.Header.Get("Content-Length") != "" {
				t.Errorf("it says it has %d bytes, and has %d", n, len(got))
			}
		})
	}
}

func TestTranslate_EndlessAnswer_IsAnError(t *testing.T) {
	res := &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(io.LimitReader(spaces{}, 1<<30))}
	if err := Translate(res, "m", false); err == nil || !strings.Contains(err.Error(), "longer than 32 MiB") {
		t.Errorf("got %v", err)
	}
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestCountTokens_ByTemplateAndTokenizer(t *testing.T) {
	got, err := TemplateRequest([]byte(with(`"system":"s","stream":true,"tools":[{"name":"f","input_schema":{}}]`)))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"q"}],"tools":[{"type":"function","function":{"name":"f","parameters":{}}}]}`
	if canonical(t, string(got)) != canonical(t, want) {
		t.Errorf("got %s", got)
	}
	if _, err := TemplateRequest([]byte(asked(`[{"type":"image","source":{"type":"url","url":"u"}}]`))); err == nil {
		t.Error("an image is counted")
	}
	if got, err := TokenizeRequest([]byte(`{"prompt":"a\n"}`)); err != nil || string(got) != `{"content":"a\n","add_special":true,"parse_special":true}` {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := TokenizeRequest([]byte(`{"Prompt":"a"}`)); err == nil {
		t.Error("there is no prompt")
	}
	for in, want := range map[string]string{`{"tokens":[1,2,{"id":3,"piece":"x"}]}`: `{"input_tokens":3}`, `{"tokens":[]}`: `{"input_tokens":0}`} {
		if got, err := CountResponse([]byte(in)); err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v", in, got, err)
		}
	}
	for _, in := range []string{``, `{}`, `{"tokens":3}`, `{"tokens":[1`} {
		if _, err := CountResponse([]byte(in)); err == nil {
			t.Errorf("%q is counted", in)
		}
	}
}
