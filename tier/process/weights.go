package process

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// weightFile is a file of weights, by its real path.
type weightFile struct {
	path string
	size int64
}

// maxFiles bounds what is taken for one model, far above any real one.
const maxFiles = 1024

// shard is how a part of a sharded model is called; the engine is given the first
// and opens the others itself.
var shard = regexp.MustCompile(`^(.*-)(\d{5})(-of-)(\d{5})(\.[a-z]+)$`)

// weightFiles returns the files of a model: the file at its path and, of shards,
// the others, or the files of the folder. A path that is no file here (a name in
// a hub, say) has none, and then nothing is paged out or refilled. An absolute
// path that is missing is an error, which is clearer than the engine's.
func weightFiles(model *tier.Model) ([]weightFile, error) {
	path := model.Path
	info, err := os.Stat(path)
	switch {
	case err != nil && !filepath.IsAbs(path):
		return nil, nil
	case err != nil:
		return nil, &tier.InvalidError{
			Model: model.Name, Field: "path", Value: quote(path), Rule: "must be readable: " + reason(err),
			Help: []string{"Check the path, or let the server's user read it."},
		}
	case info.IsDir():
		return filesIn(path)
	}
	paths := []string{path}
	if part := shard.FindStringSubmatch(filepath.Base(path)); part != nil {
		count, _ := strconv.Atoi(part[4])
		paths = paths[:0]
		for i := 1; i <= min(count, maxFiles); i++ {
			paths = append(paths, filepath.Join(filepath.Dir(path), fmt.Sprintf("%s%05d%s%s%s", part[1], i, part[3], part[4], part[5])))
		}
	}
	return filesAt(paths), nil
}

// filesIn returns the files of a folder: its .gguf and .safetensors files, or,
// where it has none, all.
func filesIn(dir string) ([]weightFile, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, _ := d.Readdirnames(maxFiles) // what cannot be listed is not seen
	var weights, others []string
	for _, name := range names {
		switch path := filepath.Join(dir, name); strings.ToLower(filepath.Ext(name)) {
		case ".gguf", ".safetensors":
			weights = append(weights, path)
		default:
			others = append(others, path)
		}
	}
	if len(weights) == 0 {
		weights = others
	}
	return filesAt(weights), nil
}

// filesAt returns those of the paths that are regular files.
func filesAt(paths []string) []weightFile {
	var files []weightFile
	for _, path := range paths {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		if path, err := filepath.Abs(path); err == nil {
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
				files = append(files, weightFile{path, info.Size()})
			}
		}
	}
	return files
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// reason is err without the path, which the message names already.
func reason(err error) string {
	if pe, ok := err.(*os.PathError); ok {
		err = pe.Err
	}
	return err.Error()
}

// cachedOf returns how many bytes of the files are in the page cache, and whether
// the kernel says so truly of all of them.
func (sys *system) cachedOf(files []weightFile) (n tier.Bytes, sure bool) {
	if sys.cached == nil {
		return 0, false
	}
	for _, file := range files {
		f, sees, err := sys.open(file)
		if err != nil {
			return 0, false
		}
		var in int64
		if sees {
			in, err = sys.cached(f, 0, file.size)
		}
		f.Close()
		if err != nil || !sees {
			return 0, false
		}
		n += tier.Bytes(in)
	}
	return n, true
}

// open opens a file to read; sees says that what is cached of it can be told.
func (sys *system) open(file weightFile) (f *os.File, sees bool, err error) {
	if f, err = os.Open(file.path); err != nil {
		return nil, false, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, false, err
	}
	return f, sys.cached != nil && sys.owned(f, info), nil
}

// dropAll empties the page cache of what nobody maps of the files.
func (sys *system) dropAll(files []weightFile) {
	if sys.drop == nil {
		return
	}
	for _, file := range files {
		if f, err := os.Open(file.path); err == nil {
			sys.drop(f) // what stays is seen and stays charged
			f.Close()
		}
	}
}
