package gatewaytest

import (
	"io"
	"net/http"
	"strings"
	"time"
)

const fingerprint = "b1-standin"

func (a ask) usage() object {
	return object{
		"completion_tokens": len(a.words), "prompt_tokens": a.prompt, "total_tokens": len(a.words) + a.prompt,
		"prompt_tokens_details": object{"cached_tokens": 0},
	}
}

func (a ask) timings() object {
	return object{
		"cache_n": 0, "prompt_n": a.prompt, "prompt_ms": 1.0, "prompt_per_token_ms": 1.0, "prompt_per_second": 1000.0,
		"predicted_n": len(a.words), "predicted_ms": 1.0, "predicted_per_token_ms": 1.0, "predicted_per_second": 1000.0,
	}
}

// finish is why the answer ends where it does.
func (a ask) finish() string {
	switch {
	case a.tool != "":
		return "tool_calls"
	case a.cut:
		return "length"
	}
	return "stop"
}

func (e Engine) chat(w http.ResponseWriter, r *http.Request, body object) {
	messages := body.list("messages")
	if messages == nil {
		refuse(w, http.StatusBadRequest, "'messages' is required")
		return
	}
	a := read(body, messages, "", "max_tokens", "max_completion_tokens")
	call := object{"type": "function", "id": "standin0001", "function": object{"name": a.tool, "arguments": a.arguments()}}
	if !a.stream {
		message := object{"role": "assistant", "content": a.answer()}
		if a.tool != "" {
			message["content"], message["tool_calls"] = nil, []any{call}
		}
		reply(w, object{
			"choices": []any{object{"finish_reason": a.finish(), "index": 0, "message": message}},
			"created": time.Now().Unix(), "model": e.Name, "system_fingerprint": fingerprint, "object": "chat.completion",
			"usage": a.usage(), "id": "chatcmpl-standin", "timings": a.timings(),
		})
		return
	}
	var events []event
	add := func(choices ...any) object {
		chunk := object{
			"choices": append([]any{}, choices...), "created": time.Now().Unix(), "id": "chatcmpl-standin", "model": e.Name,
			"system_fingerprint": fingerprint, "object": "chat.completion.chunk",
		}
		events = append(events, event{data: chunk})
		return chunk
	}
	delta := func(d object) { add(object{"finish_reason": nil, "index": 0, "delta": d}) }
	delta(object{"role": "assistant", "content": nil})
	if a.tool == "" {
		for _, piece := range a.pieces() {
			delta(object{"content": piece})
		}
	} else {
		call["index"] = 0
		arguments := a.arguments()
		call["function"] = object{"name": a.tool, "arguments": ""}
		delta(object{"tool_calls": []any{call}})
		for _, part := range []string{arguments[:len(arguments)/2], arguments[len(arguments)/2:]} {
			delta(object{"tool_calls": []any{object{"index": 0, "function": object{"arguments": part}}}})
		}
	}
	last := add(object{"finish_reason": a.finish(), "index": 0, "delta": object{}})
	if body.object("stream_options").is("include_usage") {
		last = add()
		last["usage"] = a.usage()
	}
	last["timings"] = a.timings()
	stream(w, r, events)
	io.WriteString(w, "data: [DONE]\n\n")
}

// prompt is a completion's; of several, all of them.
func prompt(body object) string {
	if s := body.text("prompt"); s != "" {
		return s
	}
	var all []string
	for _, p := range body.list("prompt") {
		s, _ := p.(string)
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

func (e Engine) completion(w http.ResponseWriter, r *http.Request, body object) {
	a := read(body, nil, prompt(body), "max_tokens", "n_predict")
	answer := func(text string, finish any) object {
		return object{
			"choices": []any{object{"text": text, "index": 0, "logprobs": nil, "finish_reason": finish}},
			"created": time.Now().Unix(), "model": e.Name, "system_fingerprint": fingerprint, "object": "text_completion", "id": "chatcmpl-standin",
		}
	}
	if !a.stream {
		whole := answer(a.answer(), a.finish())
		whole["usage"], whole["timings"] = a.usage(), a.timings()
		reply(w, whole)
		return
	}
	var events []event
	for _, piece := range a.pieces() {
		events = append(events, event{data: answer(piece, nil)})
	}
	last := answer("", a.finish())
	last["usage"], last["timings"] = a.usage(), a.timings()
	stream(w, r, append(events, event{data: last}))
	io.WriteString(w, "data: [DONE]\n\n")
}

// plainCompletion is llama.cpp's own, not OpenAI's. Its stream has no [DONE].
func (e Engine) plainCompletion(w http.ResponseWriter, r *http.Request, body object) {
	e.plain(w, r, read(body, nil, prompt(body), "n_predict"), prompt(body))
}

func (e Engine) infill(w http.ResponseWriter, r *http.Request, body object) {
	between := body.text("input_prefix") + " " + body.text("prompt") + " " + body.text("input_suffix")
	e.plain(w, r, read(body, nil, between, "n_predict"), between)
}

func (e Engine) plain(w http.ResponseWriter, r *http.Request, a ask, prompt string) {
	stop := "eos"
	if a.cut {
		stop = "limit"
	}
	last := object{
		"index": 0, "content": a.answer(), "tokens": []int{}, "id_slot": 0, "stop": true, "model": e.Name,
		"tokens_predicted": len(a.words), "tokens_evaluated": a.prompt, "generation_settings": object{}, "prompt": prompt,
		"has_new_line": false, "truncated": false, "stop_type": stop, "stopping_word": "", "tokens_cached": a.prompt, "timings": a.timings(),
	}
	if !a.stream {
		reply(w, last)
		return
	}
	var events []event
	for i, piece := range a.pieces() {
		events = append(events, event{data: object{
			"index": 0, "content": piece, "tokens": []int{i}, "stop": false, "id_slot": 0, "tokens_predicted": i + 1, "tokens_evaluated": a.prompt,
		}})
	}
	last["content"] = ""
	stream(w, r, append(events, event{data: last}))
}
