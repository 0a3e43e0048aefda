package room

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestWants_ByPathAndContent(t *testing.T) {
	const image = `{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:"}}]}]}`
	for _, c := range []struct {
		path, body string
		want       []string
	}{
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":"image_url"}]}`, []string{"text-generation"}},
		{"/v1/chat/completions", image, []string{"text-generation", "vision"}},
		{"/chat/completions", image, []string{"text-generation", "vision"}},
		{"/v/chat/completions", image, []string{"text-generation", "vision"}},
		{"/v1/messages", `{"messages":[{"role":"user","content":[{"type":"tool_result","content":[{"type":"image","source":{"type":"base64"}}]}]}]}`, []string{"text-generation", "vision"}},
		{"/v1/messages", `{"messages":[{"role":"assistant","content":[{"type":"tool_use","input":{"type":"image"}}]}],"tools":[{"type":"image","input_schema":{"type":"image"}}]}`, []string{"text-generation"}},
		{"/v1/responses", `{"input":[{"role":"user","content":[{"type":"input_image","image_url":"data:"},{"type":"input_audio"}]}]}`, []string{"text-generation", "vision", "audio"}},
		{"/v1/responses", `{"input":"type"}`, []string{"text-generation"}},
		{"/v1/chat/completions", `{"Messages":[{"content":[{"type":"image_url"}]}]}`, []string{"text-generation"}},
		{"/v1/chat/completions", `{"messages":[{"content":[{"type":"image_url"`, []string{"text-generation", "vision"}},
		{"/v1/chat/completions", `{"messages":[{"content":[{"type":7,"Type":"image"},{"type":{"type":"x"}}`, []string{"text-generation"}},
		{"/v1/chat/completions", ``, []string{"text-generation"}},
		{"/v1/embeddings", image, []string{"embeddings"}},
		{"/v1/rerank", `{}`, []string{"reranking"}},
		{"/v1/audio/transcriptions", "--form", []string{"transcription"}},
		{"/v1/audio/speech", `{}`, []string{"text-to-speech"}},
		{"/v1/images/edits", `{}`, []string{"image-generation"}},
		{"/infill", `{}`, []string{"text-generation"}},
		{"/v1/models", image, nil},
	} {
		if got := Wants(c.path, []byte(c.body)); !slices.Equal(got, c.want) {
			t.Errorf("%s %s: got %q, want %q", c.path, c.body, got, c.want)
		}
	}
}

func FuzzWants(f *testing.F) {
	f.Add([]byte(`{"messages":[{"content":[{"type":"image"},{"type":"input_audio"}]}]}`))
	f.Fuzz(func(t *testing.T, body []byte) { Wants("/v1/messages", body) })
}

func TestWished_CapabilitiesWithoutEnd_AreAnError(t *testing.T) {
	body := []byte(`{"capabilities":[` + strings.Repeat(`"",`, maxWish) + `""]}`)
	if req, err := Wished(http.Header{}, "/v1/completions", body); err == nil {
		t.Errorf("it wishes %d capabilities", len(req.Capabilities))
	}
}
