// Command engine is a test engine: it serves one GGUF model over HTTP with
// llama.cpp, for modeltier's tests, its demo and first steps. For anything else there
// is llama-server, whose flags and answers it takes over as far as it has them.
//
//	engine -m model.gguf --port 8081
//
// It has OpenAI's completions, chat and embeddings, streams included; llama-server's
// /tokenize, /health, /slots and the saving and restoring of slots
// (--slot-save-path). Chat is by the template in the file. An answer is greedy unless
// its request has a temperature, and the same prompt in the same state gives the same
// tokens. Requests wait in a queue for one of -np slots, which take turns, a token
// each.
//
// With --no-repack, llama.cpp makes no copies of weights, which it does on some
// processors for some kinds of weights, and what it maps is all there is; with
// --no-mmap nothing is mapped. A folder of libraries (-libs) without the libggml-cpu
// of a processor has llama.cpp run as on the next lesser one.
//
// The libraries of llama.cpp are fetched with npm if they are not there yet; with
// -fetch that is all it does. It needs libffi.so.8 (Debian: libffi8).
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/modeltier/modeltier/integrations/llama"
	"github.com/modeltier/modeltier/integrations/llama/server"
	"github.com/modeltier/modeltier/tier"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:], os.Stderr)
	if err == nil {
		err = run(ctx, o, load)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "engine:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	path, host, libs string
	port             int
	fetch            bool
	load             llama.Options
	saves            llama.Saves
	maxTokens        int // of an answer whose request does not say
}

// parse reads the flags. Those of llama-server have its names, with one dash or two.
func parse(args []string, stderr io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("engine", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintln(stderr, "A test engine: it serves one GGUF model with llama.cpp, for tests and first steps.")
		fs.PrintDefaults()
	}
	text := func(to *string, value, usage string, names ...string) {
		for _, name := range names {
			fs.StringVar(to, name, value, usage)
			usage = "the same as -" + names[0] + " `...`"
		}
	}
	number := func(to *int, value int, usage string, names ...string) {
		for _, name := range names {
			fs.IntVar(to, name, value, usage)
			usage = "the same as -" + names[0] + " `...`"
		}
	}
	text(&o.path, "", "the GGUF `FILE`", "m", "model")
	text(&o.host, "127.0.0.1", "listen on this `ADDRESS`", "host")
	number(&o.port, 8081, "listen on this `PORT`", "port")
	number(&o.load.Context, 512, "context in `TOKENS`, which the slots share; 0: the model's own", "c", "ctx-size")
	number(&o.load.Threads, 0, "this many `THREADS` compute; 0: one for each CPU", "t", "threads")
	number(&o.load.Slots, 1, "answer this `MANY` requests at once, in slots", "np", "parallel")
	number(&o.maxTokens, 64, "the most `TOKENS` of an answer whose request does not say; negative: until its slot is full", "n", "predict")
	fs.BoolVar(&o.load.NoMmap, "no-mmap", false, "read the weights into memory, and do not map the file")
	fs.BoolVar(&o.load.NoRepack, "no-repack", false, "make no copies of weights in another order for this processor")
	text(&o.saves.Dir, "", "the `FOLDER` that slots are saved in and restored from; without it they are not", "slot-save-path")
	savesMiB := 0
	number(&savesMiB, 8<<10, "save no slot that makes the files of its folder more than `MIB` together", "slot-save-max")
	text(&o.libs, "", "the `FOLDER` of llama.cpp's libraries (default one in the user's cache, where they are put)", "libs")
	fs.BoolVar(&o.fetch, "fetch", false, "fetch the libraries, say where they are, and end")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	o.load.Threads, o.load.Slots = max(o.load.Threads, 0), max(o.load.Slots, 0) // llama-server's -1 is its default
	o.saves.Max = tier.Bytes(savesMiB) * tier.MiB
	switch info, err := os.Stat(o.saves.Dir); {
	case fs.NArg() > 0:
		return o, fmt.Errorf("%q is no flag", fs.Arg(0))
	case o.path == "" && !o.fetch:
		return o, errors.New("-m is needed: the GGUF file to serve")
	case o.saves.Dir != "" && (err != nil || !info.IsDir()):
		return o, fmt.Errorf("--slot-save-path: %s is no folder", o.saves.Dir)
	case savesMiB <= 0 || savesMiB > 1<<30:
		return o, fmt.Errorf("--slot-save-max: %d is no number of MiB", savesMiB)
	}
	return o, nil
}

// run serves what load returns, until ctx ends.
func run(ctx context.Context, o options, load func(ctx context.Context, o options) (*llama.Model, error)) error {
	if o.libs == "" {
		var err error
		if o.libs, err = fetched(ctx); err != nil {
			return err
		}
	}
	if o.fetch {
		fmt.Println(o.libs)
		_, err := llama.Open(o.libs)
		return err
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(o.host, strconv.Itoa(o.port)))
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "engine: a test engine for %s, on http://%s\n", o.path, ln.Addr())
	var serving atomic.Pointer[llama.Model]
	srv := &http.Server{Handler: handler(o, &serving), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 2)
	go func() { failed <- srv.Serve(ln) }()
	// A load that the kernel reads in one piece is ended by the end of the process only.
	loaded := make(chan *llama.Model, 1)
	go func() {
		if model, err := load(ctx, o); err != nil {
			failed <- err
		} else {
			loaded <- model
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return srv.Close()
	case model := <-loaded:
		defer model.Close()
		serving.Store(model)
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	return errors.Join(srv.Shutdown(grace), srv.Close())
}

// handler answers requests with the model, once there is one.
func handler(o options, model *atomic.Pointer[llama.Model]) http.Handler {
	name := filepath.Base(o.path)
	acquire := func(_ context.Context, asked string) (server.Use, error) {
		m := model.Load()
		if m == nil {
			return server.Use{}, &tier.BusyError{Reason: "Loading model", RetryAfter: time.Second}
		}
		return server.Use{Name: cmp.Or(asked, name), Model: m}, nil
	}
	return server.Handler(server.Config{
		Acquire: acquire, Ready: func() error { _, err := acquire(context.Background(), ""); return err },
		Models: func() []string { return []string{name} },
		Saves:  o.saves, MaxTokens: o.maxTokens,
	})
}

func load(ctx context.Context, o options) (*llama.Model, error) {
	library, err := llama.Open(o.libs)
	if err != nil {
		return nil, err
	}
	return library.Load(ctx, o.path, o.load)
}

// fetched returns the folder of the libraries in the user's cache.
func fetched(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("%w: set it, or name a folder with -libs", err)
	}
	return llama.Fetch(ctx, filepath.Join(cache, "modeltier", "llama"))
}
