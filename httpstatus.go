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
//	503  ErrNoCapacity, ErrClosed, ErrStuck, and ErrBusy for any other reason
//	504  context.DeadlineExceeded, *tier.DeadlineError
//	507  ErrTooLarge
//	500  any other error
func HTTPStatus(err error) (status int, retryAfter time.Duration) {
	is := func(target error) bool { return errors.Is(err, target) }
	const soon = time.Second
	if busy, ok := errors.AsType[*tier.BusyError](err); ok {
		// What is busy for another reason than a full queue says so in its own words.
		status = http.StatusServiceUnavailable
		if busy.Reason == "" {
			status = http.StatusTooManyRequests
		}
		after := busy.RetryAfter.Truncate(time.Second)
		if after < busy.RetryAfter && after < math.MaxInt64-time.Second {
			after += time.Second
		}
		return status, max(after, soon)
	}
	switch {
	case err == nil:
		return http.StatusOK, 0
	case is(tier.ErrTooLarge):
		return http.StatusInsufficientStorage, 0
	case is(tier.ErrNoCapacity), is(tier.ErrClosed), is(tier.ErrBusy), is(tier.ErrStuck):
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
