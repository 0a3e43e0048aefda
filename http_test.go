package modeltier_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

func TestHandler_EveryPath_AnswersJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{Models: []tier.Model{model("a", 2)}, MaxBody: 100})
		r.use("a")
		ask := func(method, path, body string, status int, want string) {
			t.Helper()
			w := httptest.NewRecorder()
			r.Handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
			answer := w.Body.String()
			if w.Code != status || !strings.Contains(answer, want) || w.Header().Get("Content-Type") != "application/json" || !json.Valid([]byte(answer)) || !strings.HasSuffix(answer, "}\n") {
				t.Errorf("%s %s: %d %s %q, want %d and %s", method, path, w.Code, w.Header().Get("Content-Type"), answer, status, want)
			}
			if allow := w.Header().Get("Allow"); (status == http.StatusMethodNotAllowed) != (allow == "POST") {
				t.Errorf("%s %s: Allow is %q", method, path, allow)
			}
		}
		ask("POST", "/", `{"model": "a"}`, 200, `"selection_reason":"Explicit model 'a' selected"`)
		ask("POST", "/", `{"model": "b"}`, 200, `"code":"not_found"`)
		ask("POST", "/", `{"model": "a"} x`, 200, `Request is not valid JSON`)
		ask("POST", "/", strings.Repeat(" ", 101), http.StatusRequestEntityTooLarge, `"reason":"Request is larger than 100 bytes"`)
		ask("GET", "/", "", http.StatusMethodNotAllowed, `"reason":"Method GET is not for this path"`)
		ask("GET", "/nowhere", "", http.StatusNotFound, `"reason":"There is nothing at this path"`)
		ask("GET", "/v1/models", "", 200, `{"data":[{"id":"a","object":"model","owned_by":"modeltier","size_gb":2,`)
		ask("GET", "/status", "", 200, `"limits":{"ram":5368709120`)
		ask("GET", "/healthz", "", 200, `{"status":"ok"}`)
		ask("GET", "/readyz", "", 200, `{"status":"ready"}`)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		ask("GET", "/healthz", "", http.StatusServiceUnavailable, `"code":"closed"`)
		ask("GET", "/readyz", "", http.StatusServiceUnavailable, `"code":"closed"`)
		ask("POST", "/", `{"model": "a"}`, 200, `"code":"closed"`)
	})
}

func TestHandler_BodyBreaksOff_IsBadRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{})
		w := httptest.NewRecorder()
		body := io.MultiReader(strings.NewReader(`{"model`), errorReader{})
		r.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/", body))
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "The body did not come whole: unexpected EOF") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
