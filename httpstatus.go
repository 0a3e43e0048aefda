package modeltier

import (
	"context"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// statusClientClosed is of a request whose client has gone. No client reads it: it is for
// logs. The number is nginx's.
const statusClientClosed = 499

// HTTPStatus returns the HTTP status code that fits an error of a Manager's, and when
// it is worth asking again, in whole seconds as a Retry-After header says it; 0: not
// unless something changes.
//
//	200  nil
//	400  ErrInvalid; 500 if a move failed by it: then the file is at fault
//	404  ErrNotFound, ErrNoCapableModel; 503 or 507 if a capable model lacks room alone
//	409  ErrExists, ErrInUse, ErrLimits
//	429  ErrBusy because a queue is full
//	499  context.Canceled: the client has gone
//	503  ErrNoCapacity (see tier.CapacityError.RetryAfter), ErrClosed, ErrStuck, and ErrBusy for any other reason
//	504  context.DeadlineExceeded, *tier.DeadlineError
//	507  ErrTooLarge
//	500  any other error
func HTTPStatus(err error) (status int, retryAfter time.Duration) {
	if lack, ok := errors.AsType[*tier.CapacityError](err); ok && !lack.Never && lack.RetryAfter > 0 {
		return http.StatusServiceUnavailable, wholeSeconds(lack.RetryAfter)
	}
	is := func(target error) bool { return errors.Is(err, target) }
	const soon = time.Second
	if busy, ok := errors.AsType[*tier.BusyError](err); ok {
		// What is busy for another reason than a full queue says so in its own words.
		status = http.StatusServiceUnavailable
		if busy.Reason == "" {
			status = http.StatusTooManyRequests
		}
		return status, max(wholeSeconds(busy.RetryAfter), soon)
	}
	switch {
	case err == nil:
		return http.StatusOK, 0
	case is(tier.ErrTooLarge):
		return http.StatusInsufficientStorage, 0
	case is(tier.ErrBusy):
		return http.StatusTooManyRequests, soon
	case is(tier.ErrNoCapacity), is(tier.ErrClosed), is(tier.ErrStuck):
		return http.StatusServiceUnavailable, soon
	case is(tier.ErrMove), is(tier.ErrDamaged), is(tier.ErrPanic):
		return http.StatusInternalServerError, 0
	case is(tier.ErrNotFound), is(tier.ErrNoCapableModel):
		return http.StatusNotFound, 0
	case is(tier.ErrExists), is(tier.ErrInUse), is(tier.ErrLimits):
		return http.StatusConflict, 0
	case is(tier.ErrInvalid):
		return http.StatusBadRequest, 0
	case is(context.Canceled):
		return statusClientClosed, 0
	case is(context.DeadlineExceeded):
		if _, never := errors.AsType[*tier.DeadlineError](err); !never {
			retryAfter = soon
		}
		return http.StatusGatewayTimeout, retryAfter
	}
	return http.StatusInternalServerError, 0
}

// wholeSeconds rounds up.
func wholeSeconds(d time.Duration) time.Duration {
	whole := d.Truncate(time.Second)
	if whole < d && whole < math.MaxInt64-time.Second {
		whole += time.Second
	}
	return whole
}

// When it is worth asking again for room that is missing.
const (
	roomSoonest = time.Second
	roomLatest  = time.Minute
	// roomUnknown is while nothing is known of what has the room, as of other programs'
	// memory, and while memory pressure is high: the averages that it is read from are of
	// 10 s.
	roomUnknown = 10 * time.Second
)

// whenRoom adds to a lack of room when it may end, see roomIn.
func (m *Manager) whenRoom(err error) error {
	switch e := err.(type) {
	case *tier.CapacityError:
		if !e.Never {
			n := *e
			n.RetryAfter = m.snap.Load().roomIn(time.Now())
			return &n
		}
	case *tier.NoCapableModelError:
		if e.Unsafe != nil {
			n := *e
			n.Unsafe = m.whenRoom(e.Unsafe)
			return &n
		}
	}
	return err
}

// roomIn returns the shortest time until something that is known may free room: a lease, a
// wait or a move may end at any time, a reservation has its term.
func (s *snapshot) roomIn(now time.Time) time.Duration {
	if s.view.Memory.Pressure.Level >= tier.PressureHigh {
		return roomUnknown
	}
	for i := range s.view.States {
		st := &s.view.States[i]
		inUse := st.Moving || st.Held || st.Waiters > 0 || s.entries[i].gate.Leases() > 0
		if (st.Tier != tier.Storage || st.Moving) && !st.Stuck && inUse && !s.view.Library.At(i).Pinned {
			return roomSoonest
		}
	}
	var until time.Time
	for _, r := range s.reserved {
		if until.IsZero() || !r.Until.IsZero() && r.Until.Before(until) {
			until = r.Until
		}
	}
	if until.IsZero() {
		return roomUnknown
	}
	return min(max(until.Sub(now), roomSoonest), roomLatest)
}
