package anthropic

import (
	"errors"
	"strings"
	"testing"

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

// asked returns a request whose only message of the user has the content.
func asked(content string) string {
	return `{"model":"m","messages":[{"role":"user","content":` + content + `}]}`
}

// with returns a request with one more member.
func with(member string) string {
	return `{"model":"m","messages":[{"role":"user","content":"q"}],` + member + `}`
}

func TestChatRequest_Translated(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"the least": {asked(`"q"`), asked(`"q"`)},
		"sampling and stream": {
			with(`"max_tokens":5,"temperature":0.5,"top_p":1,"top_k":40,"stop_sequences":["a","b"],"stream":true`),
			with(`"max_tokens":5,"temperature":0.5,"top_p":1,"top_k":40,"stop":["a","b"],"stream":true,"stream_options":{"include_usage":true}`),
		},
		"what is left out": {
			with(`"metadata":{"user_id":"u"},"service_tier":"auto","cache_control":{"type":"ephemeral"},"thinking":{"type":"enabled","budget_tokens":1024},"context_management":{},"Model":"other","Messages":4`),
			asked(`"q"`),
		},
		"system as a string":       {with(`"system":"s"`), `{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"q"}]}`},
		"system as blocks":         {with(`"system":[{"type":"text","text":"x-anthropic-billing-header: cch=1;"},{"type":"text","text":"s","cache_control":{}},{"type":"text","text":"t"}]`), `{"model":"m","messages":[{"role":"system","content":"s\n\nt"},{"role":"user","content":"q"}]}`},
		"no thinking":              {with(`"thinking":{"type":"disabled"}`), with(`"chat_template_kwargs":{"enable_thinking":false}`)},
		"own template's args":      {with(`"thinking":{"type":"disabled"},"chat_template_kwargs":{"a":1}`), with(`"chat_template_kwargs":{"a":1}`)},
		"effort":                   {with(`"output_config":{"effort":"max"}`), with(`"reasoning_effort":"high"`)},
		"schema":                   {with(`"output_config":{"format":{"type":"json_schema","schema":{"type":"object"}}}`), with(`"response_format":{"type":"json_schema","json_schema":{"name":"answer","schema":{"type":"object"}}}`)},
		"schema by its first name": {with(`"output_format":{"type":"json_schema","schema":{"type":"object"}}`), with(`"response_format":{"type":"json_schema","json_schema":{"name":"answer","schema":{"type":"object"}}}`)},
		"half an emoji": {
			`{"model":"m","messages":[{"role":"user","content":"a\ud83d"}],"tools":[{"name":"f","input_schema":{"description":"\ud83d"}}]}`,
			`{"model":"m","messages":[{"role":"user","content":"a\ufffd"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"description":"\ufffd"}}}]}`,
		},
		"tools": {
			with(`"tools":[{"name":"f","description":"d","input_schema":{"type":"object","Properties":{}},"strict":true},{"type":"custom","name":"g"}],"tool_choice":{"type":"auto","disable_parallel_tool_use":true}`),
			with(`"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","Properties":{}},"strict":true}},{"type":"function","function":{"name":"g","parameters":{"type":"object","properties":{}}}}],"tool_choice":"auto","parallel_tool_calls":false`),
		},
		"any tool":                {with(`"tools":[{"name":"f"}],"tool_choice":{"type":"any"}`), with(`"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}}}}],"tool_choice":"required"`)},
		"one tool":                {with(`"tools":[{"name":"f"},{"name":"g"}],"tool_choice":{"type":"tool","name":"g"}`), with(`"tools":[{"type":"function","function":{"name":"g","parameters":{"type":"object","properties":{}}}}],"tool_choice":"required"`)},
		"no tool":                 {with(`"tools":[{"name":"f"}],"tool_choice":{"type":"none"}`), with(`"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}}}}],"tool_choice":"none"`)},
		"a choice among no tools": {with(`"tool_choice":{"type":"auto"}`), asked(`"q"`)},
		"text and images": {
			asked(`[{"type":"text","text":"a"},{"type":"text","text":""},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}},{"type":"image","source":{"type":"url","url":"http://x/y.png"}}]`),
			asked(`[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}},{"type":"image_url","image_url":{"url":"http://x/y.png"}}]`),
		},
		"text alone":  {asked(`[{"type":"text","text":"a"},{"type":"text","text":"b"}]`), asked(`"a\nb"`)},
		"no content":  {asked(`[]`), asked(`""`)},
		"a text file": {asked(`[{"type":"document","title":"T","context":"C","source":{"type":"text","media_type":"text/plain","data":"d"},"citations":{"enabled":false}}]`), asked(`"T\nC\nd"`)},
		"a document of parts": {
			asked(`[{"type":"document","source":{"type":"content","content":[{"type":"text","text":"a"},{"type":"image","source":{"type":"url","url":"u"}}]}}]`),
			asked(`[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"u"}}]`),
		},
		"a PDF": {
			asked(`[{"type":"document","title":"a.pdf","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}}]`),
			asked(`[{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,AAAA"}}]`),
		},
		"a search result": {asked(`[{"type":"search_result","source":"http://x","title":"T","content":[{"type":"text","text":"a"}]}]`), asked(`"T\nhttp://x\na"`)},
		"calls and their results, which go first": {
			`{"model":"m","messages":[{"role":"user","content":"q"},
			{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"s"},{"type":"redacted_thinking","data":"x"},{"type":"text","text":"a"},{"type":"tool_use","id":"1","name":"f","input":{"a": 1}},{"type":"tool_use","id":"2","name":"g","input":null}]},
			{"role":"user","content":[{"type":"text","text":"look"},{"type":"tool_result","tool_use_id":"1","content":"r"},{"type":"tool_result","tool_use_id":"2","is_error":true,"content":[{"type":"text","text":"bad"}]}]}]}`,
			`{"model":"m","messages":[{"role":"user","content":"q"},
			{"role":"assistant","content":"a","reasoning_content":"hm","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}},{"id":"2","type":"function","function":{"name":"g","arguments":"{}"}}]},
			{"role":"tool","tool_call_id":"1","content":"r"},{"role":"tool","tool_call_id":"2","content":"Error:\nbad"},{"role":"user","content":"look"}]}`,
		},
		"an empty result": {
			`{"model":"m","messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"1"}]}]}`,
			`{"model":"m","messages":[{"role":"tool","tool_call_id":"1","content":""}]}`,
		},
		"instructions in between": {
			`{"model":"m","system":"a","messages":[{"role":"system","content":"b"},{"role":"user","content":"q"}]}`,
			`{"model":"m","messages":[{"role":"system","content":"a\n\nb"},{"role":"user","content":"q"}]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ChatRequest([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			if got, want := canonical(t, string(got)), canonical(t, c.want); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestChatRequest_CannotBeTranslated_NamesTheField(t *testing.T) {
	for in, want := range map[string]string{
		``:                                  "the body is not valid JSON: unexpected EOF, at byte 0",
		`[]`:                                "the body is an array, but must be an object",
		`{"model":"m","model":"n"}`:         "model comes twice",
		`{"messages":[]}`:                   "model is missing",
		`{"model":"m","messages":[]}`:       "messages must have at least one message",
		`{"model":"m","Messages":[1]}`:      "messages must have at least one message",
		with(`"max_tokens":0`):              "max_tokens is 0, but must be at least 1",
		with(`"max_tokens":1.5`):            "max_tokens is a number, but must be a whole number",
		with(`"stream":"yes"`):              "stream is a string, but must be true or false",
		with(`"container":"c"`):             "container is not supported",
		with(`"mcp_servers":[{}]`):          "mcp_servers is not supported",
		with(`"system":5`):                  "system must be a string or an array",
		with(`"system":[{"type":"image"}]`): `system.0.type is "image", but must be "text"`,
		with(`"tools":[{"type":"web_search_20250305"}]`):             `tools.0.type "web_search_20250305" is not supported`,
		with(`"tools":[{}]`):                                         "tools.0.name is missing",
		with(`"tools":[{"name":"f","input_schema":5}]`):              "tools.0.input_schema must be an object",
		with(`"tool_choice":{"type":"any"}`):                         "tool_choice wants a tool called, but there are no tools",
		with(`"tools":[{"name":"f"}],"tool_choice":{"type":"x"}`):    `tool_choice.type is "x", but must be`,
		with(`"tools":[{"name":"f"}],"tool_choice":{"type":"tool"}`): `tool_choice names "", which is not among the tools`,
		with(`"output_config":{"effort":"x"}`):                       `output_config.effort is "x", but must be`,
		with(`"output_config":{"format":{"type":"x"}}`):              "output_config.format must have the type",
		`{"model":"m","messages":[{"role":"x","content":""}]}`:       `messages.0.role is "x", but must be`,
		`{"model":"m","messages":[{"role":"user"}]}`:                 "messages.0.content is missing",
		asked(`{}`):                 "messages.0.content must be a string or an array",
		asked(`[{}]`):               "messages.0.content.0.type is missing",
		asked(`["a"]`):              "messages.0.content.0 is a string, but must be an object",
		asked(`[{"type":"video"}]`): `messages.0.content.0.type "video" is not supported here`,
		asked(`[{"type":"image"}]`): `messages.0.content.0.source of type "" is not supported`,
		asked(`[{"type":"image","source":{"type":"file","file_id":"f"}}]`):                                              `messages.0.content.0.source of type "file" is not supported`,
		asked(`[{"type":"image","source":{"type":5}}]`):                                                                 "messages.0.content.0.source.type is a number, but must be a string",
		asked(`[{"type":"document","source":{"type":"url","url":"u"}}]`):                                                `messages.0.content.0.source of type "url" is not supported`,
		asked(`[{"type":"document","source":{"type":"text","data":"d"},"citations":{"enabled":true}}]`):                 "messages.0.content.0.citations.enabled is not supported",
		asked(`[{"type":"document","source":{"type":"content","content":[{"type":"tool_use"}]}}]`):                      `messages.0.content.0.source.content.0.type "tool_use" is not supported here`,
		asked(`[{"type":"tool_result"}]`):                                                                               "messages.0.content.0.tool_use_id is missing",
		asked(`[{"type":"tool_result","tool_use_id":"1","content":[{"type":"tool_result"}]}]`):                          `messages.0.content.0.content.0.type "tool_result" is not supported here`,
		`{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use","id":"1"}]}]}`:                      "messages.0.content.0 must have an id and a name",
		`{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"f","input":5}]}]}`: "messages.0.content.0.input must be an object",
		`{"model":"m","messages":[{"role":"assistant","content":[{"type":"server_tool_use"}]}]}`:                        `messages.0.content.0.type "server_tool_use" is not supported here`,
	} {
		_, err := ChatRequest([]byte(in))
		if _, ok := errors.AsType[*chat.FieldError](err); !ok || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s\ngot:  %v\nwant: %s", in, err, want)
		}
		if err != nil {
			if status, _ := Error(err); status != 400 {
				t.Errorf("%s: status %d", in, status)
			}
		}
	}
}

func TestChatRequest_ManyEmptyBlocks_AreAnError(t *testing.T) {
	for _, body := range []string{
		asked(`[` + strings.Repeat(`{},`, 200_000) + `{}]`),
		with(`"stop_sequences":[` + strings.Repeat(`"",`, 200_000) + `""]`),
		with(`"mcp_servers":[` + strings.Repeat(`{},`, 200_000) + `{}]`),
	} {
		_, err := ChatRequest([]byte(body))
		if err == nil || err.Error() != "the body has more than 100000 parts" {
			t.Errorf("%.100s: got %v", body, err)
		}
	}
}

func TestChatRequest_LongWordWhereItMakesNoSense_IsNotToldWhole(t *testing.T) {
	_, err := ChatRequest([]byte(asked(`[{"type":"` + strings.Repeat("é", 1<<20) + `"}]`)))
	if err == nil || len(err.Error()) > 1100 || !strings.HasSuffix(err.Error(), "…") {
		t.Errorf("%d bytes of an error", len(err.Error()))
	}
}

func FuzzChatRequest(f *testing.F) {
	f.Add([]byte(asked(`[{"type":"document","title":"T","source":{"type":"content","content":[{"type":"text","text":"a"}]}}]`)))
	f.Add([]byte(asked(`[{"type":"tool_result","tool_use_id":"1","is_error":true,"content":[{"type":"image","source":{"type":"url","url":"u"}}]}]`)))
	f.Add([]byte(`{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"f","input":{}}]}]}`))
	f.Add([]byte(with(`"system":[{"type":"text","text":"s"}],"tools":[{"name":"f","input_schema":{}}],"tool_choice":{"type":"tool","name":"f"},"stream":true`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		out, err := ChatRequest(body)
		if err == nil && !jsontext.Value(out).IsValid() {
			t.Errorf("not JSON: %s", out)
		}
		if _, ok := errors.AsType[*chat.FieldError](err); err != nil && !ok {
			t.Errorf("the error names no field: %v", err)
		}
		TemplateRequest(body)
	})
}
