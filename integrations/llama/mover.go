package llama

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/mapped"
)

// MoverOptions are the settings of a Mover.
type MoverOptions struct {
	// Library is llama.cpp. Required.
	Library *Library
	// Load says how a model is loaded; its Progress is not used. nil: as the zero Options
	// say, with NoRepack. It is called on any goroutine and returns at once.
	Load func(m tier.Model) Options
	// Saves is where the conversations of a model are that is unloaded: what its slots
	// hold, which its next load has again. Zero: they are lost.
	Saves Saves
	// Files are the settings of the mover of the files.
	Files mapped.Options
}

// Mover is a tier.Mover whose instances are models that live in this process: what the
// holder of a lease gets (modeltier.Instance) is a *Model.
//
//   - ram: the model is loaded, with its context, and its weights are present.
//   - swap: it stays loaded, and keeps its context; its weights, which are its mapped
//     file, are the first that the kernel takes. Where llama.cpp has copied them (see
//     Options.NoRepack, NoMmap) swap would free nothing: the model is unloaded, and Status
//     says so.
//   - storage: it is freed.
//
// The files are read and kept by a mapped.Mover: loads run at the speed of their device,
// at idle priority in the background, and can be called off; what gives way stays in the
// page cache until its room is needed.
type Mover struct {
	loader
	files  *mapped.Mover
	opts   MoverOptions
	saving chan struct{} // holds one while a model's slots are saved
}

// loader is what tier.MoverFrom makes.
type loader interface {
	tier.Mover
	tier.Instancer
	tier.Footprinter
	tier.Resident
	tier.FileBacker
	tier.ModelChecker
	tier.PartStatuser
	tier.Closer
}

var _ interface {
	loader
	tier.Cacher
} = (*Mover)(nil)

// NewMover returns a Mover. The error unwraps to tier.ErrInvalid.
func NewMover(o MoverOptions) (*Mover, error) {
	if o.Library == nil {
		return nil, &tier.InvalidError{Field: "Library", Value: "nil", Rule: "must be llama.cpp, as Open returns it"}
	}
	if err := o.Saves.check(); err != nil {
		return nil, err
	}
	if o.Load == nil {
		o.Load = func(tier.Model) Options { return Options{NoRepack: true} }
	}
	files, err := mapped.New(o.Files)
	if err != nil {
		return nil, err
	}
	m := &Mover{files: files, opts: o, saving: make(chan struct{}, 1)}
	m.loader = tier.MoverFrom(tier.Loader[*Model]{
		Load: m.load, Unload: m.unload, Sleep: m.sleep, Wake: m.wake, Size: m.size,
	}).(loader)
	return m, nil
}

// Move implements tier.Mover. A model that is to be in swap and is not loaded stays as it
// is: its first promotion loads it. Models are not divided: Move.Keep is ignored.
func (m *Mover) Move(ctx context.Context, mv tier.Move, progress func(done tier.Bytes)) error {
	if err := m.CheckModel(&mv.Model); err != nil {
		return err
	}
	if mv.From == tier.Storage && mv.To == tier.Swap && ctx.Err() == nil {
		if _, err := hotload.Inspect(mv.Model.Path); err != nil {
			return err
		}
	}
	return m.loader.Move(ctx, mv, progress)
}

// page moves the files of a model.
func (m *Mover) page(ctx context.Context, mod tier.Model, to tier.Tier, progress func(tier.Bytes)) error {
	return m.files.Move(ctx, tier.Move{Model: mod, To: to}, progress)
}

// load has the files read first, which is faster than llama.cpp is and can be called off,
// unless it copies them in any case.
func (m *Mover) load(ctx context.Context, mod tier.Model, progress func(tier.Bytes)) (*Model, error) {
	o := m.opts.Load(mod)
	if o.NoMmap {
		o.Progress = func(share float64) { progress(tier.Bytes(share * float64(mod.Size))) }
	} else if err := m.page(ctx, mod, tier.RAM, progress); err != nil {
		return nil, err
	}
	live, err := m.opts.Library.Load(ctx, mod.Path, o)
	if err != nil || live.copies() { // no more is needed of the files
		if e := m.page(context.WithoutCancel(ctx), mod, tier.Storage, nil); e != nil && err == nil {
			live.Close()
			err = e
		}
	}
	if err != nil {
		return nil, err
	}
	m.opts.Saves.restore(ctx, mod.Name, live)
	return live, nil
}

