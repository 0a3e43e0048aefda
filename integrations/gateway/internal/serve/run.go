package serve

import (
	"bytes"
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
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway"
	"github.com/modeltier/modeltier/integrations/gateway/access"
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/integrations/gateway/engines"
	"github.com/modeltier/modeltier/integrations/gateway/room"
	"github.com/modeltier/modeltier/tier"
	"github.com/spf13/cobra"
)

// Command returns the command that serves a folder of models, or a configuration.
func Command() *cobra.Command {
	return command(&cobra.Command{
		Use:   "serve",
		Short: "Serve a folder of models, or those of a configuration",
		Example: "  modeltier serve -models FOLDER -engine 'llama-server -m {path} --mmproj {mmproj} --port {port}'\n" +
			"  modeltier serve -config modeltier.yaml",
	}, &options{})
}

// DemoCommand returns the command that serves a library of its own making.
func DemoCommand() *cobra.Command {
	return command(&cobra.Command{
		Use:   "demo",
		Short: "Serve a small library that is made for it, and print what to try",
	}, &options{demo: true})
}

func command(c *cobra.Command, o *options) *cobra.Command {
	fs := flag.NewFlagSet(c.Use, flag.ContinueOnError)
	o.bind(fs)
	c.Flags().AddGoFlagSet(fs)
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w (%w)", err, ErrUsage) })
	c.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("%q is no flag; the folder of models is given with -models (%w)", args[0], ErrUsage)
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := o.settle(c.Flags().Changed, os.LookupEnv); err != nil {
			return err
		}
		if os.Getpid() == 1 {
			os.Exit(runAsInit())
		}
		stop, now, again := signals()
		return run(stop, now, again, o, os.LookupEnv, c.OutOrStdout(), c.ErrOrStderr())
	}
	return c
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

