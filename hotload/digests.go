package hotload

import (
	"bytes"
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// What the content of a file should be is told by its name in a cache that names files by
// their SHA-256, or by a list beside it: FILE.sha256, or one of all files in a folder, as
// sha256sum and shasum write them.

// sumsSuffix is how the list of one file is called, behind the file's name.
const sumsSuffix = ".sha256"

// sumsNames are how the list of a folder is called, in lower case. The last one is what
// text-generation-webui's download-model.py leaves, with such a list in it.
var sumsNames = []string{"sha256sums", "sha256sums.txt", "sha256sum.txt", "huggingface-metadata.txt"}

// maxSums bounds a list: one line for each of tier.MaxParts files.
const maxSums = 1 << 20

// isSums reports whether a file of that name is such a list.
func isSums(name string) bool {
	return isSumsOfOne(name) || slices.Contains(sumsNames, strings.ToLower(name))
}

func isSumsOfOne(name string) bool { return strings.HasSuffix(strings.ToLower(name), sumsSuffix) }

// addDigests adds to a model whose parts are known what its files should hold. What its
// owner says goes before what is found, and what was found before is found again or
// forgotten.
func (t *tree) addDigests(m *tier.Model) {
	said := m.Digests
	m.Digests = nil
	add := func(path string, d tier.Digest) {
		if m.Digests == nil {
			m.Digests = make(map[string]tier.Digest)
		}
		m.Digests[path] = d
	}
	absolute := make(map[string]string) // path as the model has it, by its absolute form
	for i := range 1 + len(m.Parts) {
		path := m.Path
		if i > 0 {
			path = m.Parts[i-1]
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			continue
		}
		if len(said) > 0 {
			absolute[abs] = path
		}
		if d := t.digestOf(abs); d.SHA256 != "" {
			add(path, d)
		}
	}
	for path, d := range said {
		if d.Source != "" {
			continue
		}
		if abs, err := filepath.Abs(path); err == nil && absolute[abs] != "" {
			path = absolute[abs]
		}
		add(path, d)
	}
}

// digestOf returns what is known of a file's content; zero: nothing is, or it is a
// folder.
func (t *tree) digestOf(path string) tier.Digest {
	if isBlob(path) {
		return tier.Digest{SHA256: path[len(path)-sha256Digits:], Source: path}
	}
	f, err := t.list(filepath.Dir(path))
	if err != nil {
		return tier.Digest{}
	}
	name := filepath.Base(path)
	w := f.has(name)
	if i, ok := slices.BinarySearchFunc(f.weights, name, func(w file, name string) int { return strings.Compare(w.name(), name) }); ok {
		w = &f.weights[i]
	}
	switch {
	case w == nil:
		return tier.Digest{}
	case isBlob(w.real), isHubBlob(w.real):
		return tier.Digest{SHA256: w.real[len(w.real)-sha256Digits:], Source: w.real}
	}
	return t.sums(f)[compose(name)]
}

const sha256Digits = 64

var sha256Name = regexp.MustCompile(`^[0-9a-f]{64}$`)

// isHubBlob reports whether the path is that of a large file in the cache of Hugging
// Face: small ones have a name of 40 digits.
func isHubBlob(path string) bool {
	dir := filepath.Dir(path)
	return sha256Name.MatchString(filepath.Base(path)) && filepath.Base(dir) == "blobs" && strings.HasPrefix(filepath.Base(filepath.Dir(dir)), repositoryPrefix)
}

// sums returns what the lists in a folder say of the files in it, by their names in NFC.
// The list of one file goes before those of all; where two of those say different things of
// a file, neither counts. What is no list is skipped.
func (t *tree) sums(f *folder) map[string]tier.Digest {
	if f.sums != nil {
		return f.sums
	}
	f.sums = make(map[string]tier.Digest)
	disagree := make(map[string]bool)
	for _, single := range [...]bool{false, true} {
		for i := range f.others {
			list := &f.others[i]
			if !isSums(list.name()) || single != isSumsOfOne(list.name()) {
				continue
			}
			all, err := t.readSums(list, single)
			if err != nil {
				t.skipFor(list.path, err)
				continue
			}
			if single { // it is of that file, wherever that was and however it was called then
				name := list.name()[:len(list.name())-len(sumsSuffix)]
				if all = (sums{name: all.only(name)}); all[name] == "" {
					t.skipFor(list.path, &FileError{Path: list.path, Reason: "has no digest of " + name + ", or two", Help: "Make it with sha256sum, in the folder of the file."})
				}
			}
			for name, sum := range all {
				name = compose(name)
				switch was := f.sums[name]; {
				case sum == "":
				case !single && was.SHA256 != "" && was.SHA256 != sum:
					disagree[name] = true
					t.skipFor(list.path, &FileError{Path: list.path, Reason: "says something else of " + name + " than " + was.Source, Help: "Remove the list that is wrong."})
				case single:
					delete(disagree, name)
					fallthrough
				default:
					f.sums[name] = tier.Digest{SHA256: sum, Source: list.path}
				}
			}
		}
	}
	for name := range disagree {
		delete(f.sums, name)
	}
	return f.sums
}

// readSums reads a list, as parseSums. An error is a *FileError.
func (t *tree) readSums(f *file, single bool) (sums, error) {
	text, err := t.readText(f, maxSums+1)
	switch {
	case err != nil:
		t.retry = true
		return nil, err
	case len(text) > maxSums:
		err = errors.New("it is too long")
	default:
		var list sums
		if list, err = parseSums(text, single); err == nil {
			return list, nil
		}
	}
	return nil, &FileError{Path: f.path, Reason: "is no list of SHA-256 digests", Err: err, Help: "Make it with sha256sum, in the folder of the files."}
}

// sums are digests by the name of a file in the list's folder. "" as a name: the list
// names no file. "" as a digest: it says two things.
type sums map[string]string

// The lines of sha256sum (GNU coreutils: digest, blank, blank or asterisk, name), and of
// BSD's sha256 and shasum --tag.
var (
	sumLine = regexp.MustCompile(`^\s*([0-9a-fA-F]{64})(?:[ \t]+\*?(.*?))?\s*$`)
	sumTag  = regexp.MustCompile(`^\s*SHA256 \((.*)\) = ([0-9a-fA-F]{64})\s*$`)
)

// parseSums reads a list. Lines of other kinds are passed over, if there is a digest at
// all; names that lead out of the folder, or into one below, are none of its files. Of a
// list of a single file the last element of a name counts: what it leads to depends on
// where the list was made.
func parseSums(text []byte, single bool) (sums, error) {
	out := make(sums)
	found := false
	for line := range bytes.Lines(text) {
		var name, sum []byte
		if m := sumLine.FindSubmatch(line); m != nil {
			sum, name = m[1], m[2]
		} else if m := sumTag.FindSubmatch(line); m != nil {
			name, sum = m[1], m[2]
		} else {
			continue
		}
		found = true
		key, digest := strings.TrimPrefix(string(name), "./"), strings.ToLower(string(sum))
		if single {
			key = key[strings.LastIndexAny(key, `/\`)+1:]
		}
		if key != "" && (!localName(key) || key != filepath.Base(key) || key == ".") {
			continue
		}
		if was, twice := out[key]; twice && was != digest {
			digest = ""
		}
		out[key] = digest
	}
	if !found {
		return nil, errors.New("no line of it is one")
	}
	return out, nil
}

// only returns the digest that a list of one file has for it: under its name or, if that is
// not in it, the one digest that it has under any; "": none.
func (s sums) only(name string) string {
	if sum, ok := s[name]; ok {
		return sum
	}
	one := ""
	for _, sum := range s {
		if sum == "" || one != "" && sum != one {
			return ""
		}
		one = sum
	}
	return one
}
