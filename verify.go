package modeltier

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/internal/digest"
	"github.com/modeltier/modeltier/tier"
)

// checking is how the files of a load are held against their digests, beside the mover
// that reads them.
type checking struct {
	m      *Manager
	before map[string]digest.Identity // of the files, before the mover began
	stop   context.CancelFunc
	done   chan struct{}
	// What was found, once done is closed.
	damage *tier.DigestError
	err    error
}

var errOtherFiles = errors.New("its files changed while it was loaded")

// check begins to check the files of a move that loads a model, those that are not known
// yet. It returns nil if there is nothing to check, and the damage if some is known
// already. progress is called as files are read.
func (m *Manager) check(ctx context.Context, mv *tier.Move, progress func()) (*checking, *tier.DigestError) {
	if !m.cfg.Verify || mv.From != tier.Storage || mv.To == tier.Storage || len(mv.Model.Digests) == 0 {
		return nil, nil
	}
	c := &checking{m: m, before: make(map[string]digest.Identity), done: make(chan struct{})}
	var unknown []string
	for i := range 1 + len(mv.Model.Parts) {
		path := mv.Model.Path
		if i > 0 {
			path = mv.Model.Parts[i-1]
		}
		unknown = c.look(path, &mv.Model, unknown)
	}
	for path := range mv.Model.Digests { // in a folder that an engine is given
		unknown = c.look(path, &mv.Model, unknown)
	}
	if damage := m.damage(&mv.Model); damage != nil {
		return nil, damage
	}
	ctx, c.stop = context.WithCancel(ctx)
	m.goroutines.Go(func() {
		defer close(c.done)
		defer c.stop()
		c.read(ctx, &mv.Model, unknown, progress)
	})
	return c, nil
}

// look identifies a file that has a digest, and adds it to unknown if it was not read
// since it became what it is.
func (c *checking) look(path string, model *tier.Model, unknown []string) []string {
	if _, seen := c.before[path]; seen || model.Digests[path].SHA256 == "" {
		return unknown
	}
	id, err := digest.Identify(path)
	if err != nil {
		c.err = errors.Join(c.err, unread(path, err))
	}
	c.before[path] = id
	if c.m.sums.Forget(path, id) {
		unknown = append(unknown, path)
	}
	return unknown
}

func unread(path string, err error) error {
	return fmt.Errorf("%.200q cannot be held against its digest: %w", path, err)
}

// read reads files one after the other, in the order in which a mover does: what one has
// read the other finds in the page cache. It ends with the first that is damaged.
func (c *checking) read(ctx context.Context, model *tier.Model, files []string, progress func()) {
	for _, path := range files {
		if c.err != nil {
			return
		}
		sum, id, err := digest.Sum(ctx, path, progress)
		switch {
		case errors.Is(err, digest.ErrChanged), err == nil && id != c.before[path]:
			c.err = errOtherFiles
		case err != nil:
			c.err = unread(path, err)
		default:
			c.m.sums.Know(path, id, sum)
			if c.damage = c.m.damage(model); c.damage != nil {
				return
			}
		}
	}
}

// end waits for the check of a load whose mover has returned, and adds to its outcome what
// came of it. It returns the damage, if there is some.
func (c *checking) end(ctx context.Context, out *core.Outcome) *tier.DigestError {
	if out.Err != nil {
		c.stop()
		return nil
	}
	select {
	case <-c.done:
	case <-ctx.Done(): // a read that hangs is left to itself
		out.Unverified, out.CalledOff = context.Cause(ctx), core.CalledOff(context.Cause(ctx))
		return nil
	}
	out.Unverified = c.err
	for path, was := range c.before {
		if now, err := digest.Identify(path); c.err == nil && (err != nil || now != was) {
			out.Unverified = errOtherFiles
		}
	}
	switch {
	case out.Unverified == nil && c.damage != nil:
		out.Unverified = c.damage
		return c.damage
	case ctx.Err() != nil:
		out.CalledOff = core.CalledOff(context.Cause(ctx))
	}
	out.Again = errors.Is(out.Unverified, errOtherFiles)
	return nil
}

