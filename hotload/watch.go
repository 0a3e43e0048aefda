package hotload

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// DefaultInterval is how often Watch looks where nothing else is said.
const DefaultInterval = 2 * time.Second

// Change is what has happened in a watched folder since the last Change.
type Change struct {
	Added   []tier.Model
	Changed []tier.Model // same path and name, other content
	Removed []tier.Model
	Skipped []Skipped // what was left out, where that is new
}

// Watch looks at the folder every interval (0: DefaultInterval) and tells of what
// changed, until ctx ends; it then returns context.Cause(ctx). It begins from
// known, which are the models that Scan returned or that were kept from before;
// those that lie elsewhere are left alone, and those that Scan would not name, as a
// file of an unknown format, are only told of when they are gone. Names are given as
// Scan gives them, and a model keeps its name for as long as its path is there.
//
// A change is told when the files in question have been still for an interval, so
// that a file is not taken while it is copied; one that vanishes and is back within
// an interval was never away. A folder that is suddenly empty is believed an
// interval later than that, and one that cannot be listed is not believed at all,
// because a mount may blink.
//
// change is called on the goroutine of Watch, with no lock held; no look happens
// while it runs. What it is given is its own.
func Watch(ctx context.Context, dir string, known []tier.Model, interval time.Duration, change func(Change)) error {
	if interval <= 0 {
		interval = DefaultInterval
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return &FileError{Path: dir, Reason: "cannot be watched", Err: err}
	}
	w := newWatcher(abs, known)
	w.look(ctx)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		if c, news := w.look(ctx); news {
			change(c)
		}
	}
}

// watcher is what Watch knows from one look to the next.
type watcher struct {
	dir     string
	taken   names
	models  map[string]found       // what was told or known, by the model's path
	prints  map[string]fs.FileInfo // how the files looked then, by path
	last    map[string]fs.FileInfo // how they looked at the last look; nil before the first
	told    map[Skipped]bool
	away    map[string]int // models that Scan does not name: looks since there was anything at their path
	empty   int            // looks since there was a weight file
	headers map[string]header
}

func newWatcher(dir string, known []tier.Model) *watcher {
	w := &watcher{dir: dir, taken: make(names), models: make(map[string]found)}
	for _, m := range known {
		w.taken.take(m.Name)
		if rel, err := filepath.Rel(dir, m.Path); err == nil && filepath.IsLocal(rel) {
			w.models[m.Path] = found{model: m}
		}
	}
	return w
}

// look returns what is new and has been still since the last look.
func (w *watcher) look(ctx context.Context) (Change, bool) {
	t, err := openTree(w.dir)
	if err != nil {
		return Change{}, false
	}
	defer t.close()
	t.before, t.headers = w.headers, make(map[string]header)
	folders, skipped, err := t.walk(ctx)
	if err != nil {
		return Change{}, false
	}
	now, weights := fingerprints(folders)
	last := w.last
	w.last = now
	present, gone := w.goAway()
	weights += present

	if weights == 0 && len(w.models) > 0 {
		// One look makes it still, and one more is for the mount to come back.
		if w.empty++; w.empty <= 2 {
			return Change{}, false
		}
	} else {
		w.empty = 0
	}
	moving := make(map[string]bool)
	if last != nil {
		moving = differences(last, now)
	}
	if w.prints != nil && !gone && !w.news(now, moving) {
		return Change{}, false
	}
	for _, f := range folders {
		f.without(moving)
	}
	found, more, err := t.models(ctx, folders)
	if err != nil {
		return Change{}, false
	}
	w.headers = t.headers
	skipped = append(skipped, more...)
	if last == nil { // the baseline: Scan has told of it, or it is told when it is still
		w.told = tellable(skipped, nil)
		return Change{}, false
	}
	c := w.settle(found, skipped, moving)
	w.prints = settledPrints(w.prints, now, moving)
	return c, len(c.Added)+len(c.Changed)+len(c.Removed)+len(c.Skipped) > 0
}

// fingerprints returns how every file looks that can bear on a model, and how
// many of them are weights.
func fingerprints(folders []*folder) (prints map[string]fs.FileInfo, weights int) {
	prints = make(map[string]fs.FileInfo)
	for _, f := range folders {
		weights += len(f.weights)
		for _, file := range f.weights {
			prints[file.path] = file.stat
		}
		for _, file := range f.others {
			if ext := filepath.Ext(file.path); ext == ".json" || ext == ".jinja" {
				prints[file.path] = file.stat
			}
		}
	}
	return prints, weights
}

// differences returns the paths at which the two are not the same.
func differences(a, b map[string]fs.FileInfo) map[string]bool {
	out := make(map[string]bool)
	for path, stat := range a {
		if other, ok := b[path]; !ok || !same(stat, other) {
			out[path] = true
		}
	}
	for path := range b {
		if _, ok := a[path]; !ok {
			out[path] = true
		}
	}
	return out
}

