package chat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// recorder is a Sink that writes what it is told, a line for each call.
type recorder struct{ out *bytes.Buffer }

func record(out *bytes.Buffer) Sink { return recorder{out} }

func (r recorder) line(format string, args ...any) {
	r.out.WriteString(strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "␤") + "\n")
}

func (r recorder) Start(id string, created int64) { r.line("start %s %d", id, created) }
func (r recorder) Open(o Opening)                 { r.line("open %d %s %s", o.Kind, o.CallID, o.Name) }
func (r recorder) Delta(text string)              { r.line("delta %s", text) }
func (r recorder) Close()                         { r.line("close") }
func (r recorder) End(f Finish)                   { r.line("end %s %q %v", f.Reason, f.StopSequence, f.Usage) }
func (r recorder) Fail(e *EngineError)            { r.line("fail %d %s", e.Status, e.Message) }
func (r recorder) Idle()                          { r.line("idle") }

// delta is a chunk with a delta of the first choice.
func delta(d string) string {
	return `data: {"id":"chatcmpl-1","created":7,"choices":[{"index":0,"delta":` + d + "}]}\n\n"
}

// last is a chunk with a reason to finish.
func last(reason string) string {
	return `data: {"choices":[{"index":0,"delta":{},"finish_reason":"` + reason + "\"}]}\n\n"
}

const done = "data: [DONE]\n\n"

func read(t testing.TB, stream io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(NewReader(io.NopCloser(stream), record))
	if err != nil {
		t.Fatalf("a stream ends with io.EOF whatever the engine sent: %v", err)
	}
	return string(b)
}

func TestReader_StreamsOfEngines(t *testing.T) {
	for name, c := range map[string]struct{ stream, want string }{
		"text": {
			delta(`{"role":"assistant","content":null}`) + delta(`{"content":"a"}`) + delta(`{"content":"b"}`) + last("stop") + done,
			"start 1 7\nopen 1  \ndelta a\ndelta b\nclose\nend stop \"\" {0 0 0 0}\n",
		},
		"reasoning, text and tools": {
			delta(`{"reasoning_content":"r"}`) + delta(`{"content":"a"}`) +
				delta(`{"tool_calls":[{"index":0,"id":"c0","type":"function","function":{"name":"f","arguments":""}}]}`) +
				delta(`{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}`) + delta(`{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]}`) +
				delta(`{"tool_calls":[{"index":1,"id":"c1","function":{"name":"g","arguments":"{}"}}]}`) + last("tool_calls") + done,
			"start 1 7\nopen 2  \ndelta r\nclose\nopen 1  \ndelta a\nclose\nopen 3 c0 f\ndelta {\ndelta }\nclose\nopen 3 c1 g\ndelta {}\nclose\nend tool_calls \"\" {0 0 0 0}\n",
		},
		"reasoning by its other name": {
			delta(`{"reasoning":"r"}`) + last("stop") + done,
			"start 1 7\nopen 2  \ndelta r\nclose\nend stop \"\" {0 0 0 0}\n",
		},
		"usage after the end": {
			delta(`{"content":"a"}`) + last("length") + `data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":5},"completion_tokens_details":{"reasoning_tokens":2}}}` + "\n\n" + done,
			"start 1 7\nopen 1  \ndelta a\nclose\nend length \"\" {9 5 4 2}\n",
		},
		"stopped at a sequence": {
			delta(`{"content":"a"}`) + `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop","stop_reason":"END"}]}` + "\n\n" + done,
			"start 1 7\nopen 1  \ndelta a\nclose\nend stop \"END\" {0 0 0 0}\n",
		},
		"lines with CRLF, other fields and comments": {
			": hello\r\nevent: x\r\nid: 4\r\ndata: {\"id\":\"1\",\r\ndata: \"choices\":[]}\r\n\r\n" + last("stop") + done,
			"idle\nstart 1 0\nend stop \"\" {0 0 0 0}\n",
		},
		"no [DONE]": {
			delta(`{"content":"a"}`) + last("stop"),
			"start 1 7\nopen 1  \ndelta a\nclose\nend stop \"\" {0 0 0 0}\n",
		},
		"no reason to finish": {
			delta(`{"content":"a"}`) + done,
			"start 1 7\nopen 1  \ndelta a\nclose\nend stop \"\" {0 0 0 0}\n",
		},
		"several choices": {
			`data: {"id":"1","choices":[{"index":1,"delta":{"content":"no"},"finish_reason":"stop"},{"index":0,"delta":{"content":"yes"}}]}` + "\n\n" + last("stop") + delta(`{"content":"late"}`) + done,
			"start 1 0\nopen 1  \ndelta yes\nclose\nend stop \"\" {0 0 0 0}\n",
		},
		"calls with gaps between their indices": {
			delta(`{"tool_calls":[{"index":3,"id":"a","function":{"name":"f","arguments":"{}"}}]}`) + delta(`{"tool_calls":[{"index":9,"id":"b","function":{"name":"g"}}]}`) + last("stop") + done,
			"start 1 7\nopen 3 a f\ndelta {}\nclose\nopen 3 b g\nclose\nend tool_calls \"\" {0 0 0 0}\n",
		},
		"calls that all have the index 0": {
			delta(`{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]}`) + delta(`{"tool_calls":[{"index":0,"id":"b","function":{"name":"f","arguments":"{}"}}]}`) + last("stop") + done,
			"start 1 7\nopen 3 a f\ndelta {}\nclose\nopen 3 b f\ndelta {}\nclose\nend tool_calls \"\" {0 0 0 0}\n",
		},
		"calls without indices or IDs, arguments as an object": {
			delta(`{"tool_calls":[{"function":{"name":"f","arguments":{"a": 1}}},{"function":{"name":"g"}}]}`) + last("stop") + done,
			"start 1 7\nopen 3 call_1_0 f\ndelta {\"a\": 1}\nclose\nopen 3 call_1_1 g\nclose\nend tool_calls \"\" {0 0 0 0}\n",
		},
		"a refusal": {
			delta(`{"refusal":"no"}`) + last("stop") + done,
			"start 1 7\nopen 4  \ndelta no\nclose\nend refusal \"\" {0 0 0 0}\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := read(t, strings.NewReader(c.stream)); got != c.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, c.want)
			}
		})
	}
}

