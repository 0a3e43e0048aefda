package hotload

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
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

// assemble groups the weight files of the folder into models. It skips what cannot
// be used, with the reason.
func (t *tree) assemble(f *folder) (parts []part) {
	var projectors []part
	sets, err := t.sets(f)
	if err != nil {
		t.skipFor(f.dir, err).special = true
	}
	for _, set := range sets {
		p, err := t.join(set)
		switch {
		case err != nil:
			t.skipFor(set.files[0].path, err).special = true
		case p.info.Role == RoleProjector:
			projectors = append(projectors, p)
		case p.info.Role == RoleAdapter:
			t.skip(set.files[0].path, "is an adapter, no model of its own")
		case p.info.Role == RoleAuxiliary:
			t.skip(set.files[0].path, "holds no weights to serve")
		default:
			parts = append(parts, p)
		}
	}
	if len(parts) == 1 && parts[0].info.Format == FormatSafetensors {
		if err := t.consult(f, &parts[0]); err != nil {
			t.skipFor(f.dir, err)
		}
	}
	for _, p := range projectors {
		if len(parts) != 1 {
			t.skip(p.files[0].path, "is a projector: it belongs into a folder with its model alone")
			continue
		}
		parts[0].add(p)
	}
	return parts
}

// set is files that claim to be one model.
type set struct {
	name  string
	files []file
	of    int  // how many there should be
	named bool // by an index, and not by their own names
}

// sets groups the weight files by their names and by an index.
func (t *tree) sets(f *folder) ([]set, error) {
	var out []set
	weights := make(map[string]file, len(f.weights))
	for _, w := range f.weights {
		weights[w.name()] = w
	}
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
		var absent []string
		for _, name := range names {
			if w, ok := weights[name]; ok {
				s.files = append(s.files, w)
				listed[name] = true
			} else {
				absent = append(absent, strconv.Quote(name))
			}
		}
		if missing := len(absent); missing > 0 {
			if missing > 3 {
				absent = append(absent[:3], "…")
			}
			return nil, &FileError{Path: other.path, Reason: fmt.Sprintf("names %d shards of which %d are not there: %s", len(names), missing, strings.Join(absent, ", ")), Help: "Copy the missing shards."}
		}
		out = append(out, s)
	}
	bySet := make(map[string]int)
	for _, w := range f.weights {
		if listed[w.name()] {
			continue
		}
		sh, key := shardOf(w.name()), w.name()
		if sh.of > 0 {
			key = sh.stem + "/" + strconv.Itoa(sh.of) + filepath.Ext(key) // no file's name
		}
		i, ok := bySet[key]
		if !ok {
			i = len(out)
			bySet[key] = i
			out = append(out, set{name: sh.stem, of: max(sh.of, 1)})
		}
		out[i].files = append(out[i].files, w)
	}
	return out, nil
}

// join reads the files of a set and adds them up. The metadata is that of the first,
// where both formats keep it.
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

// add adds another file to the part. Slices of an Info that is remembered have no
// spare capacity, so that appending to them copies.
func (p *part) add(q part) {
	p.whole = true
	p.files = append(p.files, q.files...)
	a, b := &p.info, &q.info
	a.Size = a.Size.Plus(b.Size)
	a.TensorBytes = a.TensorBytes.Plus(b.TensorBytes)
	a.Tensors = int64(tier.Bytes(a.Tensors).Plus(tier.Bytes(b.Tensors)))
	a.Parameters = int64(tier.Bytes(a.Parameters).Plus(tier.Bytes(b.Parameters)))
	a.Files = append(a.Files, b.Files...)
	for _, c := range b.Capabilities {
		if !slices.Contains(a.Capabilities, c) {
			a.Capabilities = append(slices.Clip(a.Capabilities), c)
		}
	}
}

// maxJSON bounds the JSON files beside weights: an index names a shard for each of
// some 100 000 tensors.
const maxJSON = 32 << 20

// maxShards bounds how many files one model may name.
const maxShards = 10_000

// readIndex returns the sorted names of the shards in a safetensors index.
func (t *tree) readIndex(f *file) ([]string, error) {
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := t.readJSON(f, &index); err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	for _, name := range index.WeightMap {
		if name != filepath.Base(name) || !filepath.IsLocal(name) || formatOf(name) != FormatSafetensors {
			return nil, &FileError{Path: f.path, Reason: fmt.Sprintf("names %.100q, which is no safetensors file in the same folder", name)}
		}
		seen[name] = true
	}
	if len(seen) == 0 || len(seen) > maxShards {
		return nil, &FileError{Path: f.path, Reason: fmt.Sprintf("names %d shards; 1 to %d are allowed", len(seen), maxShards)}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// consult adds what other files in a model hub's folder say.
func (t *tree) consult(f *folder, p *part) error {
	var config struct {
		Architectures []string       `json:"architectures"`
		Context       float64        `json:"max_position_embeddings"`
		Vision        map[string]any `json:"vision_config"`
		Text          struct {
			Context float64 `json:"max_position_embeddings"`
		} `json:"text_config"`
	}
	var tokenizer struct {
		ChatTemplate any `json:"chat_template"` // a text, or a list of them
	}
	var chatTemplate bool
	var sentenceEncoder bool // made for sentence embeddings, whatever its architecture
	for _, other := range f.others {
		var err error
		switch other.name() {
		case "config.json":
			p.whole = true
			err = t.readJSON(&other, &config)
		case "tokenizer_config.json":
			err = t.readJSON(&other, &tokenizer)
			chatTemplate = chatTemplate || tokenizer.ChatTemplate != nil
		case "chat_template.jinja", "chat_template.json":
			chatTemplate = true
		case "modules.json": // how sentence-transformers marks its models
			sentenceEncoder = true
		}
		if err != nil {
			return err
		}
	}
	if len(config.Architectures) > 0 {
		p.info.Architecture = printable(config.Architectures[0])
	}
	if n := max(config.Context, config.Text.Context); n >= 1 && n <= 1<<31 {
		p.info.ContextLength = int64(n)
	}
	if sentenceEncoder {
		p.info.Capabilities = []string{embeddings}
	} else if what := hubCapability(p.info.Architecture); what != "" {
		p.info.Capabilities = withChat(what, chatTemplate)
		if config.Vision != nil {
			p.info.Capabilities = append(p.info.Capabilities, vision)
		}
	}
	return nil
}

// readJSON decodes a small file. An error in its content is a *FileError.
func (t *tree) readJSON(f *file, into any) error {
	opened, _, err := t.open(f.real)
	if err != nil {
		t.retry = true
		return fileError(f.path, err)
	}
	defer opened.Close()
	data, err := io.ReadAll(io.LimitReader(opened, maxJSON+1))
	switch {
	case err != nil:
		t.retry = true
		return fileError(f.path, err)
	case len(data) > maxJSON:
		return &FileError{Path: f.path, Reason: fmt.Sprintf("has more than %v", tier.Bytes(maxJSON))}
	}
	if err := json.Unmarshal(data, into); err != nil {
		return &FileError{Path: f.path, Reason: "is not the JSON that belongs there", Err: err}
	}
	return nil
}
