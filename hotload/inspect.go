package hotload

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/modeltier/modeltier/internal/regular"
	"github.com/modeltier/modeltier/tier"
)

// FileError reports a model file or folder that cannot be used.
type FileError struct {
	Path string
	// Reason says what is wrong, in words that follow the path.
	Reason string
	// Missing is a lower bound of the bytes that a truncated file lacks; 0: it is not
	// truncated.
	Missing tier.Bytes
	// Err is the error of the operating system, if that is the cause.
	Err error
	// Help says what can be done.
	Help string
}

func (e *FileError) Error() string {
	what := "model file"
	if e.Path != "" {
		what = fmt.Sprintf("%q", e.Path)
	}
	if e.Err != nil {
		return fmt.Sprintf("%s %s: %v", what, e.Reason, e.Err)
	}
	return what + " " + e.Reason
}

// Unwrap returns tier.ErrInvalid, and Err if there is one.
func (e *FileError) Unwrap() []error {
	if e.Err != nil {
		return []error{tier.ErrInvalid, e.Err}
	}
	return []error{tier.ErrInvalid}
}

// Suggestions implements tier.Suggester.
func (e *FileError) Suggestions() []string {
	switch {
	case e.Help != "":
		return []string{e.Help}
	case e.Missing > 0:
		return []string{"Wait until the file is complete, or copy it again."}
	case e.Err != nil:
		return []string{"Check the path, and that the server may read it."}
	}
	return []string{"Copy or convert the file again."}
}

// fileError returns err, which is about path, as an error with a path.
func fileError(path string, err error) *FileError {
	if e, ok := errors.AsType[*FileError](err); ok {
		if e.Path == "" {
			e.Path = path
		}
		return e
	}
	if e, ok := errors.AsType[*regular.Error](err); ok {
		return &FileError{Path: path, Reason: "is " + e.Kind + ", not a file"}
	}
	return &FileError{Path: path, Reason: "cannot be read", Err: err}
}

// Inspect reads the headers of the model at path: a file, with the other shards of its
// set and its projector; the index of a set; or a folder with the files of one model.
// Naming any shard, the index or the folder gives the same. A file of an unknown format
// is accepted, and only its size is known; one that is empty, truncated, broken, or
// not a regular file is refused, and so is a set that is not complete. Symbolic links
// are followed wherever they lead: pass a path from a client through Resolve first.
//
// An error is a *FileError.
func Inspect(path string) (Info, error) { return newTree().inspectPath(path) }

func (t *tree) inspectPath(path string) (Info, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Info{}, fileError(path, err)
	}
	stat, err := os.Stat(abs)
	if err != nil {
		return Info{}, fileError(path, err)
	}
	s, err := t.setOf(abs, stat.IsDir())
	if err != nil {
		return Info{}, err
	}
	return s.info, nil
}

// Measure returns the bytes of the weights of the model at path, as Inspect finds it.
// Where it finds no whole model, it is the size of the file; the sum of the GGUF and
// safetensors files in the folder or, if it has none, of all its regular files. Hidden
// files and subfolders do not count then. A shard of a set that is not complete has no
// size. An error is a *FileError.
func Measure(path string) (tier.Bytes, error) {
	m, err := newTree().gather(tier.Model{Path: path})
	return m.Size, err
}

// weigh adds up the sizes of the weight files, and fails if there are none.
func (f *folder) weigh() (sum tier.Bytes, err error) {
	files := f.weights
	if len(files) == 0 {
		files = f.others
	}
	for i := range files {
		sum = sum.Plus(tier.Bytes(files[i].size()))
	}
	if sum == 0 {
		return 0, &FileError{Path: f.dir, Reason: "holds no weights"}
	}
	return sum, nil
}

// inspect reads the header of one file.
func (t *tree) inspect(f *file) (Info, error) {
	info, err := t.readHeader(f)
	if err != nil {
		return Info{}, fileError(f.path, err)
	}
	info.Name = fileName(f.path)
	info.Files = []string{f.path}
	if s := shardOf(f.name()); info.Shards == 0 && s.of > 1 {
		info.Shard, info.Shards = s.no, s.of
	}
	return info, nil
}

func (t *tree) readHeader(f *file) (info Info, err error) {
	opened, stat, err := t.open(f.real)
	if err != nil {
		return Info{}, err
	}
	defer opened.Close()
	size := stat.Size()
	if size == 0 {
		return Info{}, &FileError{Reason: "is empty"}
	}
	if pointer, err := isPointer(opened, size); err != nil {
		return Info{}, err
	} else if pointer {
		return Info{}, &FileError{Reason: "is a pointer of git-lfs in place of the weights", Help: "Run git lfs pull in its folder."}
	}
	format := formatOf(f.path)
	if format == FormatUnknown && size >= int64(len(ggufMagic)) {
		var magic [len(ggufMagic)]byte
		if _, err := opened.ReadAt(magic[:], 0); err != nil {
			return Info{}, err
		}
		if string(magic[:]) == ggufMagic {
			format = FormatGGUF
		}
	}
	var header int64 // bytes of it
	switch format {
	case FormatSafetensors:
		info, header, err = readSafetensorsHeader(opened, size)
	case FormatGGUF:
		info, header, err = t.readGGUF(f.path, opened, size)
	}
	info.Size = tier.Bytes(size)
	if err == nil {
		info.Version, err = fileVersion(f.real, opened, size, header)
	}
	return info, err
}

// isPointer reports whether a file is what git-lfs puts in the place of one that was
// not fetched (its docs/spec.md: less than 1024 bytes).
func isPointer(r io.ReaderAt, size int64) (bool, error) {
	const first = "version https://git-lfs.github.com/spec/"
	if size < int64(len(first)) || size >= 1024 {
		return false, nil
	}
	var begin [len(first)]byte
	_, err := r.ReadAt(begin[:], 0)
	return string(begin[:]) == first, err
}

// formatOf returns the format that the name indicates.
func formatOf(path string) Format {
	switch regular.Weights(path) {
	case "gguf":
		return FormatGGUF
	case "safetensors":
		return FormatSafetensors
	}
	return FormatUnknown
}
