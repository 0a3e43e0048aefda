package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/integrations/gateway/gatewaytest"
)

// newOld is the gateway over an engine that knows chat/completions and neither messages nor
// responses.
func newOld(t *testing.T) *wire {
	engine := gatewaytest.Engine{Name: "file.gguf", Without: []string{"/v1/messages", "/v1/responses"}}.Handler()
	return newWire(t, engine.ServeHTTP)
}

func bodyOf(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%v after %q", err, b)
	}
	return string(b)
}

func TestTranslated_EngineLacksThePath_IsAskedByItsChat(t *testing.T) {
	f := newOld(t)
	const tools = `,"tools":[{"type":"function","name":"f","parameters":{}}]`
	for name, c := range map[string]struct {
		path, body, kind string
		want             []string // in this order
	}{
		"messages": {
			"/v1/messages", `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"the deep sea"}]}`, "application/json",
			[]string{`{"id":"msg_standin"`, `"model":"m"`, `{"type":"text","text":"the deep sea"}`, `"stop_reason":"end_turn"`, `"input_tokens":3`, `"output_tokens":3`},
		},
		"a stream of messages": {
			"/messages", `{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"the sea"}]}`, "text/event-stream",
			[]string{"event: message_start\n", `"text":"the"`, `"text":" sea"`, `"stop_reason":"end_turn"`, `"output_tokens":2`, "event: message_stop\n"},
		},
		"a count": {"/v1/messages/count_tokens", `{"model":"m","messages":[{"role":"user","content":"sea"}]}`, "application/json", []string{`{"input_tokens":24}`}},
		"what messages cannot": {
			"/v1/messages", `{"model":"m","container":"c","messages":[{"role":"user","content":"a"}]}`, "application/json",
			[]string{`{"type":"error","error":{"type":"invalid_request_error","message":"container is not supported`},
		},
		"a response": {
			"/v1/responses", `{"model":"m","input":"the deep sea"}`, "application/json",
			[]string{`{"id":"resp_standin"`, `"status":"completed"`, `"model":"m"`, `"text":"the deep sea"`, `"total_tokens":6`},
		},
		"a stream of a response": {
			"/responses", `{"model":"m","stream":true,"input":"the sea"` + tools + `}`, "text/event-stream",
			[]string{"event: response.created\n", "event: response.function_call_arguments.delta\n", `"arguments":"{\"text\":\"the sea\"}"`, "event: response.completed\n", `"total_tokens":4`},
		},
		"what responses cannot": {
			"/v1/responses", `{"model":"m","input":"a","previous_response_id":"r"}`, "application/json",
			[]string{`{"error":{"message":"previous_response_id is not supported`, `"type":"invalid_request_error"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			res := f.ask(t, "POST", c.path, c.body)
			got := bodyOf(t, res)
			rest := got
			for _, want := range c.want {
				_, after, ok := strings.Cut(rest, want)
				if !ok {
					t.Fatalf("%d, without %q there in:\n%s", res.StatusCode, want, got)
				}
				rest = after
			}
			if kind := res.Header.Get("Content-Type"); kind != c.kind {
				t.Errorf("it says it is %q", kind)
			}
		})
	}
	f.free(t)
}

func TestTranslated_EngineFails_SaidInTheShapeOfTheFace(t *testing.T) {
	f := newOld(t)
	const messages, response = `{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"a b c d e f"}]}`, `{"model":"m","stream":true,"input":"a b c d e f"}`
	for _, c := range []struct{ path, body, fault, want string }{
		{"/v1/messages", messages, gatewaytest.CloseMidStream, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"the engine ended in the middle of its answer"},
		{"/v1/messages", messages, gatewaytest.Error500, `{"type":"error","error":{"type":"api_error","message":"the stand-in was told to fail"}`},
		{"/v1/messages", messages, gatewaytest.HTML500, `{"type":"error","error":{"type":"api_error","message":"<html>`},
		{"/v1/messages", messages, gatewaytest.Gzip, `"text":" f"`},
		{"/v1/responses", response, gatewaytest.CloseMidStream, `"error":{"code":"server_error","message":"the engine ended in the middle of its answer`},
		{"/v1/responses", response, gatewaytest.GarbageMidStream, "event: response.failed\n"},
		{"/v1/responses", response, gatewaytest.Error503, `{"error":{"message":"Loading model"`},
	} {
		// Known before to lack the path: a fault is not for a question that it only refuses.
		bodyOf(t, f.ask(t, "POST", c.path, c.body))
		if got := bodyOf(t, f.ask(t, "POST", c.path, c.body, gatewaytest.Fault+": "+c.fault)); !strings.Contains(got, c.want) {
			t.Errorf("%s, %s: %q is not in:\n%s", c.path, c.fault, c.want, got)
		}
	}
	f.free(t)
}

func TestResponses_Earlier_AreNotKept(t *testing.T) {
	f := newOld(t)
	for _, ask := range []string{"GET /v1/responses/resp_1", "DELETE /responses/resp_1", "POST /v1/responses/resp_1/cancel", "GET /v1/responses/resp_1/input_items"} {
		method, path, _ := strings.Cut(ask, " ")
		res := f.ask(t, method, path, "")
		if got := bodyOf(t, res); res.StatusCode != http.StatusNotImplemented || !strings.Contains(got, `"code":"not_supported"`) {
			t.Errorf("%s: %d %s", ask, res.StatusCode, got)
		}
	}
}
