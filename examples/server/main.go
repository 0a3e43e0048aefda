package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier/mapped"
)

func main() {
	stop, now := signals()
	err := run(stop, now, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr)
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

// signals returns a context that ends with the first SIGINT or SIGTERM, and one
// that ends with the second.
func signals() (stop, now context.Context) {
	stop, ended := context.WithCancelCause(context.Background())
	now, hurried := context.WithCancelCause(context.Background())
	caught := make(chan os.Signal, 2)
	signal.Notify(caught, os.Interrupt, syscall.SIGTERM)
	go func() {
		ended(fmt.Errorf("ended by %v", <-caught))
		time.Sleep(echo)
		for len(caught) > 0 {
			<-caught
		}
		hurried(fmt.Errorf("ended at once by a second %v", <-caught))
	}()
	return stop, now
}

// run is the server from its arguments to its end: in order when stop ends, at
// once when now does.
func run(stop, now context.Context, args []string, env func(string) (string, bool), stdout, stderr io.Writer) error {
	opts, err := parse(args, env, stderr)
	if err != nil {
		return err
	}
	os.Unsetenv(tokenVariable) // engines get what is left of the environment
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: opts.level()}))
	ln, err := listen(opts.addr, opts.token)
	if err != nil {
		return err
	}
	defer ln.Close()
	lib, err := openLibrary(stop, opts, stderr)
	if err != nil {
		return err
	}
	if lib.engines != nil {
		return runEngines(stop, now, lib, opts, ln, log, stdout, stderr)
	}
	return runFiles(stop, now, lib, opts, ln, log, stdout)
}

// runFiles serves files, and the digests of what is in them.
func runFiles(stop, now context.Context, lib *library, opts *options, ln net.Listener, log *slog.Logger, stdout io.Writer) error {
	// The mover is made here, and not left to the Manager, because it is what gives
	// the holder of a lease the weights.
	weights, err := mapped.New(mapped.Options{})
	if err != nil {
		return err
	}
	manager, err := modeltier.New(modeltier.Config{
		Models:   lib.models,
		Limits:   lib.limits,
		Mover:    weights,
		StateDir: lib.state,
		ModelDir: lib.dir,
		Logger:   log,
	})
	if err != nil {
		return err
	}
	lib.introduce(stdout, manager.Status(), ln.Addr(), opts.token != "")
	return serve(stop, now, ln, guard(opts.token, handler(manager, weights)), manager, log)
}

// runEngines serves models with engines that are programs.
func runEngines(stop, now context.Context, lib *library, opts *options, ln net.Listener, log *slog.Logger, stdout, stderr io.Writer) error {
	loads := &loads{}
	manager, engines, known, err := newEngines(lib, loads.events(), log)
	if err != nil {
		return err
	}
	lib.introduce(stdout, manager.Status(), ln.Addr(), opts.token != "")
	if lib.again != nil {
		again := make(chan os.Signal, 1)
		signal.Notify(again, syscall.SIGHUP)
		defer signal.Stop(again)
		ctx, cancel := context.WithCancel(stop)
		r := &reloader{open: lib.again, manager: manager, engines: known, state: lib.state, said: stdout, told: stderr}
		var reloads sync.WaitGroup
		reloads.Go(func() { r.run(ctx, again, opts.config) })
		defer reloads.Wait()
		defer cancel()
	}
	p := newProxy(manager, loads, engines.URL, log)
	return serve(stop, now, ln, guard(opts.token, p.handler()), manager, log)
}
