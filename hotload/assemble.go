package hotload

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// part is one model among the files of a folder.
type part struct {
	info  Info
	files []file
	whole bool // more belongs to the model than one weight file: its path is the folder
}

// assemble tells which weight files of the folder make a model together. What
// cannot be used is skipped, with the reason.
func (t *tree) assemble(f *folder) (parts []part, skipped []Skipped) {
	skip := func(path string, err error) { skipped = append(skipped, skippedFor(path, err)) }
	broken := func(path string, err error) {
		skip(path, err)
		skipped[len(skipped)-1].special = true
	}
	var projectors []part
	sets, err := t.sets(f)
	if err != nil {
		broken(f.dir, err)
	}
	for _, set := range sets {
		p, err := t.join(set)
		switch {
		case err != nil:
			broken(set.files[0].path, err)
		case p.info.Role == RoleProjector:
			projectors = append(projectors, p)
		case p.info.Role == RoleAdapter:
			skip(set.files[0].path, errors.New("is an adapter, no model of its own"))
		case p.info.Role == RoleAuxiliary:
			skip(set.files[0].path, errors.New("holds no weights to serve"))
		default:
			parts = append(parts, p)
		}
	}
	if len(parts) == 1 && parts[0].info.Format == FormatSafetensors {
		if err := t.consult(f, &parts[0]); err != nil {
			skip(f.dir, err)
		}
	}
	for _, p := range projectors {
		if len(parts) != 1 {
			skip(p.files[0].path, errors.New("is a projector: it belongs into a folder with its model alone"))
			continue
		}
		parts[0].add(p)
	}
	return parts, skipped
}

// set is files that claim to be one model.
type set struct {
	name  string
	files []file
	of    int  // how many there should be
	named bool // by an index, and not by their own names
}

// sets groups the weight files by what their names and an index say.
func (t *tree) sets(f *folder) ([]set, error) {
	var out []set
	listed := make(map[string]bool)
	for _, other := range f.others {
		stem, ok := strings.CutSuffix(other.name(), ".safetensors.index.json")
		if !ok {
			continue
		}
		names, err := t.readIndex(&other)
		if err != nil {
			return nil, err
		}
		s := set{name: stem, of: len(names), named: true}
		for _, w := range f.weights {
			if _, found := slices.BinarySearch(names, w.name()); found {
				s.files = append(s.files, w)
				listed[w.path] = true
			}
		}
		if missing := len(names) - len(s.files); missing > 0 {
			return nil, &FileError{Path: other.path, Reason: fmt.Sprintf("names %d shards of which %d are not there: %s", len(names), missing, absent(names, s.files)), Help: "Copy the missing shards."}
		}
		out = append(out, s)
	}
	byName := make(map[string]int)
	for _, w := range f.weights {
		if listed[w.path] {
			continue
		}
		sh := shardOf(w.name())
		if sh.of == 0 {
			out = append(out, set{name: sh.stem, files: []file{w}, of: 1})
			continue
		}
		key := sh.stem + "-of-" + strconv.Itoa(sh.of) + filepath.Ext(w.name())
		i, ok := byName[key]
		if !ok {
			i = len(out)
			byName[key] = i
			out = append(out, set{name: sh.stem, of: sh.of})
		}
		out[i].files = append(out[i].files, w)
	}
	return out, nil
}

// absent names some of those names that no file has.
func absent(names []string, files []file) string {
	const most = 3
	var out []string
	for _, n := range names {
		if !slices.ContainsFunc(files, func(f file) bool { return f.name() == n }) {
			if len(out) == most {
				return strings.Join(out, ", ") + ", …"
			}
			out = append(out, strconv.Quote(n))
		}
	}
	return strings.Join(out, ", ")
}

// join reads the files of a set and adds up what they say. The metadata is that
// of the first, where both formats keep it.
func (t *tree) join(s set) (part, error) {
	var p part
	seen := make(map[int]bool)
	var widest tier.Bytes
	for i := range s.files {
		f := &s.files[i]
		info, err := t.read(f)
		if err != nil {
			return part{}, err
		}
		if info.Shards > 1 && !s.named {
			if sh := shardOf(f.name()); sh.of != info.Shards || sh.no != info.Shard {
				return part{}, &FileError{Path: f.path, Reason: fmt.Sprintf("is shard %d of %d by its header, and not by its name", info.Shard, info.Shards), Help: "Give the file back its first name."}
			}
			if info.Shard < 1 || info.Shard > s.of || seen[info.Shard] {
				return part{}, &FileError{Path: f.path, Reason: "has a shard number that cannot be"}
			}
			seen[info.Shard] = true
		}
		next := part{info: info, files: s.files[i : i+1 : i+1]}
		if i == 0 {
			p, widest = next, info.TensorBytes
			continue
		}
		if info.TensorBytes > widest && info.Quantisation != "" {
			widest, p.info.Quantisation = info.TensorBytes, info.Quantisation
		}
		p.add(next)
	}
	if len(s.files) < s.of {
		var missing []string
		for no := 1; no <= s.of && len(missing) < 3; no++ {
			if !seen[no] {
				missing = append(missing, strconv.Itoa(no))
			}
		}
		return part{}, &FileError{Path: s.files[0].path, Reason: fmt.Sprintf("is one of %d shards, of which %d are not there: number %s first", s.of, s.of-len(s.files), strings.Join(missing, ", ")), Help: "Copy the missing shards beside it."}
	}
	p.info.Name = s.name
	p.info.Shard, p.info.Shards = 0, 0
	return p, nil
}

// add takes another file's weights into the part.
func (p *part) add(q part) {
	p.whole = true
	p.files = append(p.files, q.files...)
	a, b := &p.info, &q.info
	a.Size = a.Size.Plus(b.Size)
	a.TensorBytes = a.TensorBytes.Plus(b.TensorBytes)
	a.Tensors = int64(tier.Bytes(a.Tensors).Plus(tier.Bytes(b.Tensors)))
	a.Parameters = int64(tier.Bytes(a.Parameters).Plus(tier.Bytes(b.Parameters)))
	a.Files = append(slices.Clip(a.Files), b.Files...)
	for _, c := range b.Capabilities {
		if !slices.Contains(a.Capabilities, c) {
			a.Capabilities = append(slices.Clip(a.Capabilities), c) // the slice may be remembered
		}
	}
}