func TestReader_StreamThatMakesNoSense_EndsWithOneFailure(t *testing.T) {
	begun := delta(`{"content":"a"}`)
	for name, c := range map[string]struct{ stream, want string }{
		"nothing":           {"", "fail 502 the engine ended in the middle of its answer"},
		"only [DONE]":       {done, "fail 502 the engine's answer is empty"},
		"cut":               {begun, "fail 502 the engine ended in the middle of its answer"},
		"cut in an event":   {begun + `data: {"id":`, "fail 502 the engine ended in the middle of its answer"},
		"no JSON":           {begun + "data: <html>\n\n" + begun, "fail 502 the engine's answer cannot be read: the body is not valid JSON"},
		"another type":      {"data: {\"choices\":{}}\n\n", "fail 502 the engine's answer cannot be read: choices is an object, but must be an array"},
		"an error":          {begun + `data: {"error":{"code":429,"message":"slow down"}}` + "\n\n" + begun, "fail 429 slow down"},
		"a bare error":      {`data: {"error":"bad"}` + "\n\n", "fail 502 bad"},
		"an error's field":  {begun + `error: {"code":400,"message":"bad"}` + "\n\n", "fail 400 bad"},
		"too long a prompt": {`data: {"error":{"code":400,"message":"x","type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":4}}` + "\n\n", "fail 400 prompt is too long: 9 tokens > 4 maximum"},
		"mixed calls": {
			delta(`{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{"}},{"index":1,"id":"b","function":{"name":"g","arguments":"{"}}]}`) + delta(`{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]}`),
			"fail 502 the engine's answer has tool calls that are mixed with each other",
		},
		"a nameless call":     {delta(`{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}`), "fail 502 the engine's answer has a tool call without a name"},
		"arguments of a kind": {delta(`{"tool_calls":[{"index":0,"function":{"name":"f","arguments":[1]}}]}`), "fail 502 the engine's answer has a tool call whose arguments are neither a string nor an object"},
	} {
		t.Run(name, func(t *testing.T) {
			got := read(t, strings.NewReader(c.stream))
			lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
			if end := lines[len(lines)-1]; !strings.HasPrefix(end, c.want) || strings.Count(got, "fail") != 1 || strings.Contains(got, "end ") {
				t.Errorf("got:\n%s\nwant at its end:\n%s", got, c.want)
			}
		})
	}
}

func TestReader_ConnectionBreaks_SaysSoUnlessTheAnswerIsWhole(t *testing.T) {
	broken := iotest.ErrReader(errors.New("connection reset"))
	if got := read(t, io.MultiReader(strings.NewReader(delta(`{"content":"a"}`)), broken)); !strings.HasSuffix(got, "fail 502 the engine ended in the middle of its answer: connection reset\n") {
		t.Errorf("got:\n%s", got)
	}
	if got := read(t, io.MultiReader(strings.NewReader(delta(`{"content":"a"}`)+last("stop")), broken)); !strings.HasSuffix(got, "end stop \"\" {0 0 0 0}\n") {
		t.Errorf("got:\n%s", got)
	}
}

