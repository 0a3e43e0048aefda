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

// DefaultInterval is the default time between two looks of Watch.
const DefaultInterval = 2 * time.Second

// Change is what has happened in a watched folder since the last Change. An update that
// is at another path, as Ollama and the cache of Hugging Face have it, is Removed, and
// Added under the same name: what is Removed is to go first.
type Change struct {
	Added   []tier.Model
	Changed []tier.Model // same path and name, other content
	Removed []tier.Model
	Skipped []Skipped // newly left out
}

// Watch looks at the folder every interval (0: DefaultInterval) and reports what
// changed, until ctx ends; it then returns context.Cause(ctx). known are the models
// that Scan returned or that were restored. Those outside the folder are ignored,
// and those that Scan would not find, as a file of an unknown format, are only
// reported when they are gone. Names are given as by Scan, and a model keeps its
// name as long as something is at its path.
//
// A change is reported once the files in question have been unchanged for an
// interval, so that a file is not taken while it is copied; a file that vanishes and
// is back within an interval was never gone. A folder that is suddenly empty is
// believed an interval later than that, and one that cannot be listed is not
// believed at all, because a mount may disappear for a moment.
//
// change is called on the goroutine of Watch, with no lock held; no look happens
// while it runs. It owns what it is given.
// Links are followed as by Scan.
func Watch(ctx context.Context, dir string, known []tier.Model, interval time.Duration, change func(Change), follow ...string) error {
	if interval <= 0 {
		interval = DefaultInterval
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return &FileError{Path: dir, Reason: "cannot be watched", Err: err}
	}
	w := newWatcher(abs, known, follow...)
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
			for _, models := range [][]tier.Model{c.Added, c.Changed, c.Removed} {
				for i := range models {
					models[i] = clone(models[i])
				}
			}
			change(c)
		}
	}
}

// watcher is what Watch keeps from one look to the next.
type watcher struct {
	dir      string
	follow   []string
	taken    names
	models   map[string]found       // what was reported or known, by the model's path
	last     map[string]fs.FileInfo // files at the last look; nil before the first
	pending  map[string]bool        // what changed since models was compared with what is there: files, or dir for all
	reported map[Skipped]bool
	away     map[string]int // models that Scan does not find: looks since something was at their path
	empty    int            // looks since there was a weight file
	headers  map[string]header
	folders  map[string]*folder // as they were listed at the last look
	looks    int
	retry    int // looks until files that could not be read are tried again, if there are any
}

// retryLooks is after how many looks that is: it reads the JSON beside other models too.
const retryLooks = 16

func newWatcher(dir string, known []tier.Model, follow ...string) *watcher {
	w := &watcher{dir: dir, follow: follow, taken: make(names), models: make(map[string]found), pending: map[string]bool{dir: true}}
	for _, m := range known {
		w.taken.take(m.Name)
		if rel, err := filepath.Rel(dir, m.Path); err == nil && filepath.IsLocal(rel) {
			w.models[m.Path] = found{model: m}
		}
	}
	return w
}

// look returns what is new and has not changed since the last look.
func (w *watcher) look(ctx context.Context) (Change, bool) {
	t, err := openTree(w.dir, w.follow...)
	if err != nil {
		return Change{}, false
	}
	defer t.close()
	t.before, t.headers = w.headers, make(map[string]header)
	// Some file systems do not show in a folder when what is in it changes.
	if w.looks++; w.looks%retryLooks != 0 {
		t.folders = w.folders
	}
	folders, err := t.walk(ctx)
	if err != nil {
		return Change{}, false
	}
	w.folders = t.listed
	elsewhere := t.elsewhere(folders)
	now, weights := fingerprints(slices.Concat(folders, elsewhere))
	first, moving := w.last == nil, make(map[string]bool)
	if !first {
		moving = differences(w.last, now)
	}
	w.last = now
	maps.Copy(w.pending, moving)
	present, gone := w.goAway()
	weights += present

	if weights == 0 && len(w.models) > 0 {
		// One look to see that it stays so, and one more for the mount to come back.
		if w.empty++; w.empty <= 2 {
			return Change{}, false
		}
	} else {
		w.empty = 0
	}
	if w.retry--; w.retry == 0 {
		w.pending[w.dir] = true
	}
	if !gone && len(w.pending) == len(moving) { // nothing has changed and come to rest
		return Change{}, false
	}
	for _, f := range slices.Concat(folders, elsewhere) {
		f.without(moving)
	}
	found, err := t.models(ctx, folders)
	if err != nil {
		return Change{}, false
	}
	w.headers, w.retry = t.headers, 0
	if t.retry {
		w.retry = retryLooks
	}
	if first { // the baseline: Scan has reported it, or the next look does
		w.reported = newUnrest(t.skipped, nil).lasting(t.skipped)
		return Change{}, false
	}
	c := w.settle(found, t.skipped, moving)
	w.pending = moving
	return c, len(c.Added)+len(c.Changed)+len(c.Removed)+len(c.Skipped) > 0
}

// elsewhere returns the folders outside the walk that decide about models in it: the
// manifests and blobs of Ollama's stores, and the branches of repositories in the cache of
// Hugging Face. What cannot be listed shows nothing.
func (t *tree) elsewhere(folders []*folder) []*folder {
	out := slices.Clone(t.manifests)
	for _, f := range folders {
		name := ""
		switch {
		case f.isOllama():
			name = ollamaBlobs
		case strings.HasPrefix(filepath.Base(f.dir), repositoryPrefix):
			name = refs
		default:
			continue
		}
		if more, err := t.list(filepath.Join(f.dir, name)); err == nil {
			out = append(out, more)
		}
	}
	return out
}

