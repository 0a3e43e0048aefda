package mapped

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/internal/regular"
	"github.com/modeltier/modeltier/tier"
)

// Limits for one model, far above any real one: each shard costs a file handle
// and a mapping.
const (
	maxShards  = 1 + tier.MaxParts // the file at the path, and its parts
	maxEntries = 100_000           // directory entries read
)

// findShards returns the files that hold the model's weights: the file at its path
// with its parts; of a folder the parts or, without any, the .gguf and .safetensors
// entries by name. A folder without such entries counts with all its files. Links are
// followed; hidden entries and, beside files of unknown format, subfolders do not
// count. Entries that are no regular files are returned as well: opening them reports
// what is wrong.
func findShards(model, path string, parts ...string) ([]string, error) {
	err := checkPath(model, path)
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, pathError(model, path, err)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, pathError(model, path, err)
	case info.Mode().IsRegular():
		return withParts(model, []string{path}, parts)
	case !info.IsDir():
		return nil, badPath(model, path, "must be a regular file or a folder of them, is "+regular.Kind(info), "Name the file of weights, or the folder that holds them.")
	case len(parts) > 0:
		return withParts(model, nil, parts)
	}
	return listFolder(model, path)
}

// withParts adds the parts that are not among the files.
func withParts(model string, files, parts []string) ([]string, error) {
	for _, part := range parts {
		abs, err := filepath.Abs(part)
		if err != nil {
			return nil, pathError(model, part, err)
		}
		if !slices.Contains(files, abs) {
			files = append(files, abs)
		}
	}
	if len(files) > maxShards {
		return nil, tooMany(model, parts[0], len(files))
	}
	return files, nil
}

func tooMany(model, path string, files int) error {
	return badPath(model, path, fmt.Sprintf("must hold %d files of weights at most, has %d", maxShards, files), "Give each model a folder of its own.")
}

func checkPath(model, path string) error {
	if path == "" {
		return badPath(model, path, "must name a file or a folder of weights", "Set the model's path to its file of weights, or to the folder that holds them.")
	}
	return nil
}

func listFolder(model, dir string) ([]string, error) {
	entries, err := regular.List(dir, maxEntries+1)
	switch {
	case err != nil:
		return nil, pathError(model, dir, err)
	case len(entries) > maxEntries:
		return nil, badPath(model, dir, fmt.Sprintf("must hold %d files at most", maxEntries), "Move the weights to a folder of their own.")
	}
	var weights, others []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if regular.Weights(path) != "" {
			weights = append(weights, path)
		} else {
			others = append(others, path)
		}
	}
	if len(weights) == 0 {
		weights = slices.DeleteFunc(others, func(path string) bool {
			info, err := os.Stat(path)
			return err == nil && info.IsDir()
		})
	}
	switch {
	case len(weights) == 0:
		return nil, badPath(model, dir, "must hold at least one regular file", "Put the weights into the folder, or correct the path.")
	case len(weights) > maxShards:
		return nil, tooMany(model, dir, len(weights))
	}
	return weights, nil
}

// openRegular opens a regular file for reading, and refuses what cannot be mapped.
func openRegular(model, path string) (*os.File, fs.FileInfo, error) {
	f, info, err := regular.Open(path)
	if special, ok := errors.AsType[*regular.Error](err); ok {
		return nil, nil, badPath(model, path, "must be a regular file, is "+special.Kind, "Put the file of weights in its place, or move it out of the folder of weights.")
	}
	if err != nil {
		return nil, nil, pathError(model, path, err)
	}
	if uint64(info.Size()) > math.MaxInt { // on a 32-bit system
		f.Close()
		return nil, nil, badPath(model, path, fmt.Sprintf("has %v, and a 32-bit system maps files below 2 GiB", tier.Bytes(info.Size())),
			"Run a 64-bit build, or split the model into shards.")
	}
	return f, info, nil
}

// pathError turns an error of the file system into one that names the rule and a
// way out.
func pathError(model, path string, err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err // the path is named already
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if target, err := os.Readlink(path); err == nil {
			return badPath(model, path, "must exist, is a link to "+quote(target)+", which does not", "Restore the file that the link points to, or remove the link.")
		}
		return badPath(model, path, "must exist", "Check the path, or remove the model.")
	case errors.Is(err, fs.ErrPermission):
		return badPath(model, path, "must be readable: "+err.Error(), "Let the server's user read the file, or run the server as its owner.")
	}
	return badPath(model, path, "must be readable: "+err.Error(), "Check the path, and whether its disk is in order.")
}

func badPath(model, path, rule string, help ...string) error {
	return &tier.InvalidError{Model: model, Field: "path", Value: quote(path), Rule: rule, Help: help}
}

// quote quotes s for a message and cuts it to a bounded length, keeping the end,
// which tells the most about a path.
func quote(s string) string {
	const maxLen = 256
	if len(s) > maxLen {
		return "…" + strconv.Quote(s[len(s)-maxLen:])
	}
	return strconv.Quote(s)
}

// ChangedError reports that a file is no longer the one that was mapped. The
// mapping must not be used: it may show another version of the weights, parts of
// two, or end early. Move the model to storage to unmap it; the next load maps the
// file as it is then. It unwraps to tier.ErrInvalid.
type ChangedError struct {
	Model string
	Path  string
	// How is "truncated", "grown", "rewritten", "replaced", "gone" or "out of reach".
	How string
	// Was and Is are the file's sizes when it was mapped and now.
	Was, Is tier.Bytes
}

func (e *ChangedError) Error() string {
	about := quote(e.Path)
	if e.Model != "" {
		about = "model " + quote(e.Model) + ": " + about
	}
	switch {
	case e.missing():
		return fmt.Sprintf("%s is %s while it is mapped", about, e.How)
	case e.Was != e.Is:
		return fmt.Sprintf("%s was %s while it was mapped: it had %d bytes and has %d", about, e.How, int64(e.Was), int64(e.Is))
	}
	return fmt.Sprintf("%s was %s while it was mapped", about, e.How)
}

func (e *ChangedError) missing() bool { return e.How == "gone" || e.How == "out of reach" }

// Unwrap returns tier.ErrInvalid.
func (e *ChangedError) Unwrap() error { return tier.ErrInvalid }

// Suggestions implements tier.Suggester.
func (e *ChangedError) Suggestions() []string {
	if e.missing() {
		return []string{"Put the file back where it can be read, or remove the model."}
	}
	return []string{
		"Move the model to storage and load it again, when the file is whole.",
		"Replace weight files by renaming a new file over the old one, not by writing into it.",
	}
}

// check returns a *ChangedError if the file is not the one that was mapped. It looks
// up the path, not the open handle, so that a new file at the same path is found too.
func (s *shard) check() error {
	e := &ChangedError{Model: s.model, Path: s.path, Was: tier.Bytes(s.size())}
	now, err := os.Stat(s.path)
	if err != nil {
		e.How = "out of reach"
		if errors.Is(err, fs.ErrNotExist) {
			e.How = "gone"
		}
		return e
	}
	e.Is = tier.Bytes(now.Size())
	switch {
	case !os.SameFile(s.info, now):
		e.How = "replaced"
	case e.Is < e.Was:
		e.How = "truncated"
	case e.Is > e.Was:
		e.How = "grown"
	case !now.ModTime().Equal(s.info.ModTime()):
		e.How = "rewritten"
	default:
		return nil
	}
	return e
}
