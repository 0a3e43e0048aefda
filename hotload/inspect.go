package hotload

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// Inspect reads what stands at path: a model file, or a folder with the files of
// one model (shards, a projector, the config.json of a model hub). A file of an
// unknown format is accepted, with nothing known but its size; one that is empty,
// truncated, broken, or no regular file is not. Symbolic links are followed
// wherever they lead: a path from outside goes through Resolve first.
//
// Only headers are read. An error is a *FileError.
func Inspect(path string) (Info, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return Info{}, &FileError{Path: path, Reason: "cannot be read", Err: err}
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return Info{}, &FileError{Path: path, Reason: "cannot be read", Err: err}
	}
	switch {
	case stat.Mode().IsRegular():
		return inspectFile(abs, os.OpenFile)
	case !stat.IsDir(): // to open a device may already be an act
		return Info{}, notRegular(path, stat)
	}
	t := &tree{}
	f, err := t.list(abs)
	if err == nil {
		err = f.fault()
	}
	if err != nil {
		return Info{}, err
	}
	if len(f.weights) == 0 {
		return f.unknown()
	}
	return t.inspectFolder(f)
}

// Measure returns the bytes of the weights at path: of a file, its size; of a
// folder, the sum of its GGUF and safetensors files or, where it has none, of all
// its regular files. Hidden files and subfolders do not count. No file is opened.
// An error is a *FileError.
func Measure(path string) (tier.Bytes, error) {
	stat, err := os.Stat(path)
	switch {
	case err != nil:
		return 0, &FileError{Path: path, Reason: "cannot be read", Err: err}
	case stat.Mode().IsRegular() && stat.Size() == 0:
		return 0, &FileError{Path: path, Reason: "is empty"}
	case stat.Mode().IsRegular():
		return tier.Bytes(stat.Size()), nil
	case !stat.IsDir():
		return 0, notRegular(path, stat)
	}
	f, err := (&tree{}).list(path)
	if err != nil {
		return 0, err
	}
	if err := f.fault(); err != nil {
		return 0, err
	}
	sum := f.weigh()
	if sum == 0 {
		return 0, &FileError{Path: path, Reason: "holds no weights"}
	}
	return sum, nil
}

// inspectFolder returns what the one model in the folder says about itself.
func (t *tree) inspectFolder(f *folder) (Info, error) {
	parts, skipped := t.assemble(f)
	for _, s := range skipped {
		if s.special || len(parts) == 0 { // what is no part was skipped, so there is one
			return Info{}, s.fault()
		}
	}
	if len(parts) > 1 {
		return Info{}, &FileError{Path: f.dir, Reason: fmt.Sprintf("holds %d models, %s and %s among them", len(parts), parts[0].info.Name, parts[1].info.Name), Help: "Name one of the files in it, or give each model a folder."}
	}
	return parts[0].in(f), nil
}

// in is the Info of a part whose path is the folder. A Mover takes every weight
// file in there, also one that is beside the model.
func (p *part) in(f *folder) Info {
	info := p.info
	info.Name = folderName(f.dir)
	info.Size = f.weigh()
	return info
}

// weigh adds up the sizes of the weight files.
func (f *folder) weigh() tier.Bytes {
	files := f.weights
	if len(files) == 0 {
		files = f.others
	}
	var sum tier.Bytes
	for _, file := range files {
		sum = sum.Plus(tier.Bytes(file.stat.Size()))
	}
	return sum
}

// unknown is the Info of a folder without a file of a known format.
func (f *folder) unknown() (Info, error) {
	info := Info{Name: folderName(f.dir), Size: f.weigh()}
	for _, file := range f.others {
		info.Files = append(info.Files, file.path)
	}
	if info.Size == 0 {
		return Info{}, &FileError{Path: f.dir, Reason: "holds no weights"}
	}
	return info, nil
}

// inspectFile reads one file that open opens.
func inspectFile(path string, open openFunc) (Info, error) {
	f, err := openRegularWith(open, path)
	if err != nil {
		if e, ok := err.(*FileError); ok {
			return Info{}, e
		}
		return Info{}, &FileError{Path: path, Reason: "cannot be read", Err: err}
	}
	defer f.Close()
	info, err := inspectOpen(f, path)
	if err != nil {
		if e, ok := err.(*FileError); ok {
			e.Path = path
			return Info{}, e
		}
		return Info{}, &FileError{Path: path, Reason: "cannot be read", Err: err}
	}
	info.Name = fileName(path)
	info.Files = []string{path}
	if s := shardOf(filepath.Base(path)); info.Shards == 0 && s.of > 1 {
		info.Shard, info.Shards = s.no, s.of
	}
	return info, nil
}

func inspectOpen(f *os.File, path string) (Info, error) {
	stat, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	size := stat.Size()
	if size == 0 {
		return Info{}, &FileError{Reason: "is empty"}
	}
	var info Info
	var magic [4]byte
	_, err = f.ReadAt(magic[:], 0)
	switch format := formatOf(path); {
	case format == FormatSafetensors:
		info, err = ReadSafetensors(f, size)
	case format == FormatGGUF || string(magic[:]) == "GGUF":
		info, err = ReadGGUF(f, size)
	case err != nil && size >= int64(len(magic)):
		return Info{}, err
	default:
		err = nil
	}
	info.Size = tier.Bytes(size)
	return info, err
}

// formatOf goes by the name.
func formatOf(path string) Format {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".gguf":
		return FormatGGUF
	case ".safetensors":
		return FormatSafetensors
	}
	return FormatUnknown
}
