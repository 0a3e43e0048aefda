package gatewaytest

import "net/http"

// stop is Anthropic's word for why the answer ends.
func (a ask) stop() string {
	switch {
	case a.tool != "":
		return "tool_use"
	case a.cut:
		return "max_tokens"
	}
	return "end_turn"
}

// message is Anthropic's face.
func (e Engine) message(w http.ResponseWriter, r *http.Request, body object) {
	a := read(body, body.list("messages"), "", "max_tokens")
	usage := func(output int) object {
		return object{"cache_read_input_tokens": 0, "input_tokens": a.prompt, "output_tokens": output}
	}
	whole := object{
		"id": "chatcmpl-standin", "type": "message", "role": "assistant", "model": e.Name,
		"content": []any{object{"type": "text", "text": a.answer()}}, "stop_reason": a.stop(), "stop_sequence": nil, "usage": usage(len(a.words)),
	}
	if a.tool != "" {
		whole["content"] = []any{object{"type": "tool_use", "id": "standin0001", "name": a.tool, "input": a.input()}}
	}
	if !a.stream {
		reply(w, whole)
		return
	}
	var events []event
	add := func(name string, data object) {
		data["type"] = name
		events = append(events, event{name, data})
	}
	add("message_start", object{"message": object{
		"id": whole["id"], "type": "message", "role": "assistant", "content": []any{}, "model": e.Name,
		"stop_reason": nil, "stop_sequence": nil, "usage": usage(0),
	}})
	if a.tool == "" {
		add("content_block_start", object{"index": 0, "content_block": object{"type": "text", "text": ""}})
		for _, piece := range a.pieces() {
			add("content_block_delta", object{"index": 0, "delta": object{"type": "text_delta", "text": piece}})
		}
	} else {
		add("content_block_start", object{"index": 0, "content_block": object{"type": "tool_use", "id": "standin0001", "name": a.tool}})
		add("content_block_delta", object{"index": 0, "delta": object{"type": "input_json_delta", "partial_json": a.arguments()}})
	}
	add("content_block_stop", object{"index": 0})
	add("message_delta", object{
		"delta": object{"stop_reason": a.stop(), "stop_sequence": nil}, "usage": object{"output_tokens": len(a.words)},
	})
	add("message_stop", object{})
	stream(w, r, events)
}

func (e Engine) countTokens(w http.ResponseWriter, _ *http.Request, body object) {
	reply(w, object{"input_tokens": read(body, body.list("messages"), "").prompt})
}
