package modeltier

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/tier"
)

// library is what the Manager's models come from, but for hot loads: what their owner
// declared, and what is found in Config.ModelDir if that is watched.
type library struct {
	// turn is held while the models become others. It guards the rest.
	turn     chan struct{}
	watcher  *hotload.Watcher // nil: the folder is not watched
	declared []tier.Model     // by Config or Reconfigure
	found    []tier.Model     // in the folder, in the order of their coming
	// vanished are found no more and were in use when that was last seen.
	vanished []tier.Model
	due      bool                  // found has changed since the last remake
	last     map[string]tier.Model // what the last remake went by
	hidden   map[string]hotload.Skipped
	left     []hotload.Skipped // by the watcher
}

// take waits for the turn, until ctx ends. The caller calls release.
func (l *library) take(ctx context.Context) (release func(), err error) {
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// open reads the folder for the first time. names are those that its models had before,
// by path, others the models that come from elsewhere until the Manager runs.
func (l *library) open(m *Manager, cfg *Config, names map[string]string, others []tier.Model) error {
	l.turn, l.declared = make(chan struct{}, 1), cfg.Models
	if !cfg.WatchModelDir {
		return nil
	}
	elsewhere := func() []tier.Model {
		if m.snap.Load() != nil {
			others = l.elsewhere(m.snap.Load().view.Library)
		}
		return others
	}
	w, err := hotload.NewWatcher(cfg.ModelDir, names, elsewhere, cfg.Follow...)
	if err != nil {
		return err
	}
	c, err := w.Scan(m.ctx)
	if err != nil {
		return err
	}
	l.watcher = w
	l.apply(c)
	return nil
}

// names returns those of the models of the folder, by path.
func (l *library) names() map[string]string {
	out := make(map[string]string, len(l.found))
	for i := range l.found {
		out[l.found[i].Path] = l.found[i].Name
	}
	return out
}

// elsewhere returns the models that do not come from the folder. What a model of the folder
// was before, or was rolled back to, is none of them.
func (l *library) elsewhere(lib *tier.Library) []tier.Model {
	here := byName(l.found)
	out := slices.Clone(l.declared)
	for _, model := range lib.All() {
		f, found := here[model.Name]
		if ours := found && (f.Path == model.Path || f.Path == l.last[model.Name].Path); !ours && model.VersionOf == "" {
			out = append(out, *model)
		}
	}
	return out
}

// apply takes up what has changed in the folder.
func (l *library) apply(c hotload.Change) {
	gone := byName(c.Removed)
	at := make(map[string]int, len(l.found))
	kept := l.found[:0]
	for _, m := range l.found {
		if _, removed := gone[m.Name]; removed {
			l.vanished = append(l.vanished, m)
			continue
		}
		at[m.Name] = len(kept)
		kept = append(kept, m)
	}
	l.found = kept
	for _, m := range slices.Concat(c.Changed, c.Added) {
		if i, known := at[m.Name]; known {
			l.found[i] = m
		} else {
			l.found = append(l.found, m)
		}
	}
	here := byName(l.found)
	l.vanished = slices.DeleteFunc(l.vanished, func(m tier.Model) bool {
		_, back := here[m.Name] // it came back, or is at another path by now
		return back
	})
	l.left, l.due = c.LeftOut, true
}

// admit returns those found that do not stand in the way of what is declared, and why
// others do. A file that a declared model is of is that model.
func (l *library) admit(declared []tier.Model) (out []tier.Model, hidden map[string]hotload.Skipped) {
	hidden = make(map[string]hotload.Skipped)
	if len(l.found) == 0 {
		return nil, hidden
	}
	named, files := byName(declared), make(map[string]bool, len(declared))
	for i := range declared {
		if path := declared[i].Path; path != "" {
			if abs, err := filepath.Abs(path); err == nil {
				files[abs] = true
			}
		}
	}
	for _, m := range l.found {
		if files[m.Path] {
			continue
		}
		if _, taken := named[m.Name]; taken {
			hide(hidden, &m, fmt.Sprintf("is called as the model %q of the configuration: rename the one or the other", m.Name))
			continue
		}
		out = append(out, m)
	}
	return out, hidden
}

func hide(hidden map[string]hotload.Skipped, m *tier.Model, reason string) {
	hidden[m.Name] = hotload.Skipped{Path: m.Path, Reason: reason}
}

func hideForAlias(hidden map[string]hotload.Skipped, m *tier.Model, of string) {
	hide(hidden, m, fmt.Sprintf("is called as the alias %q of %q: rename the file, or remove the alias", m.Name, of))
}

// shown reports whether a model that was hidden for an alias may not be any more.
func (l *library) shown(aliases map[string]string, lib *tier.Library) bool {
	for name := range l.hidden {
		_, alias := aliases[name]
		if _, model := lib.Find(name); !alias && !model {
			return true
		}
	}
	return false
}

// tellLeftOut has Status show what is in the folder and not in the library.
func (m *Manager) tellLeftOut() {
	l := &m.library
	if l.watcher == nil {
		return
	}
	var out []hotload.Skipped
	for _, model := range l.vanished {
		out = append(out, hotload.Skipped{Path: model.Path, Reason: fmt.Sprintf("is not there any more: its model %q leaves when it is idle", model.Name)})
	}
	for _, s := range l.hidden {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b hotload.Skipped) int { return strings.Compare(a.Path, b.Path) })
	m.SetLeftOut(append(out, l.left...))
}

