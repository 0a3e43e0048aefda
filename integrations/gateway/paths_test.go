package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/modeltier/modeltier/integrations/gateway"
	"github.com/modeltier/modeltier/modeltiertest"
)

func TestNew_PathOrMethodThatIsNotThere_SaysWhatIs(t *testing.T) { synctest.Test(t, testPaths) }

func testPaths(t *testing.T) {
	h := gateway.New(modeltiertest.NewManager(t).Manager, gateway.Config{})
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
		says         string // in the shape of its face
	}{
		{"POST", "/v1/chat/completion", 404, "", `"suggestions":["Did you mean /v1/chat/completions?"]}}`},
		{"POST", "/v1/nothing/like/it", 404, "", `{"error":{"message":"There is nothing at /v1/nothing/like/it","type":"invalid_request_error"`},
		{"POST", "/v1/messages/counttokens", 404, "", `{"type":"error","error":{"type":"not_found_error","message":"There is nothing at`},
		{"GET", "/v1/messages", 405, "POST", `"suggestions":["It takes POST."]`},
		{"DELETE", "/v1/models/a/b", 405, "GET", `"code":"method_not_allowed"`},
		{"PUT", "/v1/embeddings", 405, "POST", `PUT is no method of /v1/embeddings`},
		{"GET", "/chat/completions", 405, "POST", `{"error":{"message":"GET is no method of /chat/completions"`},
		{"PATCH", "/v/rerank", 405, "POST", `"code":"method_not_allowed"`},
		{"POST", "/props", 405, "GET", `{"error":{"message":"POST is no method of /props"`},
		{"GET", "/props", 400, "", `"suggestions":["Ask /props?model=NAME."]`},
		{"GET", "/props?model=nope", 404, "", `{"error":{"message":"Model 'nope' not found"`},
		{"GET", "/nothing", 404, "", `"status":"error"`},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.status || w.Header().Get("Allow") != c.allow || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s %s: %d, Allow %q, %s; want %d, %q and %s", c.method, c.path, w.Code, w.Header().Get("Allow"), w.Body, c.status, c.allow, c.says)
		}
		if got := w.Header().Get("Content-Type"); got != "application/json" && !strings.HasPrefix(got, "application/json") {
			t.Errorf("%s %s: Content-Type %q", c.method, c.path, got)
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, httptest.NewRequest(method, "/", nil)); w.Code != http.StatusOK {
			t.Errorf("%s /: %d", method, w.Code)
		}
	}
}

func TestNew_WishThatMakesNoSense_SaysWhatWouldBeRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := gateway.New(modeltiertest.NewManager(t).Manager, gateway.Config{})
		for body, want := range map[string]string{
			`{"model":"auto","priority":"fast"}`: `"suggestions":["priority must be `,
			`{"messages":[]}`:                    `"suggestions":["Send a JSON object with \"model\"`,
			`[]`:                                 `"suggestions":["Send a JSON object with \"model\"`,
		} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("POST", "/v1/completions", strings.NewReader(body)))
			if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: %d %s, want %s", body, w.Code, w.Body, want)
			}
		}
	})
}
