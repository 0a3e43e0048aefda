package gatewaytest

import (
	"net/http"
	"time"
)

// response is OpenAI's newer face. Its stream has named events and no [DONE].
func (e Engine) response(w http.ResponseWriter, r *http.Request, body object) {
	a := read(body, body.list("input"), body.text("input"), "max_output_tokens")
	const id, messageID = "resp_standin", "msg_standin"
	part := object{"type": "output_text", "annotations": []any{}, "logprobs": []any{}, "text": a.answer()}
	item := object{"content": []any{part}, "id": messageID, "role": "assistant", "status": "completed", "type": "message"}
	if a.tool != "" {
		item = object{
			"id": "fc_standin0001", "type": "function_call", "status": "completed", "arguments": a.arguments(),
			"call_id": "call_standin0001", "name": a.tool,
		}
	}
	whole := object{
		"completed_at": time.Now().Unix(), "created_at": time.Now().Unix(), "id": id, "model": e.Name, "object": "response",
		"output": []any{item}, "status": "completed",
		"usage": object{
			"input_tokens": a.prompt, "output_tokens": len(a.words), "total_tokens": a.prompt + len(a.words),
			"input_tokens_details": object{"cached_tokens": 0},
		},
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
	begun := object{"id": id, "object": "response", "status": "in_progress"}
	add("response.created", object{"response": begun})
	add("response.in_progress", object{"response": begun})
	if a.tool == "" {
		add("response.output_item.added", object{"item": object{
			"content": []any{}, "id": messageID, "role": "assistant", "status": "in_progress", "type": "message",
		}})
		add("response.content_part.added", object{"item_id": messageID, "part": object{"type": "output_text", "text": ""}})
		for _, piece := range a.pieces() {
			add("response.output_text.delta", object{"item_id": messageID, "delta": piece})
		}
		add("response.output_text.done", object{"item_id": messageID, "text": a.answer()})
		add("response.content_part.done", object{"item_id": messageID, "part": part})
	} else {
		add("response.output_item.added", object{"item": object{
			"id": item["id"], "arguments": "", "call_id": item["call_id"], "name": a.tool, "type": "function_call", "status": "in_progress",
		}})
		add("response.function_call_arguments.delta", object{"delta": a.arguments(), "item_id": item["id"]})
	}
	add("response.output_item.done", object{"item": item})
	add("response.completed", object{"response": whole})
	stream(w, r, events)
}