// fingerprints returns the files that can affect a model, and how many of them are
// weights.
func fingerprints(folders []*folder) (prints map[string]fs.FileInfo, weights int) {
	prints = make(map[string]fs.FileInfo)
	for _, f := range folders {
		weights += len(f.weights)
		if f.manifests { // each is a model, whose weights are in another folder
			weights += len(f.others)
		}
		for _, file := range f.weights {
			prints[file.path] = file.stat
		}
		for i := range f.others {
			file := &f.others[i]
			if ext := filepath.Ext(file.path); ext == ".json" || ext == ".jinja" || f.manifests || isBlob(file.path) || isBranch(file.path) || isSums(file.name()) {
				if stat := file.info(); stat != nil {
					prints[file.path] = stat
				}
			}
		}
	}
	return prints, weights
}

// differences returns the paths at which a and b differ.
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

// goAway checks the models that Scan does not find, because a hot load may name any
// file. It returns how many of them are there, and whether one has been away for an
// interval.
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

// without removes the files that are moving.
func (f *folder) without(moving map[string]bool) {
	gone := func(file file) bool { return moving[file.path] }
	f.weights = slices.DeleteFunc(f.weights, gone)
	f.others = slices.DeleteFunc(f.others, gone)
}

// unrest is what one look cannot tell about.
type unrest struct {
	moving map[string]bool // paths of files that change
	within map[string]bool // folders that hold one of them
	beside map[string]bool // the same, and it decides whether the folder is one model
	unread map[string]bool // folders that cannot be listed
}

func newUnrest(skipped []Skipped, moving map[string]bool) *unrest {
	u := &unrest{moving: moving, within: make(map[string]bool), beside: make(map[string]bool), unread: make(map[string]bool)}
	for path := range moving {
		u.within[filepath.Dir(path)] = true
		if formatOf(path) == FormatUnknown && !isBlob(path) || projectorName.MatchString(filepath.Base(path)) {
			u.beside[filepath.Dir(path)] = true
		}
	}
	for _, s := range skipped {
		if s.unread {
			u.unread[s.Path] = true
		}
	}
	return u
}

// covers reports whether the model may be another. It costs the depth of its path and
// its parts, however many files are moving.
func (u *unrest) covers(m *tier.Model) bool {
	path := m.Path
	if slices.ContainsFunc(m.Parts, func(part string) bool { return u.moving[part] }) {
		return true
	}
	if u.moving[path] || u.within[path] || u.beside[filepath.Dir(path)] {
		return true
	}
	for dir, up := path, ""; len(u.unread) > 0 && dir != up; dir, up = filepath.Dir(dir), dir {
		if u.unread[dir] {
			return true
		}
	}
	return false
}

// lasting returns what was left out, unless a file beside it is moving.
func (u *unrest) lasting(skipped []Skipped) map[Skipped]bool {
	out := make(map[Skipped]bool)
	for _, s := range skipped {
		if !u.within[s.Path] && !u.within[filepath.Dir(s.Path)] {
			out[s] = true
		}
	}
	return out
}

// settle compares what was found with what was reported.
func (w *watcher) settle(all []found, skipped []Skipped, moving map[string]bool) Change {
	var c Change
	unrest := newUnrest(skipped, moving)
	models := make(map[string]found)
	var added []found
	for path, f := range w.models {
		if unrest.covers(&f.model) {
			models[path] = f
		}
	}
	for _, f := range all {
		path := f.model.Path
		if unrest.covers(&f.model) {
			continue
		}
		old, known := w.models[path]
		if !known {
			added = append(added, f)
			continue
		}
		f.model.Name = old.model.Name
		models[path] = f
		if old.differs(f) {
			c.Changed = append(c.Changed, f.model)
		}
	}
	for path, f := range w.models {
		switch _, still := models[path]; {
		case still:
		case f.files == nil && w.away[path] <= 1: // it is there, or may come back
			models[path] = f
		default:
			w.taken.release(f.model.Name)
			c.Removed = append(c.Removed, f.model)
		}
	}
	// After the names of those that are gone are free: an update is another file.
	for _, f := range added {
		f.model.Name = w.taken.claim(f.model.Name, filepath.Dir(f.model.Path))
		models[f.model.Path] = f
		c.Added = append(c.Added, f.model)
	}
	slices.SortFunc(c.Removed, func(a, b tier.Model) int { return strings.Compare(a.Path, b.Path) })
	w.models = models

	lasting := unrest.lasting(skipped)
	for _, s := range skipped {
		if lasting[s] && !w.reported[s] {
			c.Skipped = append(c.Skipped, s)
		}
	}
	w.reported = lasting
	return c
}

// differs compares with what is found at the same path later. Of a model that was
// known before the watch, only size and version, and digests that say so, are certain to
// come from its files. One that was touched, and has the content that it had, does not
// differ.
func (f *found) differs(later found) bool {
	if f.files == nil {
		told := maps.Clone(later.model.Digests)
		for path, d := range f.model.Digests {
			if d.Source == "" {
				delete(told, path) // its owner's goes before
			}
		}
		was := maps.Clone(f.model.Digests)
		maps.DeleteFunc(was, func(_ string, d tier.Digest) bool { return d.Source == "" })
		return f.model.Size != later.model.Size || tier.OtherVersion(f.model.Version, later.model.Version) || !maps.Equal(was, told)
	}
	return !reflect.DeepEqual(f.model, later.model)
}
