package room

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

func TestWriteProblem_SaysWhetherAndWhenToComeBack(t *testing.T) {
	for _, c := range []struct {
		err          error
		status       int
		after, again string
	}{
		{&tier.BusyError{RetryAfter: 300 * time.Millisecond}, http.StatusTooManyRequests, "1", ""},
		{&tier.BusyError{}, http.StatusTooManyRequests, "1", ""},
		{&tier.BusyError{RetryAfter: 2100 * time.Millisecond}, http.StatusTooManyRequests, "3", ""},
		{&tier.CapacityError{Model: "a"}, http.StatusServiceUnavailable, "1", ""},
		{tier.ErrClosed, http.StatusServiceUnavailable, "1", ""},
		{&tier.CapacityError{Model: "a", Never: true}, http.StatusInsufficientStorage, "", "false"},
		{&tier.NotFoundError{What: "model", Name: "a"}, http.StatusNotFound, "", "false"},
		{&tier.MoveError{Model: "a", Err: errors.New("broken")}, http.StatusInternalServerError, "", "false"},
	} {
		w := httptest.NewRecorder()
		WriteProblem(w, plain{}, ProblemOf(c.err))
		var p plainProblem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		h := w.Header()
		if w.Code != c.status || h.Get("Retry-After") != c.after || h.Get("X-Should-Retry") != c.again || p.Code != tier.Code(c.err) {
			t.Errorf("%v: %d %v %+v", c.err, w.Code, h, p)
		}
	}
}
