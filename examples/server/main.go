// Command server serves the JSON contract over model files: the smallest whole server
// around a Manager, for those who embed one. Every model of a folder can be asked for, and
// memory holds as many as it has room for.
//
//	go run ./examples/server -models FOLDER
//	curl -s 127.0.0.1:8080 -d '{"auto_select": true}'
//
// This file is the life of the server: it starts, answers, and ends in order. handler.go is
// what it answers: the Manager's own Handler, and GET /first/NAME, which does with a model
// what any server does: it takes a lease, uses what serves the model, and gives the lease
// back. Nothing infers here; your code stands where this reads the first bytes.
//
// It listens on loopback, and asks no one for a key: package access of
// integrations/gateway does that. The command modeltier, there, is the front end of engines
// that are programs.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/modeltier/modeltier"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "listen on this `HOST:PORT`")
	models := flag.String("models", ".", "serve the GGUF and safetensors files in this `FOLDER`")
	state := flag.String("state", "", "remember models and limits in this `FOLDER`")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	if err := run(ctx, *addr, *models, *state, log); err != nil {
		log.Error("the server has ended", "err", err)
		os.Exit(1)
	}
}

// run serves a folder of models until ctx ends.
func run(ctx context.Context, addr, models, state string, log *slog.Logger) error {
	// The zero values are good ones: files are mapped, and limits are those of an 8 GB board.
	m, err := modeltier.New(modeltier.Config{ModelDir: models, WatchModelDir: true, StateDir: state, Logger: log})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return errors.Join(err, m.Close())
	}
	log.Info("listening", "url", "http://"+ln.Addr().String(), "models", len(m.Status().Models))
	return serve(ctx, ln, m)
}

// grace is how long requests have to end once the server is told to stop.
const grace = 30 * time.Second

// serve answers requests until ctx ends, and then ends in order: the Manager answers those
// that wait, those that are served have grace, and then it is closed.
func serve(ctx context.Context, ln net.Listener, m *modeltier.Manager) error {
	srv := &http.Server{Handler: handler(m), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	select {
	case err := <-failed:
		return errors.Join(err, m.Close())
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- srv.Shutdown(ctx) }()
	err := errors.Join(m.Shutdown(ctx), <-closed)
	return errors.Join(err, srv.Close(), m.Close())
}