// watchFolder looks at the folder until the Manager is closed.
func (m *Manager) watchFolder() {
	ticker := time.NewTicker(hotload.DefaultInterval)
	defer ticker.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-ticker.C:
		}
		if m.closing.Load() {
			return
		}
		if err := m.lookAtFolder(m.ctx); err != nil && !errors.Is(err, tier.ErrClosed) {
			m.log.Error("what has changed in the folder of models was not taken up, and is tried again", "folder", m.cfg.ModelDir, "err", err)
		}
	}
}

// lookAtFolder takes up what has changed in the folder and has come to rest.
func (m *Manager) lookAtFolder(ctx context.Context) error {
	l := &m.library
	release, err := l.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if c, news := l.watcher.Look(ctx); news {
		m.logLeftOut(c.Skipped)
		l.apply(c)
	}
	lib := m.snap.Load().view.Library
	if !l.due && len(l.vanished) == 0 && !l.shown(lib.Aliases(), lib) {
		return nil
	}
	_, err = m.remake(ctx, l.declared, nil)
	return err
}

// awaitFiles waits for files in the folder to come to rest and to be taken up, if they are
// what a model does not load for. It reports whether another attempt is due.
func (m *Manager) awaitFiles(ctx context.Context, failed *tier.Model) bool {
	l := &m.library
	if l.watcher == nil || asFound(failed) {
		return false
	}
	release, err := l.take(ctx)
	if err != nil {
		return false
	}
	ours := slices.ContainsFunc(l.found, func(f tier.Model) bool { return f.Name == failed.Name && f.Path == failed.Path })
	release()
	if !ours {
		return false
	}
	if n := m.waiting.Add(1); n > int64(m.cfg.MaxQueue) {
		m.waiting.Add(-1)
		return false // others wait in its place: it gets its error
	}
	defer m.waiting.Add(-1)
	ticker := time.NewTicker(hotload.DefaultInterval / 4)
	defer ticker.Stop()
	for limit := time.Now().Add(m.cfg.MaxWait); time.Now().Before(limit); {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		case <-m.ctx.Done():
			return false
		}
		if m.closing.Load() {
			return true // which says so
		}
		now, known := m.Model(failed.Name)
		if !known || now.Path != failed.Path || now.Version != failed.Version || asFound(failed) {
			return true
		}
	}
	return false
}

// asFound reports whether the files of a model have the size that it has.
func asFound(m *tier.Model) bool {
	var size int64
	for _, path := range append([]string{m.Path}, m.Parts...) {
		info, err := os.Stat(path)
		if err != nil {
			return false
		}
		if info.Mode().IsRegular() {
			size += info.Size()
		}
	}
	return tier.Bytes(size) == m.Size
}

// maxToldLeftOut bounds how many files that are left out are logged at once.
const maxToldLeftOut = 20

func (m *Manager) logLeftOut(skipped []hotload.Skipped) {
	for i, s := range skipped {
		if i == maxToldLeftOut {
			m.log.Warn("more is left out of the library", "files", len(skipped)-i)
			return
		}
		m.log.Warn("left out of the library", "path", s.Path, "reason", s.Reason)
	}
}

// remake has the library be what was declared and what was found, and the limits those,
// if they are not nil. Its caller has the turn.
func (m *Manager) remake(ctx context.Context, declared []tier.Model, limits *tier.Limits) (Reconfiguration, error) {
	l := &m.library
	found, hidden := l.admit(declared)
	w := wanted{models: slices.Concat(declared, found), declared: len(declared), vanished: l.vanished, hidden: hidden, names: l.names()}
	if err := m.describe(ctx, &w); err != nil {
		return Reconfiguration{}, err
	}
	changed := false
	if limits != nil {
		var err error
		if changed, err = ask(ctx, m, func(_ time.Time, reply func(bool, error)) {
			if err := m.ctl.aliased(declared); err != nil {
				reply(false, err)
				return
			}
			m.ctl.relimit(*limits, reply)
		}); err != nil {
			return Reconfiguration{}, err
		}
		l.declared = declared // from here on it is carried out, waited for or not
	}
	got, err := ask(ctx, m, func(now time.Time, reply func(remade, error)) { m.ctl.reconfigure(&w, now, reply) })
	if err != nil {
		return Reconfiguration{}, err
	}
	l.vanished, l.hidden, l.last = got.inUse, got.hidden, got.said
	l.due = false
	m.tellLeftOut()
	got.Limits = changed
	return got.Reconfiguration, nil
}

