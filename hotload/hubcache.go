package hotload

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The cache of Hugging Face (huggingface_hub's manage-cache.md): a repository is
// models--org--name, with a snapshot of links into its blobs for each revision.
const (
	repositoryPrefix = "models--"
	snapshots        = "snapshots"
	refs             = "refs"
	mainBranch       = "main"
)

// hubRepository returns the repository in the cache of Hugging Face in whose snapshots a
// path is, or that it is; "": none. Any other folder in one that is called so is none of
// the cache.
func hubRepository(path string) string {
	for dir, below := path, ""; ; dir, below = filepath.Dir(dir), dir {
		if strings.HasPrefix(filepath.Base(dir), repositoryPrefix) && (below == "" || filepath.Base(below) == snapshots) {
			return dir
		}
		if dir == below {
			return ""
		}
	}
}

// revisions returns the folders of a repository's snapshots, the current one first:
// that of the branch main or, if there is none, the newest; nil if it is none of the
// cache.
func (t *tree) revisions(f *folder) []string {
	if !strings.HasPrefix(filepath.Base(f.dir), repositoryPrefix) {
		return nil
	}
	shots, err := t.list(filepath.Join(f.dir, snapshots))
	if err != nil {
		return nil
	}
	current := ""
	if branches, err := t.list(filepath.Join(f.dir, refs)); err == nil {
		if main := branches.has(mainBranch); main != nil {
			current = t.revision(main)
		}
	}
	subs, times := slices.Clone(shots.subs), make(map[string]time.Time)
	for _, sub := range subs {
		if stat, err := os.Stat(sub); err == nil {
			times[sub] = stat.ModTime()
		}
	}
	slices.SortStableFunc(subs, func(a, b string) int {
		if isA, isB := filepath.Base(a) == current, filepath.Base(b) == current; isA != isB {
			if isA {
				return -1
			}
			return 1
		}
		return times[b].Compare(times[a])
	})
	return subs
}

// isBranch reports whether the path is that of what says which revision is current.
func isBranch(path string) bool {
	return filepath.Base(path) == mainBranch && filepath.Base(filepath.Dir(path)) == refs
}

// revision returns the commit that a ref names.
func (t *tree) revision(ref *file) string {
	opened, _, err := t.open(ref.real)
	if err != nil {
		return ""
	}
	defer opened.Close()
	text, _ := io.ReadAll(io.LimitReader(opened, 256))
	return strings.TrimSpace(string(text))
}

// snapshotOf returns the folder that a path to a model's folder means: of a repository
// in the cache of Hugging Face its current snapshot.
func (t *tree) snapshotOf(dir string) string {
	if strings.HasPrefix(filepath.Base(dir), repositoryPrefix) {
		if f, err := t.list(dir); err == nil {
			if revisions := t.revisions(f); len(revisions) > 0 {
				return revisions[0]
			}
		}
	}
	return dir
}

// inSnapshot returns the repository of a file in the cache of Hugging Face and the
// file's path in its snapshot; "": it is in none.
func inSnapshot(path string) (repository, name string) {
	if repository = hubRepository(path); repository == "" {
		return "", ""
	}
	rel, err := filepath.Rel(filepath.Join(repository, snapshots), path)
	if err != nil || !filepath.IsLocal(rel) {
		return "", ""
	}
	_, name, _ = strings.Cut(rel, string(filepath.Separator))
	return repository, name
}
