package llama

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
	yzma "github.com/hybridgroup/yzma/pkg/llama"

	"github.com/modeltier/modeltier/tier"
)

// Library is llama.cpp, loaded into this process, where it stays until the end.
type Library struct {
	dir        string
	aborted    uintptr // the C side of abort
	progressed uintptr // the C side of progress

	load chan struct{} // holds one while a model is loaded: what is said then is about it

	mu      sync.Mutex // guards the rest, and no call of llama.cpp
	said    []string
	loading *loading
	models  map[uintptr]*Model // by their number, which the C side has
	last    uintptr
}

// loading is a load under way.
type loading struct {
	ctx      context.Context
	progress func(share float64) // or nil
	takes    Memory
	panicked any // what progress did; it cannot go through frames of C
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
	l := &Library{dir: dir, load: make(chan struct{}, 1), models: make(map[uintptr]*Model)}
	l.aborted = purego.NewCallback(l.abort)
	var p yzma.ModelParams
	p.SetProgressCallback(l.progress) // which allocates a closure each time
	l.progressed = p.ProgressCallback
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

// hear keeps the last warnings and errors that llama.cpp logs, and what it says of the
// memory of a model that is loaded.
func (l *Library) hear(level int32, text *byte, _ uintptr) uintptr {
	kind := yzma.LogLevel(level)
	if kind != yzma.LogLevelInfo && kind != yzma.LogLevelWarn && kind != yzma.LogLevelError {
		return 0
	}
	line := strings.TrimSpace(goString(text))
	l.mu.Lock()
	defer l.mu.Unlock()
	if kind == yzma.LogLevelInfo {
		if l.loading != nil {
			l.loading.takes.add(line)
		}
		return 0
	}
	if line != "" {
		const most = 8
		l.said = append(l.said, line)
		l.said = l.said[max(0, len(l.said)-most):]
	}
	return 0
}

// add adds a buffer that llama.cpp says it has made, such as
//
//	load_tensors:   CPU_Mapped model buffer size =    63.40 MiB
//	llama_kv_cache:        CPU KV buffer size =     6.00 MiB
func (m *Memory) add(line string) {
	what, size, ok := strings.Cut(line, " buffer size = ")
	words := strings.Fields(what)
	if !ok || len(words) < 3 {
		return
	}
	mib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(size, "MiB")), 64)
	if err != nil || !(mib >= 0 && mib < 1<<40) {
		return
	}
	to := &m.Context
	if words[len(words)-1] == "model" {
		to = &m.Copied
		if strings.HasSuffix(words[len(words)-2], "_Mapped") {
			to = &m.Mapped
		}
	}
	*to += tier.Bytes(mib * float64(tier.MiB))
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

// begin makes what is said from now on all that there is, and about a load; nil: it has
// ended.
func (l *Library) begin(load *loading) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.loading = load; load != nil {
		l.said = nil
	}
}

// takes returns what the model that is loaded is said to take.
func (l *Library) takes() Memory {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loading.takes
}

// progress is told how far a load is, in the goroutine that loads, and ends it with 0.
func (l *Library) progress(share float32, _ uintptr) (goOn uint8) {
	l.mu.Lock()
	load := l.loading
	l.mu.Unlock()
	if load == nil {
		return 1
	}
	defer func() {
		if v := recover(); v != nil {
			load.panicked, goOn = v, 0
		}
	}()
	if load.progress != nil {
		load.progress(float64(share))
	}
	if load.ctx.Err() != nil {
		return 0
	}
	return 1
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