// news reports whether something that is still is not as it was told.
func (w *watcher) news(now map[string]fs.FileInfo, moving map[string]bool) bool {
	for path := range differences(w.prints, now) {
		if !moving[path] {
			return true
		}
	}
	return false
}

// goAway looks after the models that Scan does not name, as a hot load may name
// what Scan would not. It returns how many of them are there, and whether one has
// been away for an interval.
func (w *watcher) goAway() (present int, gone bool) {
	away := make(map[string]int)
	for path, f := range w.models {
		if f.files != nil {
			continue
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			away[path] = w.away[path] + 1
			gone = gone || away[path] > 1
		} else {
			present++
		}
	}
	w.away = away
	return present, gone
}

// stays reports whether a model that was not found is there all the same, or may
// be back.
func (w *watcher) stays(f found) bool { return f.files == nil && w.away[f.model.Path] <= 1 }

// settledPrints takes over how what is still looks now.
func settledPrints(before, now map[string]fs.FileInfo, moving map[string]bool) map[string]fs.FileInfo {
	out := maps.Clone(now)
	for path := range moving {
		delete(out, path)
		if stat, ok := before[path]; ok {
			out[path] = stat
		}
	}
	return out
}

// without takes the files away that are moving.
func (f *folder) without(moving map[string]bool) {
	gone := func(file file) bool { return moving[file.path] }
	f.weights = slices.DeleteFunc(f.weights, gone)
	f.others = slices.DeleteFunc(f.others, gone)
}

// unsettledPaths returns a test for paths of models about which this look cannot
// tell. It costs the depth of the path, however many files are moving.
func unsettledPaths(skipped []Skipped, moving map[string]bool) func(path string) bool {
	within := make(map[string]bool) // folders that hold something that is moving
	beside := make(map[string]bool) // the same, and it can make a folder one model, or many
	unread := make(map[string]bool)
	for path := range moving {
		within[filepath.Dir(path)] = true
		if formatOf(path) == FormatUnknown {
			beside[filepath.Dir(path)] = true
		}
	}
	for _, s := range skipped {
		if s.unread {
			unread[s.Path] = true
		}
	}
	return func(path string) bool {
		if moving[path] || within[path] || beside[filepath.Dir(path)] {
			return true
		}
		for dir := path; len(unread) > 0; dir = filepath.Dir(dir) {
			if unread[dir] {
				return true
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
		return false
	}
}

// settle compares what was found with what was told.
func (w *watcher) settle(all []found, skipped []Skipped, moving map[string]bool) Change {
	var c Change
	unsettled := unsettledPaths(skipped, moving)
	models := make(map[string]found)
	for path, f := range w.models {
		if unsettled(path) {
			models[path] = f
		}
	}
	for _, f := range all {
		path := f.model.Path
		if unsettled(path) {
			continue
		}
		old, known := w.models[path]
		if known {
			f.model.Name = old.model.Name
		} else {
			f.model.Name = w.taken.claim(f.model.Name, filepath.Dir(path))
		}
		models[path] = f
		switch {
		case !known:
			c.Added = append(c.Added, f.model)
		case old.differs(f):
			c.Changed = append(c.Changed, f.model)
		}
	}
	for path, f := range w.models {
		switch _, still := models[path]; {
		case still:
		case w.stays(f):
			models[path] = f
		default:
			w.taken.release(f.model.Name)
			c.Removed = append(c.Removed, f.model)
		}
	}
	slices.SortFunc(c.Removed, func(a, b tier.Model) int { return strings.Compare(a.Path, b.Path) })
	w.models = models

	told := tellable(skipped, moving)
	for _, s := range skipped {
		if told[s] && !w.told[s] {
			c.Skipped = append(c.Skipped, s)
		}
	}
	w.told = told
	return c
}

// differs compares with what is found at the same path later. Of a model that was
// known before the watch, only the size is sure to be as it was found.
func (f *found) differs(later found) bool {
	if f.files == nil {
		return f.model.Size != later.model.Size
	}
	return !reflect.DeepEqual(f.model, later.model) ||
		!slices.EqualFunc(f.files, later.files, func(a, b file) bool { return a.path == b.path && same(a.stat, b.stat) })
}

// tellable returns what was left out for good, not because a file beside it is
// still on its way.
func tellable(skipped []Skipped, moving map[string]bool) map[Skipped]bool {
	busy := make(map[string]bool)
	for path := range moving {
		busy[filepath.Dir(path)] = true
	}
	out := make(map[Skipped]bool)
	for _, s := range skipped {
		if !busy[s.Path] && !busy[filepath.Dir(s.Path)] {
			out[s] = true
		}
	}
	return out
}
