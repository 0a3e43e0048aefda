package hotload

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// What is read of a file to tell its content, beside its header. Another fine-tune of a
// model has weights of its own under the same header, in about every tensor; a disk that
// has to seek finds the samples in less than a tenth of a second.
const (
	samples     = 8
	sampleBytes = 4 << 10
)

// fileVersion returns the version of a file of size bytes of which the first are its
// header.
func fileVersion(real string, r io.ReaderAt, size, header int64) (string, error) {
	if isBlob(real) || isHubBlob(real) {
		return tier.VersionDigest + real[len(real)-sha256Digits:], nil
	}
	sum := sha256.New()
	sum.Write(binary.LittleEndian.AppendUint64(nil, uint64(size)))
	buffer := buffers.Get().(*[bufferBytes]byte)
	defer buffers.Put(buffer)
	read := func(from, n int64) error {
		for n > 0 {
			piece := buffer[:min(n, bufferBytes)]
			got, err := r.ReadAt(piece, from)
			if got < len(piece) {
				return err // an EOF: it shrank meanwhile
			}
			sum.Write(piece)
			from, n = from+int64(got), n-int64(got)
		}
		return nil
	}
	rest := size - header
	if rest <= samples*sampleBytes {
		header, rest = size, 0
	}
	err := read(0, header)
	for i := int64(0); i < samples && rest > 0 && err == nil; i++ {
		err = read(header+(rest-sampleBytes)*i/(samples-1), sampleBytes)
	}
	if err != nil {
		return "", &FileError{Reason: "cannot be read", Err: err}
	}
	return tier.VersionHeader + hex.EncodeToString(sum.Sum(nil)), nil
}

// versionOf returns the version of a model of those files; "": one of them cannot be
// read.
func (t *tree) versionOf(files []file, entry string) string {
	if len(files) == 0 {
		return ""
	}
	dir := entry
	if slices.ContainsFunc(files, func(f file) bool { return f.path == entry }) {
		dir = filepath.Dir(entry)
	}
	kind := tier.VersionDigest
	lines := make([]string, len(files))
	for i := range files {
		f := &files[i]
		version := t.versionOfFile(f)
		switch {
		case version == "" || len(files) == 1:
			return version
		case !strings.HasPrefix(version, kind):
			kind = tier.VersionHeader
		}
		name := f.name()
		if rel, err := filepath.Rel(dir, f.path); err == nil {
			name = filepath.ToSlash(rel)
		}
		lines[i] = fmt.Sprintf("%s\t%d\t%s\n", compose(name), f.size(), version)
	}
	slices.Sort(lines)
	sum := sha256.New()
	for _, line := range lines {
		io.WriteString(sum, line)
	}
	return kind + hex.EncodeToString(sum.Sum(nil))
}

// versionOfFile returns the version of one file; "": it cannot be read. A header that is
// not sound is as the rest of the file.
func (t *tree) versionOfFile(f *file) string {
	version, known := t.versions[f.path]
	if known {
		return version
	}
	if info, err := t.inspect(f); err == nil {
		version = info.Version
	} else if opened, stat, err := t.open(f.real); err == nil {
		version, _ = fileVersion(f.real, opened, stat.Size(), 0)
		opened.Close()
	}
	t.versions[f.path] = version
	return version
}