// run is the server from its options to its end: in order when stop ends, at
// once when now does. It reloads what it serves for each value of again.
func run(stop, now context.Context, again <-chan os.Signal, opts *options, env func(string) (string, bool), stdout, stderr io.Writer) error {
	supervisor := newSupervisor(env)
	e := environment{at: env}
	e.hide(tokenVariable, notifyVariable)
	if opts.token != "" {
		e.hidden[tokenVariable] = opts.token // that of -token as well
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: opts.level()}))
	opts.env = e.lookup
	var warned bytes.Buffer
	f, err := opts.readConfig(&warned)
	if err != nil { // else it is read again, and told then
		warned.WriteTo(stderr)
		return err
	}
	e.hideKeys(f)
	lns, err := access.Listen(opts.addresses(f), opts.token != "" || len(f.Keys) > 0)
	if err != nil {
		if len(f.Listen) == 0 {
			err = fmt.Errorf("-addr: %w", err)
		}
		return err
	}
	defer func() {
		for _, ln := range lns {
			ln.Close()
		}
	}()
	admits := func(f *config.File) (access.Options, error) {
		return accessOf(opts.token, f, access.Local(lns), e.lookup)
	}
	admitted, err := admits(f)
	if err != nil {
		return err
	}
	guard, err := access.New(admitted)
	if err != nil {
		return err
	}
	serving, err := startWithin(startLimit, stop, now, func() (func() error, error) {
		lib, err := openLibrary(stop, opts, stderr)
		if err != nil {
			return nil, err
		}
		r := &reloader{open: lib.again, lib: lib, supervisor: supervisor, said: stdout, told: stderr, admit: func(f *config.File) (func() error, error) {
			e.hideKeys(f)
			admitted, err := admits(f)
			if err != nil {
				return nil, err
			}
			_, err = access.New(admitted)
			return func() error { return guard.Set(admitted) }, err
		}}
		// The file may be another one than the guard was made by.
		apply, err := r.admit(lib.file)
		if err == nil {
			err = apply()
		}
		if err != nil {
			return nil, err
		}
		answering := startFiles
		if lib.engines != nil {
			answering = startEngines
		}
		h, err := answering(lib, r, log)
		if err != nil {
			return nil, err
		}
		pin(stop, r.manager, &config.File{}, lib.file, stderr)
		status := r.manager.Status()
		lib.tellLeftOut(stderr, status)
		lib.warn(stderr)
		lib.introduce(stdout, status, lns, len(admitted.Keys) > 0)
		return func() error {
			end := r.start(stop, again)
			defer end()
			return serve(stop, now, lns, guard.Handler(h), r.manager, grace(lib.file), log)
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

// noEngines is what asks of models are answered if there are only files.
var noEngines = room.Problem{
	Status: http.StatusNotImplemented, Code: "no_engine",
	Message:     "This server has no engine: it keeps files in memory, and nothing answers for their models",
	Suggestions: []string{"Start it with -engine, such as -engine 'llama-server -m {path} --port {port}', or with -config."},
}

// startFiles returns what answers for files.
func startFiles(lib *library, r *reloader, log *slog.Logger) (http.Handler, error) {
	var err error
	r.manager, err = modeltier.New(lib.config(log))
	if err != nil {
		return nil, err
	}
	return gateway.New(r.manager, gateway.Config{Room: room.Options{Refusal: &noEngines, Logger: log}}), nil
}

// config is the Manager's.
func (lib *library) config(log *slog.Logger) modeltier.Config {
	return modeltier.Config{
		Models: lib.models, Aliases: lib.aliases, Limits: lib.limits, Probe: lib.probe, StateDir: lib.state,
		ModelDir: lib.dir, Follow: lib.follow, WatchModelDir: lib.watch, Verify: lib.verify, Logger: log,
		KeepAlive: lib.file.KeepAlive.Duration(), StandbyFor: time.Duration(lib.file.StandbyFor), MaxWait: time.Duration(lib.file.Timeouts.Wait),
	}
}

// stuckAfter is longer than an engine may take to save its conversations (30 s), stop
// (5 s) and, if it does not, be killed (10 s): the Manager's Close waits for no more.
const stuckAfter = 50 * time.Second

// startEngines returns what answers with engines that are programs.
func startEngines(lib *library, r *reloader, log *slog.Logger) (http.Handler, error) {
	var manager atomic.Pointer[modeltier.Manager]
	crashed := func(model string, cause error) {
		if m := manager.Load(); m != nil {
			if err := m.ReportCrash(model, cause); err != nil && !errors.Is(err, modeltier.ErrClosed) {
				log.Warn("a crash was not taken note of", "model", model, "err", err)
			}
		}
	}
	state := lib.state
	if state != "" {
		state = filepath.Join(state, "engines")
	}
	mover, err := engines.New(engines.Options{
		Engines: lib.engines, Default: folderEngine(lib.file), StateDir: state, Timeouts: lib.file.Timeouts, Crashed: crashed, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	c := lib.config(log)
	c.Mover, c.Movers, c.StuckAfter = mover, make(map[string]tier.Mover), stuckAfter
	for name := range lib.engines {
		if name != "" { // that of -engine
			c.Movers[name] = mover
		}
	}
	m, err := modeltier.New(c)
	if err != nil {
		return nil, errors.Join(err, mover.Close())
	}
	manager.Store(m)
	r.manager, r.engines, r.rules = m, mover, &rules{manager: m}
	r.rules.set(lib.file)
	return gateway.New(m, gateway.Config{Room: room.Options{Parallel: r.rules.parallel, ModelClass: r.rules.class, Logger: log}}), nil
}

// serve answers requests until stop ends, and then ends in order: no new
// connections, waiting requests get an error, those that are served have grace to
// finish. When that is over, or now ends, it ends at once, with an error that
// says so. Either way the Manager is closed when serve returns.
func serve(stop, now context.Context, lns []net.Listener, h http.Handler, m *modeltier.Manager, grace time.Duration, log *slog.Logger) error {
	srv := access.Server(h, log)
	failed := make(chan error, len(lns))
	for _, ln := range lns {
		go func() { failed <- srv.Serve(ln) }()
	}
	select {
	case err := <-failed:
		return errors.Join(err, srv.Close(), m.Close())
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