// intact returns the name of the version of a damaged model that was current before it, if
// its files are there still and none is known to be damaged; "": there is none. It is not
// for the loop.
func (m *Manager) intact(damaged *tier.Model) string {
	lib := m.snap.Load().view.Library
	i, ok := lib.Find(damaged.Name)
	if !ok || lib.At(i).Name != damaged.Name || lib.At(i).VersionOf != "" {
		return ""
	}
	for _, j := range slices.Backward(lib.Versions(i)[1:]) {
		older := lib.At(j)
		if older.Version != damaged.Version && m.damage(older) == nil && m.cfg.stillThere([]tier.Model{*older})[0] == nil {
			return older.Name
		}
	}
	return ""
}

// fallBack rolls a damaged model back to an older version, which those who wait get.
func (c *control) fallBack(e *core.Entry, older string) {
	to, kept := c.core.Named(older)
	if e.Quarantine() == nil || !kept {
		return
	}
	if err := c.core.Rollback(e, to, true, c.now); err != nil {
		c.m.log.Warn("a damaged model is not rolled back", "model", e.Model.Name, "to", older, "err", err)
		return
	}
	c.m.log.Warn("a damaged model is rolled back", "model", e.Model.Name, "to", older)
	c.keep(func() {})
}

// damage returns a file of the model that did not hold what it should when it was last
// read; nil: none is known. It reads nothing, and does not wait.
func (m *Manager) damage(model *tier.Model) *tier.DigestError {
	var found *tier.DigestError
	for path, want := range model.Digests {
		got := m.sums.Last(path)
		if got != "" && got != want.SHA256 && (found == nil || path < found.Path) {
			found = &tier.DigestError{Model: model.Name, Path: path, Want: want.SHA256, Got: got, Source: want.Source}
		}
	}
	return found
}

// judge has a model in quarantine while a file of it is known to be damaged.
func (c *control) judge(e *core.Entry) {
	if !c.m.cfg.Verify {
		return
	}
	was, now := e.Quarantine(), c.m.damage(&e.Model)
	if was != nil && now != nil && *was == *now {
		return
	}
	c.core.Quarantine(e, now)
}

// checked takes up what was found of the files of a model that was to be loaded.
func (c *control) checked(e *core.Entry) {
	if c.judge(e); e.Quarantine() != nil {
		q := e.Quarantine()
		c.m.log.Error("a model's file is damaged: the model is not loaded", "model", q.Model, "file", q.Path, "sha256", q.Got, "want", q.Want, "by", q.Source)
	}
	if c.m.sums.Changes() != c.keeping.sums {
		c.keep(func() {})
	}
}

// judgeAll is judge for all models.
func (c *control) judgeAll() {
	for _, e := range c.core.Entries() {
		c.judge(e)
	}
}

// lookLimit is how long the file system may take to tell what the files of a model are.
const lookLimit = time.Second

// lookAgain sees whether the files of a model in quarantine are others by now, which ends
// it. Then then is called, unless the loop has ended.
func (c *control) lookAgain(e *core.Entry, then func()) {
	paths := make([]string, 0, len(e.Model.Digests))
	for path := range e.Model.Digests {
		paths = append(paths, path)
	}
	c.m.files.ask(lookLimit, func(ctx context.Context) error {
		for _, path := range paths {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if id, err := digest.Identify(path); err == nil || errors.Is(err, fs.ErrNotExist) {
				c.m.sums.Forget(path, id)
			}
		}
		return nil
	}, func(error) { // what was not looked at stays as it is
		c.m.post(func(time.Time) {
			c.judge(e)
			then()
		})
	})
}

// lookAgainAtAll is lookAgain for all models in quarantine.
func (c *control) lookAgainAtAll() {
	if !c.m.cfg.Verify {
		return
	}
	for _, e := range c.core.Entries() {
		if e.Quarantine() != nil {
			c.lookAgain(e, func() {})
		}
	}
}

// lookAgain is for an order that would load a model: it waits for a look at the files of one
// in quarantine.
func (m *Manager) lookAgain(ctx context.Context, name string) error {
	_, err := ask(ctx, m, func(_ time.Time, reply func(struct{}, error)) {
		done := func() { reply(struct{}{}, nil) }
		if e, ok := m.ctl.core.Find(name); ok && e.Quarantine() != nil {
			m.ctl.lookAgain(e, done)
		} else {
			done()
		}
	})
	return err
}
