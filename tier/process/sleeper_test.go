package process

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHTTPSleeper_SendsItsRequestsInOrderUntilOneFails(t *testing.T) {
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, fmt.Sprintf("%s %s %s %s", r.Method, r.URL, r.Header.Get("Content-Type"), body))
		switch r.URL.Path {
		case "/fail":
			http.Error(w, "no "+strings.Repeat("x", 1<<20), http.StatusConflict)
		case "/elsewhere":
			http.Redirect(w, r, "/sleep", http.StatusFound)
		}
	}))
	defer server.Close()
	s := HTTPSleeper{
		ToSleep: []Request{{Path: "/sleep?level=1"}, {Method: "PUT", Path: "/unload", Body: `{"model":"{name}"}`}},
		ToWake:  []Request{{Path: "/fail"}, {Path: "/never"}},
	}
	if err := s.Sleep(t.Context(), server.URL, `a "b" \c`); err != nil {
		t.Error(err)
	}
	err := s.Wake(t.Context(), server.URL, "a")
	if err == nil || !strings.Contains(err.Error(), "409") || !strings.Contains(err.Error(), "no xx") || len(err.Error()) > 1000 {
		t.Errorf("the wake-up returned %v", err)
	}
	want := []string{
		"POST /sleep?level=1  ",
		`PUT /unload application/json {"model":"a \"b\" \\c"}`,
		"POST /fail  ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	s.ToWake = []Request{{Path: "/elsewhere"}}
	if err := s.Wake(t.Context(), server.URL, "a"); err == nil {
		t.Error("a redirect counts as done")
	}
}
