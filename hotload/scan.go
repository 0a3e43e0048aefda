package hotload

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// Scan returns the models in a folder and below, by path, and what it left out and
// why. A model is a GGUF or safetensors file, or a subfolder with the files of one
// model: its shards, a projector, a config.json. Its name comes from the file or
// subfolder, and is unique.
//
// Symbolic links are followed within the folder and refused if they lead out of it.
// Hidden files, names that cannot be shown and what is not a regular file are left
// out. Only headers are read. The error is that of the folder itself, a *FileError,
// or context.Cause(ctx).
func Scan(ctx context.Context, dir string) ([]tier.Model, []Skipped, error) {
	return Rescan(ctx, dir, nil)
}

// Rescan is Scan of a folder with known models. A model at the path of a known one
// keeps that name, and a new model does not get it.
func Rescan(ctx context.Context, dir string, known []tier.Model) ([]tier.Model, []Skipped, error) {
	t, err := openTree(dir)
	if err != nil {
		return nil, nil, err
	}
	defer t.close()
	folders, err := t.walk(ctx)
	if err != nil {
		return nil, nil, err
	}
	found, err := t.models(ctx, folders)
	if err != nil {
		return nil, nil, err
	}
	before := make(map[string]string, len(known)) // name by path
	for _, m := range known {
		before[m.Path] = m.Name
	}
	taken := make(names)
	for _, f := range found {
		if name, ok := before[f.model.Path]; ok {
			taken.take(name)
		}
	}
	models := make([]tier.Model, len(found))
	for i, f := range found {
		models[i] = f.model
		name, ok := before[f.model.Path]
		if !ok {
			name = taken.claim(f.model.Name, filepath.Dir(f.model.Path))
		}
		models[i].Name = name
	}
	return models, t.skipped, nil
}

// walk lists the folder and those below, parents first.
func (t *tree) walk(ctx context.Context) (folders []*folder, err error) {
	visited := make(map[string]bool) // real paths: a link may lead back up
	var visit func(dir string, depth int) error
	visit = func(dir string, depth int) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f, err := t.list(dir)
		switch {
		case err != nil && (depth == 0 || t.entries > maxEntries):
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
		for _, sub := range f.subs {
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
	err = visit(t.dir, 0)
	return folders, err
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
}

// models reads the headers in the folders and returns their models, whose names may
// repeat.
func (t *tree) models(ctx context.Context, folders []*folder) (out []found, err error) {
	seen := make(map[string]string) // real path of a weight file → path as found
	for _, f := range folders {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		before := len(t.skipped)
		parts := t.assemble(f)
		alone := len(parts) == 1 && !slices.ContainsFunc(t.skipped[before:], func(s Skipped) bool { return s.special })
		for _, p := range parts {
			path, info := p.files[0].path, p.info
			if p.whole {
				if !alone || f.dir == t.dir {
					t.skip(path, "is one of several files of a model, which need a subfolder of their own")
					continue
				}
				path = f.dir
				info, _ = f.complete(info) // it has weights
			}
			if first, dup := seen[p.files[0].real]; dup {
				t.skip(path, fmt.Sprintf("is the same file as %q", first))
				continue
			}
			seen[p.files[0].real] = path
			m := info.Model(path)
			if err := m.Validate(); err != nil {
				t.skip(path, fmt.Sprintf("makes no valid model: %v", err))
				continue
			}
			out = append(out, found{model: m, files: p.files})
		}
	}
	return out, nil
}

// Skipped is something in a folder that was not taken for a model, and why.
type Skipped struct {
	Path   string
	Reason string

	help    string // what can be done
	special bool   // it would belong to a model if it could be used
	unread  bool   // a folder with unknown content
}

func (s Skipped) String() string { return fmt.Sprintf("%q %s", s.Path, s.Reason) }

// fault returns it as an error.
func (s Skipped) fault() error {
	return &FileError{Path: s.Path, Reason: s.Reason, Help: cmp.Or(s.help, "Put a whole model there.")}
}

// shard is what a file name says about shards: "-00002-of-00003" before the
// extension, for GGUF and for safetensors.
type shard struct {
	stem   string // the name without it and without the extension
	no, of int    // counted from 1; of is 0 for a single file
}

var shardName = regexp.MustCompile(`^(.+)-([0-9]{5})-of-([0-9]{5})$`)

func shardOf(name string) shard {
	stem := strings.TrimSuffix(name, filepath.Ext(name))
	m := shardName.FindStringSubmatch(stem)
	if m == nil {
		return shard{stem: stem}
	}
	no, _ := strconv.Atoi(m[2])
	of, _ := strconv.Atoi(m[3])
	return shard{stem: m[1], no: no, of: of}
}

// fileName returns the name of a model in a single file.
func fileName(path string) string {
	name := filepath.Base(path)
	if formatOf(name) == FormatUnknown {
		return name
	}
	return shardOf(name).stem
}

// folderName returns the name of a model in a folder of its own. The cache of Hugging
// Face keeps "org/name" at models--org--name/snapshots/<revision>.
func folderName(dir string) string {
	up := filepath.Dir(dir)
	if filepath.Base(up) == "snapshots" {
		if name, ok := strings.CutPrefix(filepath.Base(filepath.Dir(up)), "models--"); ok {
			return strings.ReplaceAll(name, "--", "/")
		}
	}
	return filepath.Base(dir)
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
