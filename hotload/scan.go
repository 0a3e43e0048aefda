package hotload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// Scan returns the models in a folder and below, and what it left out and why. A model
// is a set of files: a GGUF or safetensors file, with its further shards and its
// projector; the folder of a model hub, with a config.json and one set of weights; a
// folder of diffusers' or sentence-transformers' parts; a model in the store of Ollama.
// The caches of Hugging Face and llama.cpp, and the folders of LM Studio, are made of
// these. Its name comes from the set or folder, and is unique.
//
// Symbolic links are followed within the folder, and to the folders in follow and
// below, and refused if they lead elsewhere. Hidden files, names that cannot be shown,
// downloads under way and what is not a regular file are left out. Only headers are
// read. The error is that of the folder itself, a *FileError, or context.Cause(ctx).
func Scan(ctx context.Context, dir string, follow ...string) ([]tier.Model, []Skipped, error) {
	w, err := NewWatcher(dir, nil, nil, follow...)
	if err != nil {
		return nil, nil, err
	}
	c, err := w.Scan(ctx)
	return c.Added, c.LeftOut, err
}

// walk lists the folder and those below, parents first.
func (t *tree) walk(ctx context.Context) (folders []*folder, err error) {
	visited := make(map[string]bool) // real paths: a link may lead back up
	var visit func(dir string, depth int) error
	visit = func(dir string, depth int) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if t.full() { // that the folder is unread still keeps what is known in it
			t.skipFor(dir, unlisted(dir, errTooMany)).unread = true
			return nil
		}
		f, err := t.list(dir)
		switch {
		case err != nil && depth == 0 && !errors.Is(err, errTooMany):
			return err
		case err != nil:
			t.skipFor(dir, err).unread = true
			return nil
		case visited[f.real]:
			return nil
		}
		visited[f.real] = true
		folders = append(folders, f)
		t.skipped = append(t.skipped, f.skipped...)
		if f.isOllama() {
			t.addManifests(ctx, f, filepath.Join(dir, ollamaManifests), 0)
		}
		for _, sub := range t.below(f) {
			if depth == maxDepth {
				t.skip(sub, fmt.Sprintf("is deeper than %d folders", maxDepth))
				continue
			}
			if err := visit(sub, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	if err = visit(t.dir, 0); err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return folders, err
}

// below returns the subfolders in which there may be models. What a repository in the
// cache of Hugging Face and the store of Ollama keep beside them are none.
func (t *tree) below(f *folder) []string {
	if f.isOllama() {
		return slices.DeleteFunc(slices.Clone(f.subs), func(sub string) bool {
			return filepath.Base(sub) == ollamaManifests || filepath.Base(sub) == ollamaBlobs
		})
	}
	if revisions := t.revisions(f); revisions != nil {
		return revisions
	}
	return f.subs
}

func (t *tree) skip(path, reason string) {
	t.skipped = append(t.skipped, Skipped{Path: path, Reason: reason})
}

// skipFor skips what the error says about path, or about the path that it names.
func (t *tree) skipFor(path string, err error) *Skipped {
	e := fileError(path, err)
	s := Skipped{Path: e.Path, Reason: e.Reason, help: e.Suggestions()[0]}
	if e.Err != nil {
		s.Reason += ": " + e.Err.Error()
	}
	t.skipped = append(t.skipped, s)
	return &t.skipped[len(t.skipped)-1]
}

// found is a model and its files.
type found struct {
	model tier.Model
	files []file
	tags  []string // of Ollama's store: all that it is called there, which decides its name
}

// models reads the headers in the folders and returns their models, whose names may
// repeat.
func (t *tree) models(ctx context.Context, folders []*folder) (out []found, err error) {
	seen := make(map[string]string)      // real path of an entry → path as found
	at := make(map[string]int)           // the same → index in out
	revisions := make(map[string]string) // the same by repository and path in a snapshot
	for _, f := range folders {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var sets []set
		if f.isOllama() {
			sets = t.ollama(f)
		}
		if p := t.pipeline(f); p != nil {
			if s, err := t.whole(p); err != nil {
				t.skipFor(f.dir, err)
			} else {
				sets = append(sets, s)
			}
		}
		for _, s := range append(sets, t.setsIn(f)...) {
			path, real := s.info.Entry, s.files[0].real
			source := cmp.Or(s.source, path)
			if first, dup := seen[real]; dup {
				if i, ok := at[real]; ok && s.source != "" && out[i].called(&s) {
					continue
				}
				t.skip(source, fmt.Sprintf("is the same file as %q", first))
				continue
			}
			// By the entry: in another revision its files may be called otherwise.
			if repository, name := inSnapshot(path); repository != "" {
				key := repository + "\x00" + name
				if first, dup := revisions[key]; dup {
					t.skip(path, fmt.Sprintf("is another revision of %q", first))
					continue
				}
				revisions[key] = path
			}
			seen[real] = source
			m := s.info.Model(path)
			t.addDigests(&m)
			if err := m.Validate(); err != nil {
				t.skip(source, fmt.Sprintf("makes no valid model: %v", err))
				continue
			}
			at[real] = len(out)
			out = append(out, found{model: m, files: s.files})
			if s.source != "" {
				out[len(out)-1].tags = []string{m.Name}
			}
		}
		t.foreign(f)
	}
	for _, f := range folders {
		t.unpaired(f)
	}
	return out, nil
}

// called takes another name of the model, if the set is of the same files.
func (f *found) called(s *set) bool {
	same := slices.EqualFunc(f.files, s.files, func(a, b file) bool { return a.real == b.real })
	if !same || len(f.model.Aliases) == tier.MaxCapabilities || tier.CheckAlias("alias", s.info.Name) != nil {
		return false
	}
	f.model.Aliases = append(f.model.Aliases, s.info.Name)
	if f.tags != nil {
		f.tags = append(f.tags, s.info.Name)
	}
	return true
}

// foreign skips the weights in a folder that are of no format of ours, all of a kind
// at once.
func (t *tree) foreign(f *folder) {
	first := make(map[string]string) // file by kind
	for i := range f.others {
		name := f.others[i].name()
		if kind := foreign(name); kind != "" && first[kind] == "" && f.others[i].size() > 0 {
			first[kind] = name
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(first)) {
		t.skip(f.dir, fmt.Sprintf("holds %s weights (%q first), which only a hot load that names them takes", kind, first[kind]))
	}
}

// Skipped is something in a folder that was not taken for a model, and why.
type Skipped struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`

	help    string // what can be done
	special bool   // it would belong to a model if it could be used
	unread  bool   // a folder with unknown content
}

func (s Skipped) String() string { return fmt.Sprintf("%q %s", s.Path, s.Reason) }

// fault returns it as an error.
func (s Skipped) fault() error {
	return &FileError{Path: s.Path, Reason: s.Reason, Help: cmp.Or(s.help, "Put a whole model there.")}
}

// names are those that are taken. Each has the number to try next after it, so that
// many models of one name cost no search each.
type names map[string]int

func (n names) take(name string) bool {
	if _, taken := n[name]; taken || len(name) > tier.MaxNameLength {
		return false
	}
	n[name] = 2
	return true
}

// claim returns the name; if it is taken, the one with its folder; and if that is
// taken too, or too long, the one with the lowest free number.
func (n names) claim(name, dir string) string {
	const room = 16 // bytes for a number
	if n.take(name) {
		return name
	}
	if long := filepath.Base(dir) + "/" + name; n.take(long) {
		return long
	}
	if len(name) > tier.MaxNameLength-room {
		name = strings.ToValidUTF8(name[:tier.MaxNameLength-room], "")
	}
	for i := max(n[name], 2); ; i++ {
		if numbered := name + "-" + strconv.Itoa(i); n.take(numbered) {
			n[name] = i + 1
			return numbered
		}
	}
}

// release makes the name free, which may be the lowest number after another.
func (n names) release(name string) {
	delete(n, name)
	if at := strings.LastIndexByte(name, '-'); at >= 0 && n[name[:at]] > 0 {
		n[name[:at]] = 2
	}
}
