// Command engine serves one GGUF model over HTTP with llama.cpp, as small as an
// engine can be: a health page, and completions, chat and embeddings in the shape
// of OpenAI's, streams included. It is what modeltier's tests and its example
// server run where there is no llama-server.
//
//	engine -m model.gguf -port 8081
//
// Its answers are greedy, and its chat is the messages one after the other. The
// libraries of llama.cpp are fetched with npm where they are not there yet; with
// -fetch that is all it does.
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
	"strconv"
	"syscall"
	"time"

	"github.com/modeltier/modeltier/integrations/llama"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	path := flag.String("m", "", "the GGUF `FILE`")
	port := flag.Int("port", 8081, "listen on this `PORT` of the loopback address")
	libs := flag.String("libs", "", "the `FOLDER` of llama.cpp's libraries (default one in the user's cache, where they are put)")
	fetch := flag.Bool("fetch", false, "fetch the libraries, say where they are, and end")
	size := flag.Int("c", 512, "context, in `TOKENS`")
	threads := flag.Int("t", 0, "this many `THREADS` generate (default one for each CPU)")
	flag.Parse()
	if *libs == "" {
		var err error
		if *libs, err = fetched(ctx); err != nil {
			return err
		}
	}
	if *fetch {
		fmt.Println(*libs)
		_, err := llama.Open(*libs)
		return err
	}
	if *path == "" {
		return errors.New("-m is needed: the GGUF file to serve")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(*port))
	if err != nil {
		return err
	}
	e := &engine{}
	srv := &http.Server{Handler: e.routes(), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	library, err := llama.Open(*libs)
	if err != nil {
		return err
	}
	model, err := library.Load(*path, *size, *threads)
	if err != nil {
		return err
	}
	defer model.Close()
	e.model.Store(model)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	return errors.Join(srv.Shutdown(grace), srv.Close())
}

// fetched returns the folder of the libraries in the user's cache.
func fetched(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("%w: set it, or name a folder with -libs", err)
	}
	return llama.Fetch(ctx, filepath.Join(cache, "modeltier", "llama"))
}
