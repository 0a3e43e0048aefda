package hotload

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// Scan returns the models in a folder and below, by path, and what it left out
// and why. A model is a GGUF or safetensors file, or a subfolder with the files of
// one model: its shards, a projector, a config.json. Names come from those of the
// file or subfolder, and no two are the same.
//
// Symbolic links are followed within the folder and refused where they lead out of
// it; hidden files, names that cannot be shown and what is no regular file are left
// out. Only headers are read. The error is that of the folder itself, a
// *FileError, or context.Cause(ctx).
func Scan(ctx context.Context, dir string) ([]tier.Model, []Skipped, error) {
	return Rescan(ctx, dir, nil)
}

// Rescan is Scan of a folder of which models are known. What is still at the path
// of one of them keeps its name, and what is new gets none of those.
func Rescan(ctx context.Context, dir string, known []tier.Model) ([]tier.Model, []Skipped, error) {
	t, err := openTree(dir)
	if err != nil {
		return nil, nil, err
	}
	defer t.close()
	folders, skipped, err := t.walk(ctx)
	if err != nil {
		return nil, nil, err
	}
	found, more, err := t.models(ctx, folders)
	if err != nil {
		return nil, nil, err
	}
	before := make(map[string]string, len(known)) // names by path
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
	return models, append(skipped, more...), nil
}

// openTree returns a tree that has the folder for its boundary. It is to be closed.
func openTree(dir string) (*tree, error) {
	fault := func(err error) error { return &FileError{Path: dir, Reason: "cannot be listed", Err: err} }
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fault(err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return nil, fault(err)
	}
	root, err := os.OpenRoot(real)
	if err != nil {
		return nil, fault(err)
	}
	return &tree{dir: abs, boundary: real, root: root}, nil
}

func (t *tree) close() { t.root.Close() }

// walk lists the folder and those below, parents first.
func (t *tree) walk(ctx context.Context) ([]*folder, []Skipped, error) {
	t.entries = 0
	var (
		folders []*folder
		skipped []Skipped
		visited = make(map[string]bool) // real paths: a link may lead back up
	)
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
			s := skippedFor(dir, err)
			s.unread = true
			skipped = append(skipped, s)
			return nil
		case visited[f.real]:
			return nil
		}
		visited[f.real] = true
		folders = append(folders, f)
		skipped = append(skipped, f.skipped...)
		for _, sub := range f.subs {
			if depth == maxDepth {
				skipped = append(skipped, Skipped{Path: sub, Reason: fmt.Sprintf("is deeper than %d folders", maxDepth)})
				continue
			}
			if err := visit(sub, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	err := visit(t.dir, 0)
	return folders, skipped, err
}

// found is a model and what it was found in.
type found struct {
	model tier.Model
	files []file
}

// models reads the headers in the folders and makes models of them. Their names
// may repeat.
func (t *tree) models(ctx context.Context, folders []*folder) ([]found, []Skipped, error) {
	var (
		out     []found
		skipped []Skipped
		seen    = make(map[string]string) // real path of a weight file → where it was found
	)
	for _, f := range folders {
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		parts, more := t.assemble(f)
		skipped = append(skipped, more...)
		for _, p := range parts {
			path, info := p.files[0].path, p.info
			if p.whole {
				alone := len(parts) == 1 && !slices.ContainsFunc(more, func(s Skipped) bool { return s.special })
				if !alone || f.dir == t.dir {
					skipped = append(skipped, Skipped{Path: path, Reason: "is one of several files of a model, which need a subfolder of their own"})
					continue
				}
				path, info = f.dir, p.in(f)
			}
			if first, dup := seen[p.files[0].real]; dup {
				skipped = append(skipped, Skipped{Path: path, Reason: fmt.Sprintf("is the same file as %q", first)})
				continue
			}
			seen[p.files[0].real] = path
			m := info.Model(path)
			if err := m.Validate(); err != nil {
				skipped = append(skipped, Skipped{Path: path, Reason: "makes no valid model: " + err.Error()})
				continue
			}
			out = append(out, found{model: m, files: p.files})
		}
	}
	return out, skipped, nil
}