// forever yields the same bytes without an end.
type forever struct {
	bytes []byte
	at    int
}

func (f *forever) Read(p []byte) (int, error) {
	n := copy(p, f.bytes[f.at:])
	f.at = (f.at + n) % len(f.bytes)
	return n, nil
}

func TestReader_EndlessStream_IsCutAtABound(t *testing.T) {
	for name, c := range map[string]struct{ head, again, want string }{
		"a line":     {"data: ", strings.Repeat("a", 4096), "has an event of more than 4 MiB"},
		"an event":   {"", strings.Repeat("data: "+strings.Repeat("a", 250)+"\n", 16), "has an event of more than 4 MiB"},
		"text":       {"", delta(`{"content":"` + strings.Repeat("a", 1<<20) + `"}`), "has more than 16 MiB"},
		"choices":    {`data: {"choices":[`, strings.Repeat("{},", 1024), "has an event of more than 4 MiB"},
		"tool calls": {"", delta(`{"tool_calls":[{"function":{"name":"f"}}]}`), "has more than 1000 tool calls"},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(io.NopCloser(io.MultiReader(strings.NewReader(c.head), &forever{bytes: []byte(c.again)})), record)
			var tail []byte
			buf := make([]byte, 64<<10)
			for {
				n, err := r.Read(buf)
				tail = append(tail[max(len(tail)-200, 0):], buf[:n]...)
				if err != nil {
					break
				}
			}
			if !strings.Contains(string(tail), c.want) {
				t.Errorf("it ends with %q, which says nothing of %q", tail[max(len(tail)-200, 0):], c.want)
			}
		})
	}
}

func TestReader_ManyEmptyChoices_AreAnError(t *testing.T) {
	got := read(t, strings.NewReader(`data: {"choices":[`+strings.Repeat("{},", 2000)+"{}]}\n\n"))
	if !strings.Contains(got, "has more than 1000 parts") {
		t.Errorf("got %s", got)
	}
}

func TestReader_FirstEventIsThere_ReadReturnsBeforeTheNext(t *testing.T) {
	engine, w := io.Pipe()
	r := NewReader(engine, record)
	go io.WriteString(w, delta(`{"content":"a"}`))
	buf := make([]byte, 100)
	if n, err := r.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "start") {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	r.Close()
	if _, err := w.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the engine's body is open after Close: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(delta(`{"content":"a"}`) + last("stop") + done))
	f.Add([]byte(delta(`{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{"}},{"index":1,"id":"b","function":{"name":"g","arguments":"{"}}]}`)))
	f.Add([]byte(delta(`{"reasoning":"a","refusal":"b","content":"c"}`) + ": x\r\n\r\ndata:\ndata: [DONE]\n\n"))
	f.Add([]byte(`error: {"code":400}` + "\n\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		stream = append([]byte("data: {\"id\":\"1\"}\n\n"), stream...) // else each has an ID of its own
		whole := read(t, bytes.NewReader(stream))
		if cut := read(t, iotest.OneByteReader(bytes.NewReader(stream))); cut != whole {
			t.Errorf("byte by byte:\n%s\nat once:\n%s", cut, whole)
		}
		checkOrder(t, whole)
	})
}

// checkOrder checks what a Sink may rely on.
func checkOrder(t *testing.T, calls string) {
	t.Helper()
	open, ended := false, false
	for line := range strings.Lines(calls) {
		word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		bad := ended
		switch word {
		case "open":
			bad, open = bad || open, true
		case "close":
			bad, open = bad || !open, false
		case "delta":
			bad = bad || !open
		case "end":
			bad, ended = bad || open, true
		case "fail":
			ended = true
		}
		if bad {
			t.Fatalf("%q is out of order in:\n%s", line, calls)
		}
	}
	if !ended {
		t.Fatalf("there is no end of:\n%s", calls)
	}
}

// What a part takes beside its text counts: an engine can begin one with each byte.
func TestReader_LittleTextInManyParts_IsCutAtABound(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for name, again := range map[string]string{
		"parts": delta(`{"reasoning_content":"a","content":"b"}`),
		"names": delta(`{"tool_calls":[{"id":"a`+long+`","function":{"name":"f"}}]}`) + delta(`{"tool_calls":[{"id":"b`+long+`","function":{"name":"f"}}]}`),
	} {
		stream := io.LimitReader(&forever{bytes: []byte(again)}, 24<<20)
		if got := read(t, stream); !strings.HasSuffix(got, "fail 502 the engine's answer has more than 16 MiB\n") {
			t.Errorf("%s: it ends with %q", name, got[max(len(got)-200, 0):])
		}
	}
}
