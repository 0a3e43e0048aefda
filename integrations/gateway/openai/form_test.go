package openai

import (
	"bytes"
	"crypto/rand"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
	"github.com/modeltier/modeltier/integrations/gateway/room"
	"github.com/modeltier/modeltier/tier"
)

// field is a part of a form.
type field struct {
	header textproto.MIMEHeader
	body   string
}

// text is a field that is no file.
func text(name, value string) field {
	return field{textproto.MIMEHeader{"Content-Disposition": {`form-data; name="` + name + `"`}}, value}
}

// form returns a form and its Content-Type.
func form(t *testing.T, fields ...field) (body []byte, kind string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, f := range fields {
		part, err := w.CreatePart(f.header)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(part, f.body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), w.FormDataContentType()
}

// fieldsOf reads a form.
func fieldsOf(t *testing.T, body []byte, kind string) (fields []field) {
	t.Helper()
	_, params, err := mime.ParseMediaType(kind)
	if err != nil {
		t.Fatal(err)
	}
	for parts := multipart.NewReader(bytes.NewReader(body), params["boundary"]); ; {
		part, err := parts.NextRawPart()
		if err == io.EOF {
			return fields
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		fields = append(fields, field{part.Header, string(b)})
	}
}

// What an engine is given of a form is what came, but for the model.
func TestForm_ModelIsWishOrAlias_EngineIsToldTheModelAndGetsTheSameFile(t *testing.T) {
	var body []byte
	kind := ""
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind = r.Header.Get("Content-Type")
		body, _ = io.ReadAll(r.Body)
		io.WriteString(w, "{}")
	}))
	defer engine.Close()
	m, err := modeltier.New(modeltier.Config{
		Models:  []tier.Model{{Name: "ears", Size: tier.MiB, Capabilities: []string{"transcription"}}, {Name: "mouth", Size: tier.MiB, Capabilities: []string{"text-generation"}}},
		Aliases: map[string]string{"whisper-1": "ears"}, Mover: enginetest.At(engine.URL), Probe: enginetest.Plenty(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	mux := http.NewServeMux()
	Mount(mux, room.New(m, room.Options{}))
	sound := make([]byte, 200_000)
	rand.Read(sound)
	file := field{textproto.MIMEHeader{
		"Content-Disposition": {`form-data; name="file"; filename="größe \"x\".wav"`}, "Content-Type": {"audio/wav"}, "Content-Transfer-Encoding": {"binary"},
	}, string(sound) + "\r\n--x\r\n"}
	for _, name := range []string{"ears", "whisper-1", "auto"} {
		fields := []field{text("temperature", "0"), text("model", name), file, text("Model", "mouth")}
		sent, sentKind := form(t, fields...)
		r := httptest.NewRequest("POST", "/v1/audio/transcriptions", bytes.NewReader(sent))
		r.Header.Set("Content-Type", sentKind)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != http.StatusOK || w.Header().Get("X-Model") != "ears" {
			t.Errorf("%s: %d from %q: %s", name, w.Code, w.Header().Get("X-Model"), w.Body)
			continue
		}
		if name == "ears" && !bytes.Equal(body, sent) {
			t.Error("a form that names its model is another one")
		}
		fields[1] = text("model", "ears")
		got := fieldsOf(t, body, kind)
		if !slices.EqualFunc(got, fields, func(a, b field) bool {
			same := a.body == b.body && len(a.header) == len(b.header)
			for key := range a.header {
				same = same && a.header.Get(key) == b.header.Get(key)
			}
			return same
		}) {
			t.Errorf("%s: the engine got %.300q", name, body)
		}
	}
}

func TestForm_ThatMakesNoSense_IsAnErrorThatSaysWhy(t *testing.T) {
	whole, kind := form(t, text("model", "m"))
	without, withoutKind := form(t, text("file", "m"))
	for name, c := range map[string]struct{ body, kind, says string }{
		"no form":         {"{}", "application/json", "multipart/form-data"},
		"no boundary":     {string(whole), "multipart/form-data", "boundary"},
		"a wild boundary": {string(whole), "multipart/form-data; boundary=" + strings.Repeat("x", 80), "boundary"},
		"not whole":       {string(whole[:len(whole)-20]), kind, "not whole"},
		"no model":        {string(without), withoutKind, `no field "model"`},
		"empty":           {"", kind, `no field "model"`},
	} {
		r := httptest.NewRequest("POST", "/v1/images/edits", nil)
		r.Header.Set("Content-Type", c.kind)
		if _, err := understandForm(r, []byte(c.body), "/v1/images/edits"); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want an error that says %q", name, err, c.says)
		}
	}
}

func TestForm_Stream_IsKnown(t *testing.T) {
	for value, want := range map[string]bool{"true": true, "1": true, "false": false, "": false} {
		body, kind := form(t, text("model", "m"), text("stream", value))
		r := httptest.NewRequest("POST", "/v1/audio/transcriptions", nil)
		r.Header.Set("Content-Type", kind)
		if ask, err := understandForm(r, body, "/v1/audio/transcriptions"); err != nil || ask.Stream != want {
			t.Errorf("%q: %+v, %v", value, ask, err)
		}
	}
}
