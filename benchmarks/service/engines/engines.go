// Package engines are the three kinds of engine that the service of
// benchmarks/service has, whichever way it is written: a transcriber and an
// embedder in this process, and a chat engine that is a program of its own.
// Each works through a part of its weights for an answer, so that an answer
// tells whether they are all there and its own.
//
// The three names that matter: Make writes the models' files, Answer is what is
// to come of an input, and ServeChat is the program.
package engines

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"
)

// Model is one of the service's models.
type Model struct {
	Name, Kind, Path string
	Size, Runtime    int64 // bytes
}

// Takes is the memory that it is given while it serves.
func (m *Model) Takes() int64 { return m.Size + m.Runtime }

// The kinds.
const (
	Transcribe = "transcribe"
	Embed      = "embed"
	Chat       = "chat"
)

// Tokens is how many steps an answer of a kind has.
var Tokens = map[string]int{Transcribe: 4, Embed: 1, Chat: 8}

// Pace is how long a token takes beside the work of reading weights, as a model that
// computes more would, give or take a half. It is set once, when the program begins.
var Pace time.Duration

// Crash is the input at which a chat engine ends in the middle of its answer.
const Crash = "crash"

// EngineHeader has the address of the chat engine that answered.
const EngineHeader = "X-Engine"

// runtimeBytes is what each is given beside its weights. A Go program that
// serves HTTP takes most of it.
const runtimeBytes = 24 << 20

// Models are the five, of size bytes of weights each, with their files in dir.
func Models(dir string, size int64) []Model {
	var models []Model
	for _, m := range []Model{{Name: "chat-a", Kind: Chat}, {Name: "embed-a", Kind: Embed}, {Name: "chat-b", Kind: Chat}, {Name: "embed-b", Kind: Embed}, {Name: "speech", Kind: Transcribe}} {
		m.Path, m.Size, m.Runtime = filepath.Join(dir, m.Name), size, runtimeBytes
		models = append(models, m)
	}
	return models
}

// Make returns Models, and writes their files.
func Make(dir string, size int64) ([]Model, error) {
	models := Models(dir, size)
	for i, m := range models {
		weights := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(weights) // it never fails
		if err := os.WriteFile(m.Path, weights, 0o600); err != nil {
			return nil, err
		}
	}
	return models, nil
}

// A step reads this many blocks of weights.
const (
	blocks    = 32
	blockSize = 16 << 10
)

// step is one token of the answer to an input.
func step(weights io.ReaderAt, size int64, input string, i int) (string, error) {
	at := rand.New(rand.NewPCG(uint64(crc32.ChecksumIEEE([]byte(input))), uint64(i)))
	sum, block := crc32.NewIEEE(), make([]byte, blockSize)
	for range blocks {
		if _, err := weights.ReadAt(block, at.Int64N(size-blockSize)); err != nil {
			return "", err
		}
		_, _ = sum.Write(block) // it never fails
	}
	if Pace > 0 {
		time.Sleep(Pace/2 + time.Duration(at.Int64N(int64(Pace))))
	}
	return fmt.Sprintf("%08x\n", sum.Sum32()), nil
}

// Answer writes what a model of a kind answers, a token at a time.
func Answer(w io.Writer, kind string, weights io.ReaderAt, size int64, input string) error {
	for i := range Tokens[kind] {
		token, err := step(weights, size, input, i)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, token); err != nil {
			return err
		}
	}
	return nil
}

// Copy is an engine in this process that copies its weights.
type Copy struct {
	mu      sync.RWMutex
	weights []byte
}

// LoadCopy reads the weights of a file. When ctx ends it gives up.
func LoadCopy(ctx context.Context, path string, size int64, progress func(done int64)) (*Copy, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	e := &Copy{weights: make([]byte, size)}
	for done := int64(0); done < size; {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		n, err := io.ReadFull(f, e.weights[done:min(done+1<<20, size)])
		if err != nil {
			return nil, err
		}
		done += int64(n)
		progress(done)
	}
	return e, nil
}

// ReadAt reads weights; after Close it fails.
func (e *Copy) ReadAt(p []byte, off int64) (int, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.weights == nil {
		return 0, os.ErrClosed
	}
	return copy(p, e.weights[off:]), nil
}

// Size is that of the weights.
func (e *Copy) Size() int64 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return int64(len(e.weights))
}

// Close gives the memory back, at once, as an engine in C would.
func (e *Copy) Close() {
	e.mu.Lock()
	e.weights = nil
	e.mu.Unlock()
	debug.FreeOSMemory()
}

// ServeChat is the chat engine: it maps the weights of a file and answers on a port of
// the loopback address until it is killed. Its health page is /health.
func ServeChat(path, port string) error {
	weights, err := mapFile(path)
	if err != nil {
		return err
	}
	const page = 4096
	all := uint64(0)
	for at := 0; at+8 <= len(weights); at += page { // every page is read, as a first prompt would
		all ^= binary.LittleEndian.Uint64(weights[at:])
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, all) })
	mux.HandleFunc("POST /chat", func(w http.ResponseWriter, r *http.Request) {
		input, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set(EngineHeader, listener.Addr().String())
		for i := range Tokens[Chat] {
			token, err := step(readerAt(weights), int64(len(weights)), string(input), i)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			if _, err := io.WriteString(w, token); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			if string(input) == Crash && i == 1 {
				os.Exit(3)
			}
		}
	})
	// How the driver ends an engine that was left behind.
	mux.HandleFunc("POST /exit", func(http.ResponseWriter, *http.Request) { os.Exit(0) })
	return http.Serve(listener, mux)
}

type readerAt []byte

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return copy(p, r[off:]), nil }

// ErrNoAnswer is a chat engine that did not begin to answer.
var ErrNoAnswer = errors.New("the engine does not answer")

// Relay passes the input on to the chat engine at url, and its answer to w as it comes.
func Relay(w http.ResponseWriter, r *http.Request, url string, input []byte) error {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, url+"/chat", bytes.NewReader(input))
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return errors.Join(ErrNoAnswer, err)
	}
	defer res.Body.Close()
	w.Header().Set(EngineHeader, res.Header.Get(EngineHeader))
	part := make([]byte, 1024)
	for {
		n, err := res.Body.Read(part)
		if n > 0 {
			if _, err := w.Write(part[:n]); err != nil {
				return err
			}
			_ = http.NewResponseController(w).Flush()
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
