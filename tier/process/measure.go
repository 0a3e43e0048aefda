package process

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// QuantisationLabel is the label of a model that tells its quantisation, such as
// "Q4_K_M". What an engine takes for a byte of weights depends on it: some copy the
// weights of some quantisations.
const QuantisationLabel = "quantisation"

// measure is what one engine was seen to take with one model.
type measure struct {
	Engine string `json:"engine"` // see engineID
	// Path and Size are the model's, Quantisation its label.
	Path         string     `json:"path"`
	Size         tier.Bytes `json:"size"`
	Quantisation string     `json:"quantisation,omitempty"`

	Steady tier.Bytes    `json:"steady"` // bytes when last seen to serve
	Peak   tier.Bytes    `json:"peak"`   // the most, on its way to serve or serving
	Copies bool          `json:"copies"` // its weights are not mapped files
	Start  time.Duration `json:"start_ns"`
	Starts int           `json:"starts"` // how often it became ready
	At     time.Time     `json:"at"`
}

// of reports whether it is about that engine and model.
func (a *measure) of(b *measure) bool {
	return a.Engine == b.Engine && a.Path == b.Path && a.Size == b.Size
}

const (
	// measuresFile holds what was measured, in Options.StateDir.
	measuresFile = "measured.json"
	// maxMeasures bounds what is kept: the latest.
	maxMeasures = 1024
	// maxMeasuresFile bounds the file.
	maxMeasuresFile = 4 << 20
	// minScaled is the size from which on what an engine took tells what it takes for a
	// byte: with less, most of it is the engine itself.
	minScaled = 256 * tier.MiB
	// provenStarts is how many starts have to be seen before a model is taken to need
	// less than an unknown one would: an engine that is ready has not yet touched all
	// of its memory.
	provenStarts = 3
)

// measures is what was measured of all engines. It outlives the process in a file,
// which several processes may share: the last to write wins.
type measures struct {
	file string // "": nothing is kept

	mu   sync.Mutex // guards the rest, and the file
	list []measure
}

// load reads what earlier processes have measured.
func (ms *measures) load() error {
	if ms.file == "" {
		return nil
	}
	info, err := os.Stat(ms.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxMeasuresFile) {
		err = fmt.Errorf("%s is no file of at most %d MiB", ms.file, maxMeasuresFile>>20)
	}
	if err != nil {
		return err
	}
	b, err := os.ReadFile(ms.file)
	if err != nil {
		return err
	}
	var list []measure
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("%s is damaged: %w", ms.file, err)
	}
	ms.list = slices.DeleteFunc(list, func(x measure) bool { return x.Steady < 0 || x.Peak < x.Steady || x.Size < 0 || x.Starts < 0 })
	return nil
}

// index returns where the measure of the same engine and model is, or -1. ms.mu is held.
func (ms *measures) index(like *measure) int {
	return slices.IndexFunc(ms.list, func(x measure) bool { return x.of(like) })
}

// known returns what was measured of an engine with a model.
func (ms *measures) known(like *measure) (measure, bool) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if i := ms.index(like); i >= 0 {
		return ms.list[i], true
	}
	return measure{}, false
}

// keep records a measure, and writes the file if that says something new.
func (ms *measures) keep(now measure) error {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	i := ms.index(&now)
	if i < 0 {
		ms.list = append(ms.list, now)
	} else {
		was := ms.list[i]
		ms.list[i] = now
		if now.Starts == was.Starts && now.Copies == was.Copies && now.Peak-was.Peak <= was.Peak/100 {
			return nil
		}
	}
	slices.SortStableFunc(ms.list, func(a, b measure) int { return b.At.Compare(a.At) })
	ms.list = ms.list[:min(len(ms.list), maxMeasures)]
	if ms.file == "" {
		return nil
	}
	b, err := json.MarshalIndent(ms.list, "", "\t")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(ms.file), measuresFile+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), ms.file)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// unknownRuntime is what an engine is taken to need beyond the weights of a model while
// nothing was measured: a floor, and an eighth of the weights for what grows with them
// (the cache of a context of 4096 tokens takes about that, with grouped attention).
func unknownRuntime(size tier.Bytes) tier.Bytes { return 256*tier.MiB + size/8 }

