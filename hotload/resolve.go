package hotload

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// Resolve returns the absolute path that a path from outside means, which is
// relative to root or within it. It refuses a path with "..", one that leads out
// of root by itself or by a symbolic link, one that is not there, and, where it is
// a folder, one with a link in it that leads out of root. The error unwraps to tier.ErrInvalid.
func Resolve(root, path string) (string, error) {
	fault := func(rule string) error {
		return &tier.InvalidError{Field: "path", Value: fmt.Sprintf("%.100q", path), Rule: rule,
			Help: []string{"Give the path of a file or folder within the model folder, relative to it."}}
	}
	switch {
	case path == "":
		return "", fault("must not be empty")
	case len(path) > maxPath || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", fault(fmt.Sprintf("must be %d bytes at most, without control characters", maxPath))
	case hasParent(path):
		return "", fault(`must not hold ".."`)
	}
	t, err := openTree(root)
	if err != nil {
		return "", err
	}
	defer t.close()

	// One answer for what is not there and for what lies outside, so that nobody
	// learns from it what lies outside.
	refused := fault("must be there, readable, and within the model folder")
	rel := path
	if filepath.IsAbs(path) {
		rel = t.relative(path)
	}
	if !filepath.IsLocal(rel) {
		return "", refused
	}
	full := filepath.Join(t.dir, rel)
	real, err := filepath.EvalSymlinks(full)
	if err != nil || !t.holds(real) {
		return "", refused
	}
	stat, err := os.Stat(real)
	switch {
	case err != nil:
		return "", refused
	case stat.Mode().IsRegular():
		return full, nil
	case !stat.IsDir():
		return "", fault("must be a file or a folder")
	}
	f, err := t.list(full)
	if err == nil {
		err = f.fault()
	}
	if err != nil {
		return "", err
	}
	return full, nil
}

// maxPath is PATH_MAX of Linux.
const maxPath = 4096

// hasParent reports whether the path goes up anywhere. It would be resolved by
// the text, and not by where a link before it leads.
func hasParent(path string) bool {
	for part := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '/' || r == filepath.Separator }) {
		if part == ".." {
			return true
		}
	}
	return false
}

// relative returns an absolute path as one below the folder, whether it is written
// as that was given or without its links, or "" where it is not below.
func (t *tree) relative(path string) string {
	for _, base := range []string{t.dir, t.boundary} {
		if rel, err := filepath.Rel(base, path); err == nil && filepath.IsLocal(rel) {
			return rel
		}
	}
	return ""
}