// copies reports whether more of the weights are copies than are the mapped file.
func (m *Model) copies() bool { return m.takes.Copied > m.takes.Mapped }

func (m *Mover) unload(ctx context.Context, mod tier.Model, live *Model) error {
	live.end()
	m.save(ctx, mod.Name, live)
	if err := m.page(context.WithoutCancel(ctx), mod, tier.Storage, nil); err != nil {
		live.resume()
		return err
	}
	live.Close()
	return nil
}

// longestSave is how long the slots of a model that ends are saved, one more not begun
// after it: a model is unloaded because its memory is needed.
const longestSave = 10 * time.Second

// save saves for one model after the other, so that together they keep to Saves.Max.
func (m *Mover) save(ctx context.Context, model string, live *Model) {
	ctx, cancel := context.WithTimeout(ctx, longestSave)
	defer cancel()
	select {
	case m.saving <- struct{}{}:
		defer func() { <-m.saving }()
		m.opts.Saves.save(ctx, model, live)
	case <-ctx.Done():
	}
}

func (m *Mover) sleep(ctx context.Context, mod tier.Model, live *Model) error {
	if live.copies() {
		return fmt.Errorf("llama.cpp has copied %v of its weights, and maps %v: %w", live.takes.Copied, live.takes.Mapped, errors.ErrUnsupported)
	}
	if err := live.LetGo(); err != nil {
		return err
	}
	return m.page(ctx, mod, tier.Swap, nil)
}

func (m *Mover) wake(ctx context.Context, mod tier.Model, _ *Model, progress func(tier.Bytes)) error {
	return m.page(ctx, mod, tier.RAM, progress)
}

// size counts what the files have present, and what the model has of its own.
func (m *Mover) size(mod tier.Model, live *Model) tier.Bytes {
	present, _, err := m.mapped(context.Background(), mod.Name)
	if err != nil {
		present = live.takes.Mapped
	}
	return present + live.takes.Copied + live.takes.Context
}

// Resident implements tier.Resident: of a model that serves, what is present of its files,
// if they are mapped; of one in swap, what it still has in memory, its context included.
func (m *Mover) Resident(ctx context.Context, model string) (present, reclaimable tier.Bytes, err error) {
	if live, ok := m.Instance(model).(*Model); ok && !live.copies() {
		if present, reclaimable, err = m.mapped(ctx, model); !errors.Is(err, errors.ErrUnsupported) {
			return present, reclaimable, err
		}
	}
	return m.loader.Resident(ctx, model)
}

// Cached implements tier.Cacher, as the mover of the files does.
func (m *Mover) Cached(ctx context.Context, model string) (tier.Bytes, error) {
	return m.files.Cached(ctx, model)
}

// Uncache implements tier.Cacher, as the mover of the files does.
func (m *Mover) Uncache(ctx context.Context, model string, n tier.Bytes) error {
	return m.files.Uncache(ctx, model, n)
}

// CheckModel implements tier.ModelChecker: a model needs a Path.
func (m *Mover) CheckModel(mod *tier.Model) error {
	return errors.Join(m.loader.CheckModel(mod), m.files.CheckModel(mod))
}

// Status is what a Mover tells about itself.
type Status struct {
	Live  any           `json:"live"`  // by model: its state, what it takes, and why it is not in swap
	Files mapped.Status `json:"files"` // how they are read, and what is locked and cached of them
}

// PartStatus implements tier.PartStatuser: it is a Status.
func (m *Mover) PartStatus() any {
	return Status{Live: m.loader.PartStatus(), Files: m.files.Status()}
}

// Close implements tier.Closer: it frees all models.
func (m *Mover) Close() error { return errors.Join(m.loader.Close(), m.files.Close()) }
