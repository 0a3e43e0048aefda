package llama

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
	yzma "github.com/hybridgroup/yzma/pkg/llama"
)

// Library is llama.cpp, loaded into this process, where it stays until the end.
type Library struct {
	dir     string
	aborted uintptr // the C side of abort

	load sync.Mutex // one model is loaded at a time, so that what is said is about it

	mu     sync.Mutex // guards the rest, and no call of llama.cpp
	said   []string
	models map[uintptr]*Model // by their number, which the C side has
	last   uintptr
}

// opened is the library of this process: the binding keeps it in variables of its
// own, and a second one cannot be beside it.
var opened struct {
	sync.Mutex
	library *Library
}

// Open loads the libraries in the folder, once: another folder is an error then.
func Open(dir string) (*Library, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	opened.Lock()
	defer opened.Unlock()
	if l := opened.library; l != nil {
		if l.dir != dir {
			return nil, fmt.Errorf("this process has llama.cpp from %s, and cannot load that of %s as well", l.dir, dir)
		}
		return l, nil
	}
	if err := yzma.Load(dir); err != nil {
		return nil, fmt.Errorf("llama.cpp cannot be loaded here: %w", err)
	}
	l := &Library{dir: dir, models: make(map[uintptr]*Model)}
	l.aborted = purego.NewCallback(l.abort)
	yzma.LogSet(purego.NewCallback(l.hear))
	yzma.BackendInit()
	if err := yzma.GGMLBackendLoadAllFromPath(dir); err != nil {
		return nil, fmt.Errorf("llama.cpp has no backend here: %w", err)
	}
	if yzma.GGMLBackendRegCount() == 0 { // it would abort the process at the first load
		return nil, fmt.Errorf("%s has no libggml-cpu library that runs on this processor", dir)
	}
	opened.library = l
	return l, nil
}

// hear keeps the last warnings and errors that llama.cpp logs.
func (l *Library) hear(level int32, text *byte, _ uintptr) uintptr {
	if yzma.LogLevel(level) != yzma.LogLevelWarn && yzma.LogLevel(level) != yzma.LogLevelError {
		return 0
	}
	line := strings.TrimSpace(goString(text))
	l.mu.Lock()
	defer l.mu.Unlock()
	if line != "" {
		const most = 8
		l.said = append(l.said, line)
		l.said = l.said[max(0, len(l.said)-most):]
	}
	return 0
}

func goString(p *byte) string {
	if p == nil {
		return ""
	}
	n := 0
	const most = 1024
	for n < most && *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}

// fail returns an error with what llama.cpp said.
func (l *Library) fail(what string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Errorf("llama.cpp %s: %s", what, strings.Join(l.said, " / "))
}

// forget makes what is said from now on all that there is.
func (l *Library) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = nil
}

// number gives a model the number by which the C side names it.
func (l *Library) number(m *Model) uintptr {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	l.models[l.last] = m
	return l.last
}

func (l *Library) drop(number uintptr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.models, number)
}

// abort is asked before each part of a computation, in the goroutine that computes
// and holds the model's lock, and ends it if its request has ended.
func (l *Library) abort(number uintptr) uintptr {
	l.mu.Lock()
	m := l.models[number]
	l.mu.Unlock()
	if m != nil && m.asking != nil && m.asking.Err() != nil {
		return 1
	}
	return 0
}

// ErrClosed: the model was closed. ErrTooLong: a prompt leaves no room in the
// context of a slot. ErrNoSlot: the model has no slot of that number.
// ErrNoRestore: a file is no state of a slot that this model can take. ErrNoRoom: what a
// slot holds is more than may be saved.
// ErrNoText: a text cannot be made into tokens, or a token is none of the model's.
var (
	ErrClosed    = errors.New("the model is closed")
	ErrTooLong   = errors.New("the prompt is too long")
	ErrNoSlot    = errors.New("no such slot")
	ErrNoRestore = errors.New("the slot cannot be restored")
	ErrNoRoom    = errors.New("no room to save the slot")
	ErrNoText    = errors.New("no text for a model")
)

// TooLongError is an ErrTooLong with its numbers.
type TooLongError struct {
	Tokens  int // of the prompt
	Context int // of a slot, in tokens
}

func (e *TooLongError) Error() string {
	return fmt.Sprintf("%v: %d tokens, and a context of %d", ErrTooLong, e.Tokens, e.Context)
}

func (e *TooLongError) Unwrap() error { return ErrTooLong }
