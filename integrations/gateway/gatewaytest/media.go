package gatewaytest

import (
	"encoding/base64"
	"io"
	"net/http"
	"time"
)

// maxForm bounds what a form takes of memory, in bytes.
const maxForm = 64 << 20

// speech answers with the text as its sound.
func (e Engine) speech(w http.ResponseWriter, _ *http.Request, body object) {
	if body.text("input") == "" {
		refuse(w, http.StatusBadRequest, `"input" must be provided`)
		return
	}
	w.Header().Set("Content-Type", "audio/mpeg")
	io.WriteString(w, "sound of: "+body.text("input"))
}

// images answers with the prompt as its picture.
func (e Engine) images(w http.ResponseWriter, _ *http.Request, body object) {
	picture(w, "picture of: "+body.text("prompt"))
}

func picture(w http.ResponseWriter, of string) {
	reply(w, object{
		"created": time.Now().Unix(), "data": []any{object{"b64_json": base64.StdEncoding.EncodeToString([]byte(of))}},
		"usage": object{"input_tokens": words(of), "output_tokens": 1, "total_tokens": words(of) + 1},
	})
}

// transcription answers with what the file holds as what was said in it.
func (e Engine) transcription(w http.ResponseWriter, r *http.Request) {
	said, ok := file(w, r, "file")
	if !ok {
		return
	}
	n := words(said)
	usage := object{
		"type": "tokens", "input_tokens": 0, "output_tokens": n, "total_tokens": n, "input_tokens_details": object{"cached_tokens": 0},
	}
	done := object{"type": "transcript.text.done", "text": said, "usage": usage}
	if r.FormValue("stream") != "true" {
		reply(w, done)
		return
	}
	stream(w, r, []event{{data: object{"type": "transcript.text.delta", "delta": said}}, {data: done}})
}

// edit answers with the prompt and the picture that came as its picture.
func (e Engine) edit(w http.ResponseWriter, r *http.Request) {
	if of, ok := file(w, r, "image"); ok {
		picture(w, r.FormValue("prompt")+": "+of)
	}
}

// file returns what a form's file holds, or refuses.
func file(w http.ResponseWriter, r *http.Request, field string) (string, bool) {
	if err := r.ParseMultipartForm(maxForm); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return "", false
	}
	defer r.MultipartForm.RemoveAll()
	f, _, err := r.FormFile(field)
	if err != nil {
		f, _, err = r.FormFile(field + "[]") // as OpenAI's clients name several
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "no file "+field)
		return "", false
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return "", false
	}
	return string(b), true
}

func (e Engine) models(w http.ResponseWriter, _ *http.Request) {
	reply(w, object{"object": "list", "data": []any{object{
		"id": e.Name, "object": "model", "created": time.Now().Unix(), "owned_by": "llamacpp",
		"architecture": object{"input_modalities": []string{"text"}, "output_modalities": []string{"text"}},
		"meta":         object{"vocab_type": 2, "n_vocab": 128256, "n_ctx_train": 4096, "n_embd": 3, "n_params": 1, "size": 1},
	}}})
}

func (e Engine) props(w http.ResponseWriter, _ *http.Request) {
	reply(w, object{
		"default_generation_settings": object{"id": 0, "id_task": -1, "n_ctx": 4096, "speculative": false, "is_processing": false, "params": object{}},
		"total_slots":                 1, "model_path": e.Name + ".gguf", "chat_template": "", "chat_template_caps": object{},
		"modalities": object{"vision": true, "audio": true}, "build_info": fingerprint, "is_sleeping": false,
	})
}

func (e Engine) slots(w http.ResponseWriter, _ *http.Request) {
	reply(w, []any{object{"id": 0, "id_task": -1, "n_ctx": 4096, "speculative": false, "is_processing": false, "params": object{}}})
}
