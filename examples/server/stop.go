package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/modeltier/modeltier"
)

// grace is how long requests have to end once the server is told to stop.
const grace = 30 * time.Second

// takeLimit is how long an answer may take: a request may wait minutes for its model
// and then read gigabytes. It only lets go, some day, of a client that does not take
// its answer. One that flows, as a stream does, has it anew with each part.
const takeLimit = 30 * time.Minute

// flowing is an answer that may take for ever, as long as it flows.
type flowing struct{ http.ResponseWriter }

func (f flowing) Write(p []byte) (int, error) {
	f.goOn()
	return f.ResponseWriter.Write(p)
}

// FlushError is for http.ResponseController.
func (f flowing) FlushError() error {
	f.goOn()
	return http.NewResponseController(f.ResponseWriter).Flush()
}

func (f flowing) goOn() {
	// Where there is no deadline to set, there is no connection.
	_ = http.NewResponseController(f.ResponseWriter).SetWriteDeadline(time.Now().Add(takeLimit))
}

// Unwrap is for http.ResponseController, too.
func (f flowing) Unwrap() http.ResponseWriter { return f.ResponseWriter }

// serve answers requests until stop ends, and then ends in order: no new
// connections, waiting requests get an error, those that are served have grace to
// finish. When that is over, or now ends, it ends at once, with an error that
// says so. Either way the Manager is closed when serve returns.
func serve(stop, now context.Context, ln net.Listener, h http.Handler, m *modeltier.Manager, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		WriteTimeout:      takeLimit,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	select {
	case err := <-failed:
		return errors.Join(err, m.Close())
	case <-stop.Done():
	}
	log.Info("stopping", "why", context.Cause(stop), "grace", grace)

	ctx, cancel := context.WithTimeoutCause(now, grace, fmt.Errorf("requests were still running %v after the server was told to stop, and were cut off", grace))
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- srv.Shutdown(ctx) }()
	// At the same time, because it is what answers the requests that wait.
	err := errors.Join(m.Shutdown(ctx), <-closed)
	if ctx.Err() == nil {
		return err
	}
	return errors.Join(context.Cause(ctx), srv.Close(), m.Close())
}
