package modeltier_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

func TestHTTPStatus_EachKindOfError_SaysWhatAndWhen(t *testing.T) {
	room := &tier.CapacityError{Model: "a"}
	never := &tier.CapacityError{Model: "a", Never: true}
	for _, c := range []struct {
		err    error
		status int
		after  time.Duration
	}{
		{nil, http.StatusOK, 0},
		{&tier.BusyError{RetryAfter: 300 * time.Millisecond}, http.StatusTooManyRequests, time.Second},
		{&tier.BusyError{}, http.StatusTooManyRequests, time.Second},
		{tier.ErrBusy, http.StatusTooManyRequests, time.Second},
		{&tier.BusyError{RetryAfter: 2100 * time.Millisecond}, http.StatusTooManyRequests, 3 * time.Second},
		{&tier.BusyError{RetryAfter: -time.Hour}, http.StatusTooManyRequests, time.Second},
		{&tier.BusyError{RetryAfter: 4 * time.Second, Reason: "it failed to load", Cause: tier.ErrNotFound}, http.StatusServiceUnavailable, 4 * time.Second},
		{fmt.Errorf("here: %w", room), http.StatusServiceUnavailable, time.Second},
		{modeltier.ErrClosed, http.StatusServiceUnavailable, time.Second},
		{&tier.StuckError{}, http.StatusServiceUnavailable, time.Second},
		{never, http.StatusInsufficientStorage, 0},
		{&tier.NotFoundError{What: "model", Name: "a"}, http.StatusNotFound, 0},
		{&tier.NoCapableModelError{}, http.StatusNotFound, 0},
		{&tier.NoCapableModelError{Unsafe: room}, http.StatusServiceUnavailable, time.Second},
		{&tier.NoCapableModelError{Unsafe: never}, http.StatusInsufficientStorage, 0},
		{&tier.NoCapableModelError{Unsafe: &tier.DigestError{}}, http.StatusInternalServerError, 0},
		{&tier.DigestError{}, http.StatusInternalServerError, 0},
		{&tier.ExistsError{}, http.StatusConflict, 0},
		{&tier.InUseError{}, http.StatusConflict, 0},
		{&tier.LimitsError{}, http.StatusConflict, 0},
		{&tier.InvalidError{}, http.StatusBadRequest, 0},
		{&tier.MoveError{Model: "a", Err: &tier.InvalidError{}}, http.StatusInternalServerError, 0},
		{&tier.MoveError{Model: "a", Err: errors.New("broken")}, http.StatusInternalServerError, 0},
		{&tier.PanicError{}, http.StatusInternalServerError, 0},
		{context.Canceled, 499, 0},
		{context.DeadlineExceeded, http.StatusGatewayTimeout, time.Second},
		{&tier.DeadlineError{}, http.StatusGatewayTimeout, 0},
		{errors.New("other"), http.StatusInternalServerError, 0},
	} {
		status, after := modeltier.HTTPStatus(c.err)
		if status != c.status || after != c.after {
			t.Errorf("%v: %d after %v, want %d after %v", c.err, status, after, c.status, c.after)
		}
	}
	if _, after := modeltier.HTTPStatus(&tier.BusyError{RetryAfter: math.MaxInt64}); after <= 0 {
		t.Errorf("the longest time became %v", after)
	}
}

// 5 GiB of ram are an outsider's. What ends soonest says when to come back.
func TestHTTPStatus_LackOfRoom_RetryAfterIsWhenItMayEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		wantAfter := func(what string, err error, want time.Duration) {
			t.Helper()
			if status, after := modeltier.HTTPStatus(err); status != http.StatusServiceUnavailable || after != want {
				t.Errorf("%s: %d, after %v, want %v: %v", what, status, after, want, err)
			}
		}
		ask := func() error { return r.begin("a").refused(modeltier.ErrNoCapacity, 0) }
		give := func(seconds string) {
			t.Helper()
			if a := r.HandleRequest(t.Context(), []byte(`{"reserve": {"gb": 4, "for_s": `+seconds+`}}`)); !strings.Contains(string(a), "success") {
				t.Fatalf("%s", a)
			}
		}
		give("40.5")
		wantAfter("a reservation with a term", ask(), 41*time.Second)
		time.Sleep(40400 * time.Millisecond)
		wantAfter("one that ends in a moment", ask(), time.Second)
		time.Sleep(time.Second)
		give("3600")
		wantAfter("one of an hour", ask(), time.Minute)
		_, err := r.Reserve(t.Context(), 2*tier.GiB, "another")
		wantAfter("for an outsider", err, time.Minute)
		wantAfter("by capabilities", func() error {
			_, err := r.Acquire(t.Context(), modeltier.Request{Capabilities: []string{"text-generation"}})
			return err
		}(), time.Minute)
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onlyRAM(model("a", 2)))
		r.memory(64*tier.GiB, 2*tier.GiB)
		err := r.begin("a").refused(modeltier.ErrNoCapacity, 0)
		if _, after := modeltier.HTTPStatus(err); after != 10*time.Second {
			t.Errorf("others have the memory: after %v", after)
		}
	})
}
