package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier/mapped"
)

func main() {
	if os.Getpid() == 1 {
		os.Exit(runAsInit())
	}
	stop, now, again := signals()
	err := run(stop, now, again, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr)
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

// echo is how soon after a signal another one is the same: a supervisor may send
// it to the process and to its group.
const echo = 250 * time.Millisecond

// signals returns a context that ends with the first SIGINT or SIGTERM, one that ends
// with the second, and what receives SIGHUP: from here on that ends the server no more.
func signals() (stop, now context.Context, again <-chan os.Signal) {
	stop, ended := context.WithCancelCause(context.Background())
	now, hurried := context.WithCancelCause(context.Background())
	caught, hangups := make(chan os.Signal, 2), make(chan os.Signal, 1)
	signal.Notify(caught, os.Interrupt, syscall.SIGTERM)
	signal.Notify(hangups, syscall.SIGHUP)
	// Nothing takes these: who read our output may have left. To ignore them would have
	// engines ignore them, too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	go func() {
		ended(fmt.Errorf("ended by %v", <-caught))
		time.Sleep(echo)
		for len(caught) > 0 {
			<-caught
		}
		hurried(fmt.Errorf("ended at once by a second %v", <-caught))
	}()
	return stop, now, hangups
}

// startLimit is how long a start-up may go on once the server was told to end. It may
// be stuck, in a file system that does not answer.
const startLimit = 5 * time.Second

// run is the server from its arguments to its end: in order when stop ends, at
// once when now does. It reloads what it serves for each value of again.
func run(stop, now context.Context, again <-chan os.Signal, args []string, env func(string) (string, bool), stdout, stderr io.Writer) error {
	opts, err := parse(args, env, stderr)
	if err != nil {
		return err
	}
	supervisor := newSupervisor(env)
	// Engines get what is left of the environment.
	os.Unsetenv(tokenVariable)
	os.Unsetenv(notifyVariable)
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: opts.level()}))
	ln, err := listen(opts.addr, opts.token)
	if err != nil {
		return err
	}
	defer ln.Close()
	serving, err := startWithin(startLimit, stop, now, func() (func() error, error) {
		lib, err := openLibrary(stop, opts, stderr)
		if err != nil {
			return nil, err
		}
		lib.verify = opts.verify
		r := &reloader{open: lib.again, state: lib.state, supervisor: supervisor, said: stdout, told: stderr}
		answering := startFiles
		if lib.engines != nil {
			answering = startEngines
		}
		h, err := answering(lib, r, log)
		if err != nil {
			return nil, err
		}
		status := r.manager.Status()
		lib.tellLeftOut(stderr, status)
		lib.introduce(stdout, status, ln.Addr(), opts.token != "")
		return func() error {
			end := r.start(stop, again, opts.config)
			defer end()
			return serve(stop, now, ln, guard(opts.token, h), r.manager, log)
		}, nil
	})
	if err != nil {
		return err
	}
	supervisor.tell(ready)
	told := make(chan struct{})
	untell := context.AfterFunc(stop, func() {
		defer close(told)
		supervisor.tell(stopping)
	})
	defer func() {
		if !untell() {
			<-told // a server without requests ends faster than that is said
		}
	}()
	return serving()
}

// startWithin returns what start does. If stop ends before, start has limit left to
// return, and no time once now ends.
func startWithin(limit time.Duration, stop, now context.Context, start func() (func() error, error)) (func() error, error) {
	type result struct {
		serve func() error
		err   error
	}
	started := make(chan result, 1)
	go func() {
		serve, err := start()
		started <- result{serve, err}
	}()
	select {
	case r := <-started:
		return r.serve, r.err
	case <-stop.Done():
	}
	select {
	case r := <-started:
		return r.serve, r.err
	case <-now.Done():
	case <-time.After(limit):
	}
	return nil, fmt.Errorf("%w while it was starting", context.Cause(stop))
}

// startFiles returns what answers for files, and gives digests of their contents.
func startFiles(lib *library, r *reloader, log *slog.Logger) (http.Handler, error) {
	// The mover is made here, and not left to the Manager, because the holder of a
	// lease gets the weights from it.
	weights, err := mapped.New(mapped.Options{})
	if err != nil {
		return nil, err
	}
	r.manager, err = modeltier.New(modeltier.Config{
		Models:   lib.models,
		Limits:   lib.limits,
		Mover:    weights,
		StateDir: lib.state,
		ModelDir: lib.dir, Follow: lib.follow, WatchModelDir: lib.watch,
		Verify: lib.verify,
		Logger: log,
	})
	if err != nil {
		return nil, err
	}
	return handler(r.manager, weights), nil
}

// startEngines returns what answers with engines that are programs.
func startEngines(lib *library, r *reloader, log *slog.Logger) (http.Handler, error) {
	manager, engines, err := newEngines(lib, log)
	if err != nil {
		return nil, err
	}
	r.manager, r.engines = manager, engines
	return newProxy(manager, useOf(engines), log).handler(), nil
}

// grace is how long requests have to end once the server is told to stop.
const grace = 30 * time.Second

// takeLimit is how long an answer may take: a request may wait minutes for its model
// and then read gigabytes. It only lets go, some day, of a client that does not take
// its answer. One that flows, as a stream does, has it again with each part.
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