// wanted is what the library is to be.
type wanted struct {
	models   []tier.Model // the first are declared, the others found
	declared int          // how many are
	traits   []core.Traits
	vanished []tier.Model // they leave unless they are in use
	hidden   map[string]hotload.Skipped
	names    map[string]string // of all that was found, by path
}

// remade is what it has become.
type remade struct {
	Reconfiguration
	said   map[string]tier.Model // what it went by
	inUse  []tier.Model          // of those that have vanished
	hidden map[string]hotload.Skipped
}

// describe asks the mover about the models that are new or others than before. One that
// was found and that the mover refuses is hidden.
func (m *Manager) describe(ctx context.Context, w *wanted) error {
	var asked []tier.Model
	var at []int
	for i := range w.models {
		model := &w.models[i]
		if last, known := m.library.last[model.Name]; !known || !reflect.DeepEqual(last, *model) {
			asked, at = append(asked, *model), append(at, i)
		}
	}
	w.traits = make([]core.Traits, len(w.models))
	if len(asked) == 0 {
		return nil
	}
	traits, faults, err := m.traits(ctx, asked)
	if err != nil {
		return fmt.Errorf("modeltier: %w", err)
	}
	for j, i := range at {
		w.traits[i] = traits[j]
	}
	wrong := make([]error, len(w.models))
	for j, i := range at {
		wrong[i] = faults[j]
	}
	if w.models, w.traits, err = m.library.sound(w.models, w.traits, wrong, w.hidden); err != nil {
		return fmt.Errorf("modeltier: %w", err)
	}
	return nil
}

// sound returns the models that the mover can move, with their traits. A model that it
// cannot move is hidden if it was found, and else an error.
func (l *library) sound(models []tier.Model, traits []core.Traits, faults []error, hidden map[string]hotload.Skipped) ([]tier.Model, []core.Traits, error) {
	if !slices.ContainsFunc(faults, func(err error) bool { return err != nil }) {
		return models, traits, nil
	}
	var wrong []error
	soundModels, soundTraits := make([]tier.Model, 0, len(models)), make([]core.Traits, 0, len(models))
	found := byName(l.found)
	for i := range models {
		m := &models[i]
		f, ours := found[m.Name]
		switch {
		case faults[i] == nil:
			soundModels, soundTraits = append(soundModels, *m), append(soundTraits, traits[i])
		case ours && f.Path == m.Path:
			hide(hidden, m, "is refused by the mover: "+faults[i].Error())
		default:
			wrong = append(wrong, faults[i])
		}
	}
	return soundModels, soundTraits, errors.Join(wrong...)
}

// fit takes out of what is wanted the models that were found and would take the name of
// another or of an alias, and lets those be that were hot loaded from what was found.
// Of those that have vanished it adds the ones that are in use.
func (c *control) fit(w *wanted) (inUse []tier.Model) {
	models, traits := w.models[:w.declared:w.declared], w.traits[:w.declared:w.declared]
	for i, m := range w.models[w.declared:] {
		of, alias := c.core.Aliases()[m.Name]
		_, before := c.core.Configured()[m.Name]
		e, there := c.core.Named(m.Name)
		switch {
		case alias && !before && !there:
			hideForAlias(w.hidden, &m, of)
			continue
		case there && c.core.HotAdded(e) && e.Model.Path != m.Path:
			hide(w.hidden, &m, fmt.Sprintf("is called as the model %q, which was hot loaded: rename the file, or remove the model", m.Name))
			continue
		case there && c.core.HotAdded(e):
			m = e.Model
			m.Runtime = e.Declared()
		}
		models, traits = append(models, m), append(traits, w.traits[w.declared+i])
	}
	for _, m := range w.vanished {
		if e, there := c.core.Named(m.Name); there && !c.core.HotAdded(e) && (e.Gate.Leases() > 0 || e.Waiters() > 0) {
			inUse = append(inUse, m)
			models, traits = append(models, m), append(traits, core.Traits{})
		}
	}
	w.models, w.traits = models, traits
	return inUse
}