// forecast returns what an engine should take with a model: what it took and a twentieth,
// as buffers grow with what is asked for, else its size
// times what the same engine took for a byte of others with the same quantisation,
// else what is assumed of any; and what it was seen to take.
func (ms *measures) forecast(like *measure) (takes, seen tier.Bytes) {
	unknown := like.Size.Plus(unknownRuntime(like.Size))
	if own, ok := ms.known(like); ok && own.Peak > 0 {
		if own.Starts < provenStarts {
			return max(unknown, own.Peak), own.Peak
		}
		return own.Peak.Plus(own.Peak / 20), own.Peak
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	perByte := 0.0
	for i := range ms.list {
		if x := &ms.list[i]; x.Engine == like.Engine && x.Quantisation == like.Quantisation && x.Size >= minScaled {
			perByte = max(perByte, float64(x.Peak)/float64(x.Size))
		}
	}
	if perByte > 0 && like.Size >= minScaled {
		return tier.Bytes(min(float64(like.Size)*perByte, 1<<60)), 0
	}
	return unknown, 0
}

// engineID identifies an engine and its version: what is started, how, and the size and
// time of the program's file.
func engineID(e *Engine) string {
	if len(e.Command) == 0 {
		return ""
	}
	id := struct {
		Command, Env     []string
		Dir              string
		Threads, Context int
		Size, Time       int64
	}{e.Command, e.Env, e.Dir, e.Threads, e.Context, 0, 0}
	if path, err := exec.LookPath(e.Command[0]); err == nil {
		if info, err := os.Stat(path); err == nil {
			id.Size, id.Time = info.Size(), info.ModTime().UnixNano()
		}
	}
	b, _ := json.Marshal(&id) // plain strings and numbers
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// measureOf returns the measure of an engine with a model, without figures.
func measureOf(e *Engine, model *tier.Model) measure {
	return measure{Engine: engineID(e), Path: model.Path, Size: model.Size, Quantisation: model.Labels[QuantisationLabel]}
}

// Forecast implements tier.Forecaster. What an engine takes is measured whenever it
// becomes ready and while it serves, and kept in Options.StateDir by engine, its
// program, and model. Of a model that it never served, it is what the same engine took
// for a byte of others of the same quantisation (see QuantisationLabel), and without
// those 256 MiB and an eighth of the weights beyond the weights.
func (m *Mover) Forecast(model *tier.Model) (takes, seen tier.Bytes) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	engine, err := m.opts.engineOf(ctx, *model)
	if err != nil {
		return 0, 0
	}
	like := measureOf(&engine, model)
	return m.measures.forecast(&like)
}

// learn records what a running engine takes, and returns it. started: it has become
// ready in that time; 0: it was ready before.
func (m *Mover) learn(s *slot, seen *sight, started time.Duration) tier.Bytes {
	m.mu.Lock()
	l := &s.learned
	l.Steady = seen.needs()
	l.Peak = max(l.Peak, l.Steady)
	l.Copies = seen.weights > 0 && !seen.maps()
	l.At = time.Now()
	if started > 0 {
		l.Start = started
		l.Starts++
	}
	now := *l
	m.mu.Unlock()
	if now.Engine == "" { // it serves another model by now, as far as the Manager knows
		return now.Steady
	}
	if err := m.measures.keep(now); err != nil {
		m.log.Warn("what an engine takes cannot be kept for the next start", "model", s.name, "err", err)
	}
	return now.Steady
}

// recall takes up what is known of the engine and model of a slot, if it does not know
// yet. The slot's move calls it.
func (m *Mover) recall(s *slot) {
	like := measureOf(&s.engine, &s.model)
	m.mu.Lock()
	same := s.learned.of(&like)
	m.mu.Unlock()
	if same {
		return
	}
	known, ok := m.measures.known(&like)
	if !ok {
		known = like
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.learned = known
}

func (m *Mover) learnedOf(s *slot) measure {
	m.mu.Lock()
	defer m.mu.Unlock()
	return s.learned
}
