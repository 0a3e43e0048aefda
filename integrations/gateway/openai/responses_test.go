package openai

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/modeltier/modeltier/integrations/gateway/internal/chat"
)

// canonical returns JSON in one spelling.
func canonical(t testing.TB, text string) string {
	t.Helper()
	v := jsontext.Value(text)
	if err := v.Canonicalize(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return string(v)
}

// items returns a request with the input.
func items(input string) string { return `{"model":"m","input":` + input + `}` }

// having returns a request with one more member.
func having(member string) string { return `{"model":"m","input":"q",` + member + `}` }

// messages returns what the engine is asked then.
func messages(list, more string) string { return `{"model":"m","messages":` + list + more + `}` }

func TestParseResponses_Translated(t *testing.T) {
	const q = `[{"role":"user","content":"q"}]`
	const f = `{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}}}}`
	const g = `{"type":"function","function":{"name":"g","description":"d","parameters":{"type":"object","P":1},"strict":true}}`
	const tools = `"tools":[{"type":"function","name":"f"},{"type":"function","name":"g","description":"d","parameters":{"type":"object","P":1},"strict":true}]`
	for name, c := range map[string]struct{ in, want string }{
		"the least": {items(`"q"`), messages(q, "")},
		"sampling and stream": {
			having(`"max_output_tokens":5,"temperature":0.5,"top_p":1,"seed":4,"stream":true,"stream_options":{"include_obfuscation":false}`),
			messages(q, `,"max_tokens":5,"temperature":0.5,"top_p":1,"seed":4,"stream":true,"stream_options":{"include_usage":true}`),
		},
		"what is left out": {
			having(`"store":true,"metadata":{"a":"b"},"user":"u","service_tier":"auto","prompt_cache_key":"k","truncation":"auto","include":["reasoning.encrypted_content"],"previous_response_id":null,"Input":4,"Background":true`),
			messages(q, ""),
		},
		"instructions, and the developer's": {
			`{"model":"m","instructions":"a","input":[{"role":"developer","content":"b"},{"type":"message","role":"system","content":[{"type":"input_text","text":"c"}]},{"role":"user","content":"q"}]}`,
			messages(`[{"role":"system","content":"a\n\nb\n\nc"},{"role":"user","content":"q"}]`, ""),
		},
		"parts": {
			items(`[{"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_image","image_url":"data:x","detail":"low","file_id":null},{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}},{"type":"input_file","filename":"a.pdf","file_data":"data:y"}]}]`),
			messages(`[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:x","detail":"low"}},{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}},{"type":"file","file":{"filename":"a.pdf","file_data":"data:y"}}]}]`, ""),
		},
		"a turn of the model's is one message": {
			items(`[{"role":"user","content":"q"},
			{"type":"reasoning","id":"r","summary":[],"content":[{"type":"reasoning_text","text":"hm"}],"encrypted_content":"x"},
			{"type":"message","id":"i","status":"completed","role":"assistant","content":[{"type":"output_text","text":"a","annotations":[]},{"type":"refusal","refusal":"b"}]},
			{"type":"function_call","call_id":"1","name":"f","arguments":"{}"},{"type":"function_call","call_id":"2","name":"g","arguments":"{\"a\":1}"},
			{"type":"function_call_output","call_id":"1","output":"r"},{"type":"function_call_output","call_id":"2","output":[{"type":"input_text","text":"s"}]}]`),
			messages(`[{"role":"user","content":"q"},
			{"role":"assistant","content":"a\nb","reasoning_content":"hm","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"2","type":"function","function":{"name":"g","arguments":"{\"a\":1}"}}]},
			{"role":"tool","tool_call_id":"1","content":"r"},{"role":"tool","tool_call_id":"2","content":"s"}]`, ""),
		},
		"a summary of thoughts": {
			items(`[{"type":"reasoning","summary":[{"type":"summary_text","text":"a"},{"type":"summary_text","text":"b"}]},{"role":"assistant","content":"c"},{"role":"user","content":"q"}]`),
			messages(`[{"role":"assistant","content":"c","reasoning_content":"a\nb"},{"role":"user","content":"q"}]`, ""),
		},
		"encrypted thoughts": {items(`[{"type":"reasoning","summary":[],"encrypted_content":"x"},{"role":"user","content":"q"}]`), messages(q, "")},
		"tools":              {having(tools + `,"parallel_tool_calls":false`), messages(q, `,"tools":[`+f+`,`+g+`],"parallel_tool_calls":false`)},
		"a tool at will":     {having(tools + `,"tool_choice":"auto"`), messages(q, `,"tools":[`+f+`,`+g+`],"tool_choice":"auto"`)},
		"no tool":            {having(tools + `,"tool_choice":"none"`), messages(q, `,"tools":[`+f+`,`+g+`],"tool_choice":"none"`)},
		"any tool":           {having(tools + `,"tool_choice":"required"`), messages(q, `,"tools":[`+f+`,`+g+`],"tool_choice":"required"`)},
		"one tool":           {having(tools + `,"tool_choice":{"type":"function","name":"g"}`), messages(q, `,"tools":[`+g+`],"tool_choice":"required"`)},
		"allowed tools":      {having(tools + `,"tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"function","name":"f"}]}`), messages(q, `,"tools":[`+f+`],"tool_choice":"auto"`)},
		"one of the allowed": {having(tools + `,"tool_choice":{"type":"allowed_tools","mode":"required","tools":[{"type":"function","name":"f"}]}`), messages(q, `,"tools":[`+f+`],"tool_choice":"required"`)},
		"text":               {having(`"text":{"format":{"type":"text"},"verbosity":"low"}`), messages(q, "")},
		"an object":          {having(`"text":{"format":{"type":"json_object"}}`), messages(q, `,"response_format":{"type":"json_object"}`)},
		"a schema": {
			having(`"text":{"format":{"type":"json_schema","name":"n","description":"d","schema":{"type":"object"},"strict":true}}`),
			messages(q, `,"response_format":{"type":"json_schema","json_schema":{"name":"n","description":"d","schema":{"type":"object"},"strict":true}}`),
		},
		"effort":      {having(`"reasoning":{"effort":"minimal","summary":"auto"}`), messages(q, `,"reasoning_effort":"low"`)},
		"no effort":   {having(`"reasoning":{"effort":"none"}`), messages(q, `,"chat_template_kwargs":{"enable_thinking":false}`)},
		"null effort": {having(`"reasoning":{"effort":null}`), messages(q, "")},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := ParseResponses([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			if got, want := canonical(t, string(r.Chat)), canonical(t, c.want); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestParseResponses_CannotBeTranslated_NamesTheField(t *testing.T) {
	const tool = `"tools":[{"type":"function","name":"f"}],`
	for in, want := range map[string]string{
		`{"input":"q"}`: "model is missing",
		`{"model":"m"}`: "input is missing",
		items(`5`):      "input must be a string or an array",
		items(`[]`):     "input says nothing",
		items(`[{}]`):   "input.0.type is missing",
		items(`["a"]`):  "input.0 is a string, but must be an object",
		items(`[{"type":"item_reference","id":"x"}]`):                                                               `input.0.type "item_reference" is not supported`,
		items(`[{"type":"web_search_call"}]`):                                                                       `input.0.type "web_search_call" is not supported`,
		items(`[{"role":"x","content":"a"}]`):                                                                       `input.0.role is "x", but must be`,
		items(`[{"role":"user"}]`):                                                                                  "input.0.content is missing",
		items(`[{"role":"user","content":[{"type":"x"}]}]`):                                                         `input.0.content.0.type "x" is not supported here`,
		items(`[{"role":"user","content":[{"type":"input_image","file_id":"f"}]}]`):                                 "input.0.content.0.image_url is missing",
		items(`[{"role":"user","content":[{"type":"input_file","file_url":"f"}]}]`):                                 "input.0.content.0.file_data is missing",
		items(`[{"role":"user","content":[{"type":"input_audio"}]}]`):                                               "input.0.content.0.input_audio is missing",
		items(`[{"role":"system","content":[{"type":"input_image","image_url":"u"}]}]`):                             "input.0.content.0 must be text",
		items(`[{"type":"function_call","name":"f"}]`):                                                              "input.0 must have a call_id and a name",
		items(`[{"type":"function_call_output","output":"f"}]`):                                                     "input.0.call_id is missing",
		items(`[{"type":"function_call_output","call_id":"c","output":[{"type":"y"}]}]`):                            `input.0.output.0.type "y" is not supported here`,
		having(`"previous_response_id":"r"`):                                                                        "previous_response_id is not supported",
		having(`"conversation":"c"`):                                                                                "conversation is not supported",
		having(`"prompt":{"id":"p"}`):                                                                               "prompt is not supported",
		having(`"background":true`):                                                                                 "background is not supported",
		having(`"top_logprobs":3`):                                                                                  "top_logprobs is not supported",
		having(`"include":["a","message.output_text.logprobs"]`):                                                    `include.1 "message.output_text.logprobs" is not supported`,
		having(`"max_output_tokens":-1`):                                                                            "max_output_tokens is -1, but must be at least 1",
		having(`"tools":[{"name":"f"}]`):                                                                            "tools.0.type is missing",
		having(`"tools":[{"type":"web_search"}]`):                                                                   `tools.0.type "web_search" is not supported`,
		having(`"tools":[{"type":"function"}]`):                                                                     "tools.0.name is missing",
		having(`"tools":[{"type":"function","name":"f","parameters":[]}]`):                                          "tools.0.parameters must be an object",
		having(`"tool_choice":"required"`):                                                                          "tool_choice wants a tool called, but there are no tools",
		having(tool + `"tool_choice":"any"`):                                                                        `tool_choice of type "any" is not supported`,
		having(tool + `"tool_choice":5`):                                                                            "tool_choice is a number, but must be an object",
		having(tool + `"tool_choice":{"type":"function","name":"g"}`):                                               `tool_choice names "g", which is not among the tools`,
		having(tool + `"tool_choice":{"type":"web_search"}`):                                                        `tool_choice of type "web_search" is not supported`,
		having(tool + `"tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"mcp"}]}`):              `tool_choice.tools.0.type "mcp" is not supported`,
		having(tool + `"tool_choice":{"type":"allowed_tools","mode":"x","tools":[{"type":"function","name":"f"}]}`): `tool_choice of type "allowed_tools" is not supported`,
		having(`"text":{"format":{"type":"grammar"}}`):                                                              `text.format of type "grammar" is not supported`,
		having(`"reasoning":{"effort":"x"}`):                                                                        `reasoning.effort is "x", but must be`,
		`{"model":"m","input":"q","stream":1}`:                                                                      "stream is a number, but must be true or false",
	} {
		_, err := ParseResponses([]byte(in))
		if _, ok := errors.AsType[*chat.FieldError](err); !ok || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s\ngot:  %v\nwant: %s", in, err, want)
		}
	}
}

func FuzzParseResponses(f *testing.F) {
	f.Add([]byte(items(`[{"role":"developer","content":"b"},{"type":"reasoning","summary":[{"text":"a"}]},{"type":"function_call","call_id":"1","name":"f"},{"type":"function_call_output","call_id":"1","output":[{"type":"input_image","image_url":"u"}]}]`)))
	f.Add([]byte(having(`"tools":[{"type":"function","name":"f"}],"tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"function","name":"f"}]},"text":{"format":{"type":"json_schema","schema":{}}}`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := ParseResponses(body)
		if err != nil {
			if _, ok := errors.AsType[*chat.FieldError](err); !ok {
				t.Errorf("the error names no field: %v", err)
			}
			return
		}
		if !jsontext.Value(r.Chat).IsValid() {
			t.Errorf("not JSON: %s", r.Chat)
		}
		if out, err := r.Answer([]byte(`{"choices":[{"message":{"content":"a"}}]}`), "m"); err != nil || !jsontext.Value(out).IsValid() {
			t.Errorf("%s, %v", out, err)
		}
	})
}

// asked returns a request that was taken.
func asked(t testing.TB, body string) *Responses {
	t.Helper()
	r, err := ParseResponses([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// echoed is what a response says of a request that says nothing.
const echoed = `"instructions":null,"max_output_tokens":null,"metadata":{},"parallel_tool_calls":true,"reasoning":{"effort":null,"summary":null},"temperature":1,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_p":1,"truncation":"disabled"`

// object returns a response.
func object(status, errorObject, details, output, usage string) string {
	return `{"id":"resp_1","object":"response","created_at":5,"status":"` + status + `","background":false,"completed_at":null,"error":` + errorObject + `,"incomplete_details":` + details + `,"model":"m","output":` + output + `,"previous_response_id":null,"store":false,"usage":` + usage + `,` + echoed + `}`
}

const noUsage = `{"input_tokens":0,"input_tokens_details":{"cached_tokens":0},"output_tokens":0,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":0}`

func TestResponses_Answer_Translated(t *testing.T) {
	answer := func(message, more string) string {
		return `{"id":"chatcmpl-1","created":5,"choices":[{"index":0,"message":` + message + `,"finish_reason":` + more
	}
	message := func(status, parts string) string {
		return `{"type":"message","id":"msg_1_0","status":"` + status + `","role":"assistant","content":[` + parts + `]}`
	}
	const text = `{"type":"output_text","text":"a","annotations":[],"logprobs":[]}`
	for name, c := range map[string]struct{ in, want string }{
		"text and usage": {
			answer(`{"content":"a"}`, `"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":5},"completion_tokens_details":{"reasoning_tokens":2}}`),
			object("completed", "null", "null", "["+message("completed", text)+"]", `{"input_tokens":9,"input_tokens_details":{"cached_tokens":5},"output_tokens":4,"output_tokens_details":{"reasoning_tokens":2},"total_tokens":13}`),
		},
		"thoughts and calls": {
			answer(`{"reasoning_content":"hm","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{\"a\""}}]}`, `"tool_calls"}]`),
			object("completed", "null", "null", `[{"type":"reasoning","id":"rs_1_0","status":"completed","summary":[],"content":[{"type":"reasoning_text","text":"hm"}]},{"type":"function_call","id":"fc_1_1","status":"completed","call_id":"c","name":"f","arguments":"{\"a\""}]`, noUsage),
		},
		"cut":      {answer(`{"content":"a"}`, `"length"}]`), object("incomplete", "null", `{"reason":"max_output_tokens"}`, "["+message("incomplete", text)+"]", noUsage)},
		"filtered": {answer(`{}`, `"content_filter"}]`), object("incomplete", "null", `{"reason":"content_filter"}`, "[]", noUsage)},
		"refused":  {answer(`{"refusal":"no"}`, `"stop"}]`), object("completed", "null", "null", "["+message("completed", `{"type":"refusal","refusal":"no"}`)+"]", noUsage)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := asked(t, items(`"q"`)).Answer([]byte(c.in+"}"), "m")
			if err != nil {
				t.Fatal(err)
			}
			if got, want := canonical(t, string(got)), canonical(t, c.want); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestResponses_Answer_EchoesItsRequest(t *testing.T) {
	const said = `"instructions":"i","max_output_tokens":7,"metadata":{"a":"b"},"temperature":0.25,"tools":[{"type":"function","name":"f","x":1}],"tool_choice":"none","top_p":0.5,"truncation":"auto","parallel_tool_calls":false,"reasoning":{"effort":"low"},"text":{"format":{"type":"json_object"}}`
	got, err := asked(t, having(said)).Answer([]byte(`{"id":"1","created":5,"choices":[{"message":{}}]}`), "m")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(object("completed", "null", "null", "[]", noUsage), echoed, said, 1)
	if canonical(t, string(got)) != canonical(t, want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// chunks is the stream of an engine: thoughts, text, a call, usage.
const chunks = `data: {"id":"chatcmpl-1","created":5,"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}

: still there

data: {"choices":[{"index":0,"delta":{"content":"a"}}]}

data: {"choices":[{"index":0,"delta":{"content":"b"}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{"}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]}}]}

data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}

data: [DONE]

`

// wantEvents are the data of the events of chunks, in the order in which they come.
var wantEvents = []string{
	`{"type":"response.created","response":` + object("in_progress", "null", "null", "[]", "null"),
	`{"type":"response.in_progress","response":` + object("in_progress", "null", "null", "[]", "null"),
	`{"type":"response.output_item.added","output_index":0,"item":{"type":"reasoning","id":"rs_1_0","status":"in_progress","content":[],"summary":[]}`,
	`{"type":"response.content_part.added","item_id":"rs_1_0","output_index":0,"content_index":0,"part":{"type":"reasoning_text","text":""}`,
	`{"type":"response.reasoning_text.delta","item_id":"rs_1_0","output_index":0,"content_index":0,"delta":"hm"`,
	`{"type":"response.reasoning_text.done","item_id":"rs_1_0","output_index":0,"content_index":0,"text":"hm"`,
	`{"type":"response.content_part.done","item_id":"rs_1_0","output_index":0,"content_index":0,"part":{"type":"reasoning_text","text":"hm"}`,
	`{"type":"response.output_item.done","output_index":0,"item":{"type":"reasoning","id":"rs_1_0","status":"completed","content":[{"type":"reasoning_text","text":"hm"}],"summary":[]}`,
	`{"type":"response.output_item.added","output_index":1,"item":{"type":"message","id":"msg_1_1","status":"in_progress","role":"assistant","content":[]}`,
	`{"type":"response.content_part.added","item_id":"msg_1_1","output_index":1,"content_index":0,"part":{"type":"output_text","text":"","annotations":[],"logprobs":[]}`,
	`{"type":"response.output_text.delta","item_id":"msg_1_1","output_index":1,"content_index":0,"delta":"a","logprobs":[]`,
	`{"type":"response.output_text.delta","item_id":"msg_1_1","output_index":1,"content_index":0,"delta":"b","logprobs":[]`,
	`{"type":"response.output_text.done","item_id":"msg_1_1","output_index":1,"content_index":0,"text":"ab","logprobs":[]`,
	`{"type":"response.content_part.done","item_id":"msg_1_1","output_index":1,"content_index":0,"part":{"type":"output_text","text":"ab","annotations":[],"logprobs":[]}`,
	`{"type":"response.output_item.done","output_index":1,"item":{"type":"message","id":"msg_1_1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"ab","annotations":[],"logprobs":[]}]}`,
	`{"type":"response.output_item.added","output_index":2,"item":{"type":"function_call","id":"fc_1_2","status":"in_progress","call_id":"c","name":"f","arguments":""}`,
	`{"type":"response.function_call_arguments.delta","item_id":"fc_1_2","output_index":2,"delta":"{"`,
	`{"type":"response.function_call_arguments.delta","item_id":"fc_1_2","output_index":2,"delta":"}"`,
	`{"type":"response.function_call_arguments.done","item_id":"fc_1_2","output_index":2,"name":"f","arguments":"{}"`,
	`{"type":"response.output_item.done","output_index":2,"item":{"type":"function_call","id":"fc_1_2","status":"completed","call_id":"c","name":"f","arguments":"{}"}`,
	`{"type":"response.completed","response":` + object("completed", "null", "null", `[{"type":"reasoning","id":"rs_1_0","status":"completed","content":[{"type":"reasoning_text","text":"hm"}],"summary":[]},{"type":"message","id":"msg_1_1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"ab","annotations":[],"logprobs":[]}]},{"type":"function_call","id":"fc_1_2","status":"completed","call_id":"c","name":"f","arguments":"{}"}]`, noUsage),
}

func streamed(t testing.TB, r *Responses, engine io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r.NewStream(io.NopCloser(engine), "m"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// data returns the data of each event, and checks their form.
func data(t testing.TB, stream string) (all []string) {
	t.Helper()
	for event := range strings.SplitSeq(strings.TrimSuffix(stream, "\n\n"), "\n\n") {
		if event == ": " {
			continue
		}
		name, data, ok := strings.Cut(event, "\ndata: ")
		if !ok || !jsontext.Value(data).IsValid() || !strings.HasPrefix(data, `{"type":"`+strings.TrimPrefix(name, "event: ")+`",`) {
			t.Fatalf("not an event: %q", event)
		}
		all = append(all, data)
	}
	return all
}

func TestResponses_NewStream_Translated(t *testing.T) {
	got := streamed(t, asked(t, items(`"q"`)), strings.NewReader(chunks))
	if strings.Count(got, "\n\n: \n\n") != 1 {
		t.Errorf("the engine's comment is not there once:\n%s", got)
	}
	events := data(t, got)
	for i, want := range wantEvents {
		want = canonical(t, want+`,"sequence_number":`+canonical(t, string(jsontext.Int(int64(i)).String()))+"}")
		if i >= len(events) || canonical(t, events[i]) != want {
			t.Fatalf("event %d of %d, got:\n%s\nwant:\n%s", i, len(events), events[min(i, len(events)-1)], want)
		}
	}
	if len(events) != len(wantEvents) {
		t.Errorf("%d events, want %d", len(events), len(wantEvents))
	}
}

func TestResponses_NewStream_EngineEndsInTheMiddle_Fails(t *testing.T) {
	r := asked(t, items(`"q"`))
	events := data(t, streamed(t, r, strings.NewReader(chunks[:strings.Index(chunks, `data: {"choices":[{"index":0,"delta":{"content":"b"`)])))
	last := events[len(events)-1]
	if !strings.Contains(last, `"status":"failed"`) || !strings.Contains(last, `"error":{"code":"server_error","message":"the engine ended in the middle of its answer"}`) {
		t.Errorf("the last event is %s", last)
	}
	events = data(t, streamed(t, r, strings.NewReader(`data: {"error":{"code":429,"message":"slow"}}`+"\n\n")))
	if len(events) != 1 || !strings.Contains(events[0], `"error":{"code":"rate_limit_exceeded","message":"slow"}`) {
		t.Errorf("got %q", events)
	}
}

func TestResponses_NewStream_Cut_IsIncomplete(t *testing.T) {
	events := data(t, streamed(t, asked(t, items(`"q"`)), strings.NewReader(strings.Replace(chunks, `"tool_calls"}`, `"length"}`, 1))))
	if last := events[len(events)-1]; !strings.HasPrefix(last, `{"type":"response.incomplete"`) || !strings.Contains(last, `"incomplete_details":{"reason":"max_output_tokens"}`) {
		t.Errorf("the last event is %s", last)
	}
}

func FuzzResponsesStream(f *testing.F) {
	f.Add([]byte(chunks))
	f.Add([]byte(`data: {"choices":[{"delta":{"refusal":"no","tool_calls":[{"function":{"name":"\"\n","arguments":{"a":"\u2028"}}}]}}]}` + "\n\ndata: [DONE]\n\n"))
	r := asked(f, items(`"q"`))
	f.Fuzz(func(t *testing.T, stream []byte) {
		engine := "data: {\"id\":\"1\"}\n\n" + string(stream) // else each has an ID of its own
		whole := streamed(t, r, strings.NewReader(engine))
		if cut := streamed(t, r, iotest.OneByteReader(strings.NewReader(engine))); cut != whole {
			t.Errorf("byte by byte:\n%s\nat once:\n%s", cut, whole)
		}
		data(t, whole)
	})
}

func TestResponses_Translate_AnswersOfEveryKind(t *testing.T) {
	for name, c := range map[string]struct {
		status     int
		kind, body string
		stream     bool
		want       int
		begin      string
	}{
		"whole":    {200, "application/json", `{"id":"1","choices":[{"message":{"content":"a"}}]}`, false, 200, `{"id":"resp_1","object":"response"`},
		"a stream": {200, "text/event-stream", chunks, true, 200, "event: response.created\n"},
		"an error": {400, "application/json", `{"error":{"message":"bad","code":400}}`, true, 400, `{"error":{"message":"bad","type":"invalid_request_error","param":null,"code":"engine_failed"`},
		"no sense": {200, "application/json", `{}`, false, 502, `{"error":{"message":"the engine's answer has no choices","type":"server_error"`},
	} {
		t.Run(name, func(t *testing.T) {
			r := asked(t, items(`"q"`))
			r.Stream = c.stream
			res := &http.Response{StatusCode: c.status, Header: http.Header{"Content-Type": {c.kind}}, Body: io.NopCloser(strings.NewReader(c.body))}
			if err := r.Translate(res, "m"); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != c.want || !strings.HasPrefix(string(got), c.begin) {
				t.Errorf("%d %s, %v", res.StatusCode, got, err)
			}
		})
	}
}

func TestParseResponses_ManyWords_AreAnError(t *testing.T) {
	_, err := ParseResponses([]byte(`{"model":"m","input":"a","include":[` + strings.Repeat(`"",`, 200_000) + `""]}`))
	if err == nil || err.Error() != "the body has more than 100000 parts" {
		t.Errorf("got %v", err)
	}
}
