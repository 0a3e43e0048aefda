package room

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
	"golang.org/x/sync/semaphore"
)

// Bodies are held until their answers end, and what thousands of them take would
// else stand in no account.
func TestServe_BodiesOfAllRequests_HeldWithinABound(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	const limit = 1000
	room := engineOf(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if b, _ := io.ReadAll(r.Body); strings.Contains(string(b), "wait") {
			asked <- struct{}{}
			<-answer
		}
		io.WriteString(w, "{}")
	})
	room.bodies = semaphore.NewWeighted(limit)
	ask := func(prompt string, length int, body io.Reader) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		if body == nil {
			body = strings.NewReader(`{"model":"m","prompt":"` + prompt + strings.Repeat("x", length) + `"}`)
		}
		room.Serve(w, httptest.NewRequest("POST", "/v1/completions", body), plain{}, named)
		return w
	}
	first := make(chan int)
	go func() { first <- ask("wait", 600, nil).Code }()
	<-asked
	for name, body := range map[string]io.Reader{
		"announced":  nil,
		"in chunks":  struct{ io.Reader }{strings.NewReader(`{"model":"m","prompt":"` + strings.Repeat("x", 600) + `"}`)},
		"in trickle": io.MultiReader(strings.NewReader(`{"model":"m","prompt":"`), strings.NewReader(strings.Repeat("x", 300)), strings.NewReader(strings.Repeat("x", 300)), strings.NewReader(`"}`)),
	} {
		w := ask("", 600, body)
		var got plainProblem
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || got.Code != tier.Code(modeltier.ErrBusy) {
			t.Errorf("%s: %d %v %+v", name, w.Code, w.Header(), got)
		}
	}
	if w := ask("", 100, nil); w.Code != http.StatusOK {
		t.Errorf("one for which there is room: %d %s", w.Code, w.Body)
	}
	close(answer)
	if code := <-first; code != http.StatusOK {
		t.Errorf("the one that holds the room: %d", code)
	}
	ask("", 0, strings.NewReader("no JSON"))
	if !room.bodies.TryAcquire(limit) {
		t.Error("some of the room is not given back")
	}
}
