// Command inprocess is an OpenAI-compatible server whose models live in its own process,
// in llama.cpp: more of them than its memory holds. There is no engine beside it that is
// started, watched or killed, and no port but its own.
//
//	go run ./examples/inprocess                    five demo models in the memory of two
//	go run ./examples/inprocess -models ~/models -ram 6
//
// It is what a Go program that infers itself has to write: which models there are, how one
// is loaded, and how much memory they may have. The rest is the Manager's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/integrations/llama"
	"github.com/modeltier/modeltier/integrations/llama/server"
	"github.com/modeltier/modeltier/tier"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "listen on this `ADDRESS`")
	dir := flag.String("models", "", "serve the GGUF models of this `FOLDER`; without it, five demo models")
	ram := flag.Float64("ram", 0, "let models have this many `GiB`; 0: what two of the demo models take, or 5")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *dir, tier.Bytes(*ram*float64(tier.GiB))); err != nil {
		fmt.Fprintln(os.Stderr, "inprocess:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, dir string, ram tier.Bytes) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	cache = filepath.Join(cache, "modeltier", "llama")
	libs, err := llama.Fetch(ctx, cache)
	if err != nil {
		return err
	}
	isDemo := dir == ""
	if isDemo {
		if dir, err = demoModels(ctx, filepath.Join(cache, "inprocess")); err != nil {
			return err
		}
	}
	models, err := modelsOf(ctx, dir)
	if err != nil {
		return err
	}
	if isDemo && ram == 0 {
		ram = 2*(models[0].Size+models[0].Runtime) + tier.MiB
	}
	m, err := manager(libs, models, ram)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return errors.Join(err, m.Close())
	}
	fmt.Fprintf(os.Stderr, "inprocess: %d models, http://%s/v1 and /status\n", len(models), listener.Addr())
	return serve(ctx, listener, m)
}

// serve serves until ctx ends, and closes m.
func serve(ctx context.Context, listener net.Listener, m *modeltier.Manager) error {
	srv := &http.Server{Handler: routes(m), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(listener) }()
	var err error
	select {
	case err = <-served:
	case <-ctx.Done(): // what is being answered has five seconds, and its models until then
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	}
	return errors.Join(err, m.Close())
}

// How a model is loaded: for four requests at once, its weights mapped and not copied, so
// that they can be given back under a live model.
var load = llama.Options{Context: 4 * 512, Slots: 4, NoRepack: true}

// modelsOf returns the models of a folder, with what they will take beyond their weights.
func modelsOf(ctx context.Context, dir string) ([]tier.Model, error) {
	models, _, err := hotload.Scan(ctx, dir)
	for i := range models {
		m := &models[i]
		e, bad := hotload.Estimate(m.Path, hotload.EstimateOptions{Engine: hotload.LlamaLibrary, Context: load.Context, Slots: load.Slots, NoRepack: true}, m.Parts...)
		if bad != nil {
			return nil, bad
		}
		m.Runtime = e.Runtime()
	}
	if err == nil && len(models) == 0 {
		err = fmt.Errorf("there are no models in %s", dir)
	}
	return models, err
}

// manager returns a Manager whose models live in this process.
func manager(libs string, models []tier.Model, ram tier.Bytes) (*modeltier.Manager, error) {
	library, err := llama.Open(libs)
	if err != nil {
		return nil, err
	}
	mover, err := llama.NewMover(llama.MoverOptions{Library: library, Load: func(tier.Model) llama.Options { return load }})
	if err != nil {
		return nil, err
	}
	return modeltier.New(modeltier.Config{Models: models, Mover: mover, Limits: tier.Limits{RAM: ram}})
}

// routes answers each request with the model that it leases.
func routes(m *modeltier.Manager) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/status", m.Handler())
	mux.Handle("/", server.Handler(server.Config{
		Acquire: func(ctx context.Context, name string) (server.Use, error) {
			req := modeltier.Request{Model: name}
			if name == tier.AutoName {
				req.Model = ""
			}
			lease, err := m.Acquire(ctx, req)
			if err != nil {
				return server.Use{}, err
			}
			live, ok := modeltier.Instance[*llama.Model](lease)
			if !ok {
				lease.Release()
				return server.Use{}, llama.ErrClosed
			}
			return server.Use{Name: lease.Model().Name, Model: live, Release: lease.Release}, nil
		},
		Models: func() (names []string) {
			for model := range m.Models() {
				names = append(names, model.Name)
			}
			return names
		},
	}))
	return mux
}
