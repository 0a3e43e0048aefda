package hotload

import (
	"cmp"
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
	LeftOut []Skipped // all that is left out now
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
	w, err := NewWatcher(dir, nil, nil, follow...)
	if err != nil {
		return err
	}
	w.know(known)
	w.Look(ctx)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		if c, news := w.Look(ctx); news {
			change(c)
		}
	}
}

// Watcher looks at a folder for its owner, who says when, and is what Watch is made of.
// It is not for concurrent use.
type Watcher struct {
	dir      string
	follow   []string
	names    map[string]string // from earlier, by path
	others   func() []tier.Model
	taken    names
	models   map[string]found       // what was reported or known, by the model's path
	last     map[string]fs.FileInfo // files at the last look; nil before the first
	pending  map[string]bool        // what changed since models was compared with what is there: files, or dir for all
	reported map[Skipped]bool
	listed   []Skipped      // what listing the folders left out at the last look
	away     map[string]int // models that Scan does not find: looks since something was at their path
	empty    int            // looks since there was a weight file
	headers  map[string]header
	folders  map[string]*folder // as they were listed at the last look
	looks    int
	retry    int // looks until files that could not be read are tried again, if there are any
}

// retryLooks is after how many looks that is: it reads the JSON beside other models too.
const retryLooks = 16

// NewWatcher returns a Watcher of the folder, which need not be there yet. names are
// what models were called earlier, by path: one that is found there is called so again,
// if no other is. others, unless nil, returns models that do not come from the folder:
// what is at the path of one of these is called as that, and nothing else has their
// names. It is called by a look that finds a new model.
func NewWatcher(dir string, names map[string]string, others func() []tier.Model, follow ...string) (*Watcher, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, &FileError{Path: dir, Reason: "cannot be watched", Err: err}
	}
	w := newWatcher(abs, nil, follow...)
	w.names, w.others = names, others
	return w, nil
}

func newWatcher(dir string, known []tier.Model, follow ...string) *Watcher {
	w := &Watcher{dir: dir, follow: follow, taken: make(names), models: make(map[string]found), pending: map[string]bool{dir: true}}
	w.know(known)
	return w
}

// know takes models as they would have been reported.
func (w *Watcher) know(models []tier.Model) {
	for _, m := range models {
		w.taken.take(m.Name)
		if rel, err := filepath.Rel(w.dir, m.Path); err == nil && filepath.IsLocal(rel) {
			w.models[m.Path] = found{model: m}
		}
	}
}

// Scan returns what has changed since the last look, at rest or not: the owner says that
// the folder is to be believed as it is. Its error is that of Scan.
func (w *Watcher) Scan(ctx context.Context) (Change, error) {
	t, folders, err := w.walk(ctx)
	if err != nil {
		return Change{}, err
	}
	defer t.close()
	all := slices.Concat(folders, t.elsewhere(folders))
	now, _ := fingerprints(all)
	w.listed = slices.Clone(t.skipped)
	found, err := t.models(ctx, folders)
	if err != nil {
		return Change{}, err
	}
	w.last, w.pending, w.empty = now, nil, 0
	c, _ := w.compare(t, found, nil)
	return c, nil
}

// walk opens the folder and lists it. The tree is to be closed.
func (w *Watcher) walk(ctx context.Context) (*tree, []*folder, error) {
	t, err := openTree(w.dir, w.follow...)
	if err != nil {
		return nil, nil, err
	}
	t.before, t.headers = w.headers, make(map[string]header)
	// Some file systems do not show in a folder when what is in it changes.
	if w.looks++; w.looks%retryLooks != 0 {
		t.folders = w.folders
	}
	folders, err := t.walk(ctx)
	if err != nil {
		t.close()
		return nil, nil, err
	}
	w.folders = t.listed
	return t, folders, nil
}

