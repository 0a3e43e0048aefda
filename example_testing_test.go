package modeltier_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/modeltiertest"
	"github.com/modeltier/modeltier/tier"
)

// chatServer is the server of a program that embeds a Manager: GET /?model=NAME talks to a
// model for two seconds.
type chatServer struct{ models *modeltier.Manager }

func (s *chatServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	lease, err := s.models.Acquire(r.Context(), modeltier.Request{Model: r.FormValue("model")})
	if err != nil {
		status, after := modeltier.HTTPStatus(err)
		if after > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt(int64(after/time.Second), 10))
		}
		http.Error(w, err.Error(), status)
		return
	}
	defer lease.Release()
	select {
	case <-time.After(2 * time.Second):
		fmt.Fprintln(w, "hello from", lease.Model().Name)
	case <-lease.Done():
		http.Error(w, "the engine has crashed", http.StatusBadGateway)
	}
}

// How a server that embeds a Manager is tested: on a machine that the test scripts,
// without files and without waiting.
func TestExampleOfTesting_ServerUnderFaults_AnswersAsItShould(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := modeltiertest.NewManager(t,
			tier.Model{Name: "small", Size: 2 * tier.GiB},
			tier.Model{Name: "large", Size: 4 * tier.GiB},
		)
		server := &chatServer{m.Manager}
		ask := func(model string, status int) *httptest.ResponseRecorder {
			t.Helper()
			w := httptest.NewRecorder()
			server.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/?model="+model, nil))
			if w.Code != status {
				t.Errorf("%s: status %d, want %d: %s", model, w.Code, status, w.Body)
			}
			return w
		}

		ask("small", http.StatusOK)
		ask("large", http.StatusOK)
		m.Want("load small: demand", "small gave way for large: room", "load large done after 6s")
		ask("other", http.StatusNotFound)

		m.Machine.Fails("small", 1, errors.New("no such file"))
		ask("small", http.StatusInternalServerError)
		m.Want("load small failed", "refused small: move_failed")
		ask("small", http.StatusOK) // the next request tries again

		m.Machine.Crashes("large", time.Second, nil)
		ask("large", http.StatusBadGateway)
		ask("large", http.StatusOK)
		m.Want("unload large: crashed")

		m.Machine.Others(7 * tier.GiB) // a game is started
		time.Sleep(time.Second)
		if w := ask("small", http.StatusServiceUnavailable); w.Header().Get("Retry-After") == "" {
			t.Error("it does not say when to come back")
		}
	})
}
