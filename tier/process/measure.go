package process

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/modeltier/modeltier/internal/regular"
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

	// Expected is what the engine was estimated to take with it, weights included
	// (Engine.Runtime); 0: it was not.
	Expected tier.Bytes `json:"expected,omitempty"`

	Steady tier.Bytes    `json:"steady"` // bytes when last seen to serve
	Peak   tier.Bytes    `json:"peak"`   // the most, on its way to serve or serving
	Copies bool          `json:"copies"` // its weights are not mapped files
	Start  time.Duration `json:"start_ns"`
	Starts int           `json:"starts"` // how often it was started and became ready
	Served int           `json:"served"` // how often it left ram, started or thawed before
	At     time.Time     `json:"at"`

	written tier.Bytes // Peak as the file has it
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
	// provenServed is how often a model has to have left ram before it is taken to need
	// less than an unknown one would: an engine that is ready has not yet touched all of
	// its memory.
	provenServed = 3
)

// measures is what was measured of all engines. It outlives the process in a file,
// which several processes may share: the last to write wins.
type measures struct {
	file    string     // "": nothing is kept
	writing sync.Mutex // held while the file is written; mu is not

	mu   sync.Mutex // guards the rest, what the measures hold included
	list []*measure
}

// load reads what earlier processes have measured. New calls it.
func (ms *measures) load() error {
	if ms.file == "" {
		return nil
	}
	f, info, err := regular.Open(ms.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if info.Size() > maxMeasuresFile {
		return fmt.Errorf("%s has more than %d MiB", ms.file, maxMeasuresFile>>20)
	}
	var list []measure
	if err := json.NewDecoder(io.LimitReader(f, maxMeasuresFile)).Decode(&list); err != nil {
		return fmt.Errorf("%s is damaged: %w", ms.file, err)
	}
	for _, x := range list {
		if x.Expected >= 0 && x.Steady >= 0 && x.Peak >= x.Steady && x.Size >= 0 && x.Starts >= 0 && x.Served >= 0 {
			x.written = x.Peak
			ms.list = append(ms.list, &x)
		}
	}
	ms.forgetOldest()
	return nil
}

// forgetOldest keeps the latest maxMeasures. ms.mu is held, or there is no one else yet.
func (ms *measures) forgetOldest() {
	slices.SortStableFunc(ms.list, func(a, b *measure) int { return b.At.Compare(a.At) })
	ms.list = ms.list[:min(len(ms.list), maxMeasures)]
}

// of returns the measure of an engine with a model, without figures if there are none yet.
func (ms *measures) of(like measure) *measure {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for _, x := range ms.list {
		if x.of(&like) {
			x.Expected = like.Expected
			return x
		}
	}
	like.At = time.Now()
	ms.list = append(ms.list, &like)
	ms.forgetOldest()
	return &like
}

// get returns a copy.
func (ms *measures) get(x *measure) measure {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return *x
}

// learn records in x what was seen of an engine that serves, and writes the file if that
// says something new. started: it has become ready in that time; 0: it was ready before.
func (ms *measures) learn(x *measure, takes tier.Bytes, copies bool, started time.Duration) error {
	ms.mu.Lock()
	x.Steady, x.Peak, x.At = takes, max(x.Peak, takes), time.Now()
	// Without an engine, it serves another model by now, as far as the Manager knows.
	news := x.Engine != "" && (started > 0 || x.Copies != copies || x.Peak-x.written > x.written/100)
	x.Copies = copies
	if started > 0 {
		x.Start = started
		x.Starts++
	}
	ms.mu.Unlock()
	if !news || ms.file == "" {
		return nil
	}
	return ms.write()
}

// served records that an engine leaves ram.
func (ms *measures) served(x *measure) error {
	ms.mu.Lock()
	x.Served++
	news := x.Engine != "" && x.Served == provenServed
	ms.mu.Unlock()
	if !news || ms.file == "" {
		return nil
	}
	return ms.write()
}

func (ms *measures) write() error {
	ms.writing.Lock()
	defer ms.writing.Unlock()
	ms.mu.Lock()
	for _, x := range ms.list {
		x.written = x.Peak
	}
	b, err := json.MarshalIndent(ms.list, "", "\t")
	ms.mu.Unlock()
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

// forecast returns what an engine should take with a model, and what it was seen to take.
// The first is what it took and a twentieth, as buffers grow with what is asked for; else
// what was estimated, or as many times that as the same engine took with others of the
// same quantisation, if it took more; else, without an estimate, its size times what the
// engine took for a byte of those; else what is assumed of any.
func (ms *measures) forecast(like *measure) (takes, seen tier.Bytes) {
	unknown := cmp.Or(like.Expected, like.Size.Plus(unknownRuntime(like.Size)))
	ms.mu.Lock()
	defer ms.mu.Unlock()
	perByte, perExpected := 0.0, 1.0
	for _, x := range ms.list {
		switch {
		case x.of(like) && x.Peak > 0 && x.Served < provenServed:
			return max(unknown, x.Peak), x.Peak
		case x.of(like) && x.Peak > 0:
			return x.Peak.Plus(x.Peak / 20), x.Peak
		case x.Engine == like.Engine && x.Quantisation == like.Quantisation && x.Size >= minScaled && x.Starts > 0:
			perByte = max(perByte, float64(x.Peak)/float64(x.Size))
			if x.Expected > 0 {
				perExpected = max(perExpected, float64(x.Peak)/float64(x.Expected))
			}
		}
	}
	switch {
	case like.Size < minScaled:
		return unknown, 0
	case like.Expected > 0:
		return tier.Bytes(min(float64(unknown)*perExpected, 1<<60)), 0
	case perByte > 0:
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
	like := measure{Engine: engineID(e), Path: model.Path, Size: model.Size, Quantisation: model.Labels[QuantisationLabel]}
	if e.Runtime > 0 {
		like.Expected = model.Size.Plus(e.Runtime)
	}
	return like
}

// Forecast implements tier.Forecaster. What an engine takes is measured whenever it
// becomes ready and while it serves, and kept in Options.StateDir by engine, its
// program, and model. Of a model that it never served, it is Engine.Runtime beyond the
// weights, or more if the engine took more than that with others of the same quantisation
// (see QuantisationLabel); without an estimate, what it took for a byte of those, or 256
// MiB and an eighth of the weights beyond the weights.
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

// learn records what a running engine takes, and returns it; see measures.learn.
func (m *Mover) learn(s *slot, c *child, seen *sight, started time.Duration) tier.Bytes {
	m.mu.Lock()
	x, gone := s.learned, s.child != c
	m.mu.Unlock()
	takes := seen.needs()
	if gone || seen.usage.own() == 0 { // what has just exited has nothing; or nothing is seen here
		return takes
	}
	if err := m.measures.learn(x, takes, seen.weights > 0 && !seen.maps() && seen.hidden == nil, started); err != nil {
		m.notKept(s, err)
	}
	return takes
}

func (m *Mover) notKept(s *slot, err error) {
	m.log.Warn("what an engine takes cannot be kept for the next start", "model", s.name, "err", err)
}

// recall takes up what is known of the engine and model of a slot, if it does not know
// yet. The slot's move calls it.
func (m *Mover) recall(s *slot) {
	like := measureOf(&s.engine, &s.model)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !s.learned.of(&like) {
		s.learned = m.measures.of(like)
	}
}

func (m *Mover) learnedOf(s *slot) measure {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.measures.get(s.learned)
}
