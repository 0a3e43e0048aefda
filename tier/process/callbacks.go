package process

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/modeltier/modeltier/internal/outbox"
	"github.com/modeltier/modeltier/tier"
)

// callLimit is how long the user's code may go on after it should have returned.
const callLimit = time.Second

// guarded calls the user's code on a goroutine of its own. A panic in it, or its end
// of the goroutine, is a *tier.PanicError of that part. If it has not returned
// callLimit after ctx ended, it is abandoned; so it must write nothing that the
// caller reads after an error.
func guarded(ctx context.Context, part string, call func() error) error {
	result := make(chan error, 1)
	go func() {
		var err error
		returned := false
		defer func() {
			if !returned {
				err = &tier.PanicError{Part: part, Value: recover(), Stack: debug.Stack()}
			}
			result <- err
		}()
		err = call()
		returned = true
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	limit := time.NewTimer(callLimit)
	defer limit.Stop()
	select {
	case err := <-result:
		return err
	case <-limit.C:
		return fmt.Errorf("%s has not returned %v after it was cancelled: %w", part, callLimit, context.Cause(ctx))
	}
}

// logs delivers to the user's logger. Lines of engines have a queue of their own, so
// that a flood of them displaces no record.
type logs struct {
	records, lines *slog.Logger
	boxes          [2]*outbox.Box
}

func newLogs(to *slog.Logger) *logs {
	l := &logs{records: slog.New(slog.DiscardHandler), lines: slog.New(slog.DiscardHandler)}
	for i, logger := range []**slog.Logger{&l.records, &l.lines} {
		l.boxes[i] = outbox.New(outbox.Size, nil)
		if to != nil {
			*logger = l.boxes[i].Logger(to.Handler())
		}
	}
	return l
}

// dropped returns how many records and lines were not delivered.
func (l *logs) dropped() (n int64) {
	for _, box := range l.boxes {
		n += box.Dropped()
	}
	return n
}

// close waits for what is queued, callLimit at most.
func (l *logs) close() {
	began := time.Now()
	for _, box := range l.boxes {
		box.Close(max(callLimit-time.Since(began), 0))
	}
}
