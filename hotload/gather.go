package hotload

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modeltier/modeltier/internal/regular"
	"github.com/modeltier/modeltier/tier"
)

// Gather returns the models with what belongs to them: where a model names no Parts,
// Path becomes the entry of the set that it names a file, the index or the folder of,
// and Parts the rest of it, with a projector; Size is what its files have, if that is
// more than it says, and Version what they hold. Digests are added that a cache's name
// for a file or a list beside it tells, and those that were so added before are replaced.
// The result shares no slice or map with the argument. errs has what is wrong with each
// model, a *FileError or nil: such a model is as it was.
//
// Of a model in the folder within, links that lead out of that and of the folders in
// follow are not taken. "": all are.
func Gather(models []tier.Model, within string, follow ...string) (out []tier.Model, errs []error) {
	out, errs = make([]tier.Model, len(models)), make([]error, len(models))
	free := newTree() // each folder is read once, whatever many of the models are in it
	var bounded *tree
	if within != "" {
		if t, err := openTree(within, follow...); err == nil {
			bounded = t
			defer t.close()
		}
	}
	for i, m := range models {
		m = clone(m)
		t := free
		if m.Path != "" {
			if abs, err := filepath.Abs(m.Path); err == nil && bounded != nil && bounded.relative(abs) != "" {
				t = bounded
			}
			if whole, err := t.gather(m); err == nil {
				m = whole
				t.addDigests(&m)
			} else {
				errs[i] = err
			}
		}
		out[i] = m
	}
	return out, errs
}

// clone returns the model with slices and a map of its own.
func clone(m tier.Model) tier.Model {
	m.Aliases = slices.Clone(m.Aliases)
	m.Capabilities, m.Parts, m.Labels, m.Digests = slices.Clone(m.Capabilities), slices.Clone(m.Parts), maps.Clone(m.Labels), maps.Clone(m.Digests)
	return m
}

func (t *tree) gather(m tier.Model) (tier.Model, error) {
	stat, err := os.Stat(m.Path)
	switch {
	case err != nil:
		return m, fileError(m.Path, err)
	case !stat.IsDir() && !stat.Mode().IsRegular():
		return m, fileError(m.Path, &regular.Error{Path: m.Path, Kind: regular.Kind(stat)})
	case !stat.IsDir() && stat.Size() == 0:
		return m, &FileError{Path: m.Path, Reason: "is empty"}
	case len(m.Parts) > 0:
		return t.declared(m, stat)
	}
	abs, err := filepath.Abs(m.Path)
	if err != nil {
		return m, fileError(m.Path, err)
	}
	s, fault := t.setOf(abs, stat.IsDir())
	switch {
	case fault == nil:
		m.Size, m.Version = max(m.Size, s.info.Size), s.info.Version
		if parts := s.info.parts(s.info.Entry); parts != nil || s.info.Entry != abs {
			m.Path, m.Parts = s.info.Entry, parts
		}
		if s.info.Projector != "" {
			label(&m, s.info.Projector)
		}
		return m, nil
	case stat.IsDir(): // it is for a Mover to say whether it can serve that
		f, err := t.usable(t.snapshotOf(abs))
		if err != nil {
			return m, err
		}
		if f.sharded() {
			return m, fault
		}
		size, err := f.weigh()
		m.Size = max(m.Size, size)
		return m, err
	case shardOf(filepath.Base(abs)).of > 1 || strings.HasSuffix(abs, indexSuffix):
		return m, fault
	}
	m.Size, m.Version = max(m.Size, tier.Bytes(stat.Size())), t.versionOf([]file{fileAt(abs)}, abs)
	return m, nil
}

// sharded reports whether the folder says that its model is of several files, by an
// index, a list of parts, or the names of shards: what is there may then be less.
func (f *folder) sharded() bool {
	return f.pipeline != nil || f.has("modules.json") != nil ||
		slices.ContainsFunc(f.others, func(o file) bool { return strings.HasSuffix(o.name(), indexSuffix) }) ||
		slices.ContainsFunc(f.weights, func(w file) bool { return shardOf(w.name()).of > 1 })
}

// declared measures a model that names its parts, and finds the projector among them.
func (t *tree) declared(m tier.Model, stat fs.FileInfo) (tier.Model, error) {
	var (
		size  tier.Bytes
		files []file
	)
	if !stat.IsDir() {
		size = tier.Bytes(stat.Size())
		files = append(files, fileAt(m.Path))
	}
	counted := map[string]bool{realOf(m.Path): true}
	for _, part := range m.Parts {
		info, err := os.Stat(part)
		switch {
		case err != nil:
			return m, fileError(part, err)
		case !info.Mode().IsRegular():
			return m, fileError(part, &regular.Error{Path: part, Kind: regular.Kind(info)})
		case info.Size() == 0:
			return m, &FileError{Path: part, Reason: "is empty"}
		}
		if f := fileAt(part); !counted[f.real] {
			counted[f.real] = true
			size = size.Plus(tier.Bytes(info.Size()))
			files = append(files, f)
		}
	}
	m.Size, m.Version = max(m.Size, size), t.versionOf(files, m.Path)
	if !slices.Contains(m.Parts, m.Labels[tier.ProjectorLabel]) {
		for _, part := range m.Parts {
			if formatOf(part) == FormatSafetensors || shardOf(part).of > 0 {
				continue
			}
			f := fileAt(part)
			if info, err := t.inspect(&f); err == nil && info.Role == RoleProjector {
				label(&m, part)
				break
			}
		}
	}
	return m, nil
}

// fileAt returns the file at a path.
func fileAt(path string) file { return file{path: path, real: realOf(path)} }

// realOf returns the path as no other path of the same file is written.
func realOf(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

// label notes which part of the model, whose labels are its own, is the projector.
func label(m *tier.Model, projector string) {
	if m.Labels == nil {
		m.Labels = make(map[string]string, 1)
	}
	m.Labels[tier.ProjectorLabel] = projector
}