// Look returns what is new and has not changed since the last look, and whether there is
// any. It is as with Watch: the first look finds nothing new.
func (w *Watcher) Look(ctx context.Context) (Change, bool) {
	t, folders, err := w.walk(ctx)
	if err != nil {
		return Change{}, false
	}
	defer t.close()
	all := slices.Concat(folders, t.elsewhere(folders))
	now, weights := fingerprints(all)
	first, moving := w.last == nil, make(map[string]bool)
	if !first {
		moving = differences(w.last, now)
	}
	w.last = now
	if w.pending == nil {
		w.pending = make(map[string]bool)
	}
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
	if !slices.Equal(w.listed, t.skipped) { // links, and what else has no fingerprint
		w.pending[w.dir], w.listed = true, slices.Clone(t.skipped)
	}
	if !gone && len(w.pending) == len(moving) { // nothing has changed and come to rest
		return Change{}, false
	}
	for _, f := range all {
		f.without(moving)
	}
	found, err := t.models(ctx, folders)
	if err != nil {
		return Change{}, false
	}
	if first { // the baseline: Scan has reported it, or the next look does
		w.headers = t.headers
		w.reported = newUnrest(t.skipped, nil).lasting(t.skipped, nil)
		return Change{}, false
	}
	c, news := w.compare(t, found, moving)
	w.pending = moving
	return c, news
}

// compare is settle for what was found in a tree.
func (w *Watcher) compare(t *tree, found []found, moving map[string]bool) (Change, bool) {
	w.headers, w.retry = t.headers, 0
	if t.retry {
		w.retry = retryLooks
	}
	c, news := w.settle(found, t.skipped, moving)
	for _, models := range [][]tier.Model{c.Added, c.Changed, c.Removed} {
		for i := range models {
			models[i] = clone(models[i])
		}
	}
	return c, news
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
func (w *Watcher) goAway() (present int, gone bool) {
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

// lasting returns what is left out: where a file beside it is moving, what was before.
func (u *unrest) lasting(skipped []Skipped, before map[Skipped]bool) map[Skipped]bool {
	out := make(map[Skipped]bool)
	rests := func(s Skipped) bool { return !u.within[s.Path] && !u.within[filepath.Dir(s.Path)] }
	for _, s := range skipped {
		if rests(s) {
			out[s] = true
		}
	}
	for s := range before {
		if !rests(s) && !u.moving[s.Path] {
			out[s] = true
		}
	}
	return out
}

// settle compares what was found with what was reported, and returns whether that
// differs.
func (w *Watcher) settle(all []found, skipped []Skipped, moving map[string]bool) (c Change, news bool) {
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
		if f.tags != nil && !slices.Contains(f.tags, old.model.Name) && slices.Contains(old.tags, old.model.Name) {
			added = append(added, f) // the tag that gave it its name is gone
			continue
		}
		f.keepName(old.model.Name)
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
	w.name(added) // after the names of those that are gone are free: an update is another file
	for _, f := range added {
		models[f.model.Path] = f
		c.Added = append(c.Added, f.model)
	}
	slices.SortFunc(c.Removed, func(a, b tier.Model) int { return strings.Compare(a.Path, b.Path) })
	w.models = models

	lasting := unrest.lasting(skipped, w.reported)
	for _, s := range skipped {
		if lasting[s] && !w.reported[s] {
			c.Skipped = append(c.Skipped, s)
		}
	}
	news = len(c.Added)+len(c.Changed)+len(c.Removed)+len(c.Skipped) > 0 || len(lasting) != len(w.reported)
	if news {
		c.LeftOut = slices.SortedFunc(maps.Keys(lasting), func(a, b Skipped) int {
			return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Reason, b.Reason))
		})
	}
	w.reported = lasting
	return c, news
}

// keepName gives the model the name that it had. The one that it would have is an alias,
// if it is a tag.
func (f *found) keepName(name string) {
	if i := slices.Index(f.model.Aliases, name); i >= 0 {
		f.model.Aliases[i] = f.model.Name
		slices.Sort(f.model.Aliases)
	}
	f.model.Name = name
}

// name gives models that are new their names.
func (w *Watcher) name(added []found) {
	if len(added) == 0 {
		return
	}
	at := make(map[string]string) // others, by path
	taken := w.taken
	if w.others != nil {
		taken = maps.Clone(taken)
		for _, m := range w.others() {
			taken.take(m.Name)
			at[m.Path] = m.Name
		}
	}
	claimed := make(map[int]bool)
	for i := range added {
		m := &added[i].model
		if name, ok := at[m.Path]; ok {
			added[i].keepName(name)
			claimed[i] = true
		} else if name, ok := w.names[m.Path]; ok && (added[i].tags == nil || slices.Contains(added[i].tags, name)) && taken.take(name) {
			added[i].keepName(name)
			claimed[i] = true
		}
	}
	for i := range added {
		m := &added[i].model
		if !claimed[i] {
			m.Name = taken.claim(m.Name, filepath.Dir(m.Path))
		}
		w.taken.take(m.Name)
	}
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
