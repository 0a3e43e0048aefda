package hotload

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// indexSuffix is how an index of safetensors shards is called, behind their stem.
const indexSuffix = ".safetensors.index.json"

// maxIndex bounds an index, which names a shard for each of some 100 000 tensors, and
// maxJSON the other JSON files beside weights: the largest list a vocabulary's additions.
const (
	maxIndex = 32 << 20
	maxJSON  = 4 << 20
)

// maxShards bounds how many files one model may name.
const maxShards = tier.MaxParts

// indexed returns the group that an index in the folder names. Shards may lie in
// folders below, as vLLM takes them.
func (t *tree) indexed(f *folder, index *file, stem string) *group {
	g := &group{folder: f, stem: stem, index: index.path}
	names, err := t.readIndex(index)
	if err != nil {
		g.err = err
		return g
	}
	g.of = len(names)
	var absent []string
	for _, name := range names {
		if w := t.weightsAt(f, name); w != nil {
			g.files = append(g.files, *w)
		} else {
			absent = append(absent, name)
		}
	}
	if len(absent) > 0 {
		g.err = &FileError{Path: index.path, Reason: fmt.Sprintf("names %d shards of which %d are not there: %s", len(names), len(absent), someOf(absent)), Help: "Copy the missing shards."}
	}
	return g
}

// weightsAt returns the weight file of a local name, with slashes, in the folder or
// below; nil: there is none.
func (t *tree) weightsAt(f *folder, name string) *file {
	if dir := path.Dir(name); dir != "." {
		below, err := t.list(filepath.Join(f.dir, filepath.FromSlash(dir)))
		if err != nil {
			return nil
		}
		f, name = below, path.Base(name)
	}
	if f.byName == nil {
		f.byName = make(map[string]*file, len(f.weights))
		for i := range f.weights {
			f.byName[compose(f.weights[i].name())] = &f.weights[i]
		}
		for i := range f.weights { // a name that is just that goes before another form of it
			f.byName[f.weights[i].name()] = &f.weights[i]
		}
	}
	if w := f.byName[name]; w != nil {
		return w
	}
	return f.byName[compose(name)]
}

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
		if !localName(name) || formatOf(name) != FormatSafetensors {
			return nil, &FileError{Path: f.path, Reason: fmt.Sprintf("names %.100q, which is no safetensors file in its folder or below", name)}
		}
		seen[path.Clean(name)] = true
	}
	if len(seen) == 0 || len(seen) > maxShards {
		return nil, &FileError{Path: f.path, Reason: fmt.Sprintf("names %d shards; 1 to %d are allowed", len(seen), maxShards)}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// localName reports whether a name with slashes from a file stays in that file's
// folder, on any system.
func localName(name string) bool {
	return len(name) <= maxPath && !strings.ContainsAny(name, "\\:\x00") && filepath.IsLocal(filepath.FromSlash(name))
}

// chooseHub finds the model of a model hub's folder among its groups: an engine is
// given that folder, and takes one set of weights from it. The others that hold the
// same weights are left out: Mistral's consolidated file beside shards, a file in
// another precision, shards that the index does not name.
func (t *tree) chooseHub(f *folder) {
	isHub := f.has("config.json") != nil || f.has("params.json") != nil
	var candidates []*group
	for _, g := range f.groups {
		isHub = isHub || g.index != ""
		if g.index != "" || g.format() == FormatSafetensors {
			candidates = append(candidates, g)
		}
	}
	if !isHub || len(candidates) == 0 {
		return
	}
	rank := func(g *group) int {
		switch {
		case g.index != "" && g.stem != "consolidated":
			return 0
		case g.stem == "model":
			return 1
		case g.stem == "consolidated":
			return 2
		}
		return 3
	}
	slices.SortStableFunc(candidates, func(a, b *group) int { return rank(a) - rank(b) })
	main := candidates[0]
	for _, g := range candidates {
		// What was not downloaded, but for its index, is not the model that is here.
		if len(g.files) > 0 {
			main = g
			break
		}
	}
	if rank(main) == 3 && len(candidates) > 1 {
		var models []*group
		for _, g := range candidates {
			if info, err := t.join(g); err != nil || info.Role == RoleModel {
				models = append(models, g)
			}
		}
		if len(models) != 1 {
			return // as many models
		}
		main = models[0]
	}
	main.asFolder = true
	t.addModules(f, main)
	drop := make(map[*group]bool)
	for _, g := range candidates {
		stem, variant, _ := strings.Cut(g.stem, ".")
		switch {
		case g == main:
		case len(g.files) == 0:
			drop[g] = rank(main) < 3 // an index of shards that were not downloaded
		case rank(g) < 3, variant != "" && rank(&group{stem: stem}) < 3:
			drop[g] = true
			t.skip(g.files[0].path, fmt.Sprintf("holds the weights of %q once more", main.files[0].name()))
		}
	}
	f.groups = slices.DeleteFunc(f.groups, func(g *group) bool { return drop[g] })
}

// addModules adds the weights in the folders that sentence-transformers' modules.json
// names.
func (t *tree) addModules(f *folder, g *group) {
	list := f.has("modules.json")
	if list == nil || t.claiming {
		return
	}
	var modules []struct {
		Path string `json:"path"`
	}
	if err := t.readJSON(list, &modules); err != nil {
		t.skipFor(list.path, err)
		return
	}
	c := t.newClaim(g)
	for _, m := range modules[:min(len(modules), maxModules)] {
		if localName(m.Path) {
			c.take(filepath.Join(f.dir, filepath.FromSlash(m.Path))) // a module may have no weights
		}
	}
}

// maxModules bounds the parts that a pipeline may be made of.
const maxModules = 64

// claim makes weights in folders below belong to a group: each folder and each file
// once, whatever links lead to it. What lies in them names no further folders.
type claim struct {
	t     *tree
	group *group
	taken map[string]bool // folders and files, without links
}

func (t *tree) newClaim(g *group) *claim {
	c := &claim{t: t, group: g, taken: map[string]bool{g.folder.real: true}}
	c.note(g)
	return c
}

// note reports whether a file of the group is new, and notes them all.
func (c *claim) note(g *group) (news bool) {
	for _, file := range g.files {
		news = news || !c.taken[file.real]
		c.taken[file.real] = true
	}
	return news
}

// take takes the weights in a folder. Where they are not whole, the group has that fault.
// The error says why the folder has none at all.
func (c *claim) take(dir string) error {
	below, err := c.t.list(dir)
	if err != nil {
		return err
	}
	if c.taken[below.real] {
		return nil
	}
	c.taken[below.real] = true
	defer func(before bool) { c.t.claiming = before }(c.t.claiming)
	c.t.claiming = true
	groups := slices.Clone(c.t.group(below))
	below.groups = nil
	for _, other := range groups {
		for _, file := range other.files {
			c.t.claimed[file.path] = true
		}
	}
	if fault := below.unusable(groups); fault != nil {
		c.fail(fault)
		return nil
	}
	if !holdsFiles(groups) {
		return below.bare()
	}
	for _, other := range groups {
		stem, _, ok := strings.Cut(other.stem, ".")
		switch {
		case len(other.files) == 0: // an index of shards that were not downloaded
		// "model.fp16" is "model" in another precision.
		case ok && slices.ContainsFunc(groups, func(o *group) bool { return o.stem == stem && len(o.files) > 0 }):
			c.t.skip(other.files[0].path, fmt.Sprintf("holds the weights of %q once more", stem))
		case c.note(other):
			c.group.also = append(c.group.also, other)
		}
	}
	return nil
}

// fail makes the group one that is not whole.
func (c *claim) fail(fault error) {
	c.group.also = append(c.group.also, &group{folder: c.group.folder, err: fault})
}

func holdsFiles(groups []*group) bool {
	return slices.ContainsFunc(groups, func(g *group) bool { return len(g.files) > 0 })
}

// unusable returns what is wrong with weights that the folder should have: a link that
// leads nowhere or out and, if none of the groups in it has files, an index without
// shards or a download.
func (f *folder) unusable(groups []*group) error {
	none := !holdsFiles(groups)
	for _, s := range f.skipped {
		if s.special && formatOf(s.Path) != FormatUnknown || none && unfinished(filepath.Base(s.Path)) != "" {
			return s.fault()
		}
	}
	for _, g := range groups {
		if none && g.err != nil {
			return g.err
		}
	}
	return nil
}

// bare returns what the folder of a part has in place of weights, where it should have
// some; nil: a scheduler or a tokenizer has none.
func (f *folder) bare() error {
	for i := range f.others {
		if kind := foreign(f.others[i].name()); kind != "" {
			return &FileError{Path: f.others[i].path, Reason: fmt.Sprintf("holds %s weights, and other parts of the model have safetensors", kind), Help: "Copy the safetensors files of this part too."}
		}
	}
	if f.has("config.json") != nil || len(f.others) == 0 {
		return &FileError{Path: f.dir, Reason: "is a part of the model in the folder above, and has no weights", Help: "Copy the weights of this part too."}
	}
	return nil
}

// pipeline returns the model of a diffusers' folder, whose parts lie in folders below;
// nil: it is none. Where a part is not whole, the model has that fault.
func (t *tree) pipeline(f *folder) *group {
	index := f.has("model_index.json")
	if index == nil || f.pipeline != nil {
		return f.pipeline
	}
	var parts map[string]json.RawMessage
	if err := t.readJSON(index, &parts); err != nil {
		t.skipFor(index.path, err)
		return nil
	}
	g := &group{folder: f, stem: filepath.Base(f.dir), asFolder: true}
	c := t.newClaim(g)
	var lacking error // of a part that the pipeline cannot do without
	take := func(dir string, needed bool) {
		if err := c.take(dir); needed && lacking == nil {
			lacking = err
		}
	}
	names := slices.Sorted(maps.Keys(parts))
	for _, name := range names[:min(len(names), maxModules)] {
		if !strings.HasPrefix(name, "_") && localName(name) && !strings.Contains(name, "/") {
			take(filepath.Join(f.dir, name), isClass(parts[name]))
		}
	}
	if len(g.also) == 0 {
		// Without a list of classes the folders themselves tell.
		for _, sub := range f.subs {
			if below, err := t.list(sub); err == nil && below.has("config.json") != nil {
				take(sub, true)
			}
		}
	}
	if len(g.also) == 0 {
		return nil
	}
	if lacking != nil {
		c.fail(lacking)
	}
	first := g.also[0]
	g.files, g.of, g.err, g.also = first.files, first.of, first.err, g.also[1:]
	g.index = index.path
	f.pipeline = g
	return g
}

// isClass reports whether the value of a part is a library and a class. Both are null
// for a part that the pipeline does without, and other values are settings.
func isClass(value json.RawMessage) bool {
	var names []string
	return json.Unmarshal(value, &names) == nil && len(names) == 2 && names[0] != "" && names[1] != ""
}

// consult adds what other files in a model hub's folder say.
func (t *tree) consult(f *folder, info *Info) error {
	type shape struct {
		Context float64 `json:"max_position_embeddings"`
		Layers  float64 `json:"num_hidden_layers"`
		Width   float64 `json:"hidden_size"`
	}
	var config struct {
		Architectures []string  `json:"architectures"`
		Vision        *struct{} `json:"vision_config"` // whether there is one
		shape
		Text shape `json:"text_config"`
	}
	var tokenizer struct {
		ChatTemplate json.RawMessage `json:"chat_template"` // a text, or a list of them
	}
	var pipeline struct {
		Class string `json:"_class_name"`
	}
	var sentenceEncoder bool // made for sentence embeddings, whatever its architecture
	for i := range f.others {
		var err error
		switch other := &f.others[i]; other.name() {
		case "config.json":
			err = t.readJSON(other, &config)
		case "model_index.json":
			err = t.readJSON(other, &pipeline)
		case "tokenizer_config.json":
			if err = t.readJSON(other, &tokenizer); tokenizer.ChatTemplate != nil && string(tokenizer.ChatTemplate) != "null" {
				info.ChatTemplate = true
				info.Tools = info.Tools || mentionsTools(tokenizer.ChatTemplate)
			}
		case "chat_template.jinja", "chat_template.json":
			var text []byte
			text, err = t.readText(other, ggufMaxTemplate)
			t.retry = t.retry || err != nil
			info.ChatTemplate = true
			info.Tools = info.Tools || mentionsTools(text)
		case "README.md":
			text, _ := t.readText(other, maxCard) // a model does without
			info.Licence = licenceIn(text)
		case "modules.json": // how sentence-transformers marks its models
			sentenceEncoder = true
		}
		if err != nil {
			return err
		}
	}
	if f.pipeline != nil {
		info.Architecture = printable(pipeline.Class)
		info.Capabilities = []string{imageGeneration}
		return nil
	}
	if len(config.Architectures) > 0 {
		info.Architecture = printable(config.Architectures[0])
	}
	for _, c := range []struct {
		to   *int64
		n, m float64
	}{
		{&info.ContextLength, config.Context, config.Text.Context},
		{&info.Layers, config.Layers, config.Text.Layers}, {&info.Width, config.Width, config.Text.Width},
	} {
		if n := max(c.n, c.m); n >= 1 && n <= 1<<31 {
			*c.to = int64(n)
		}
	}
	if sentenceEncoder {
		info.Capabilities = []string{embeddings}
	} else if what := hubCapability(info.Architecture); what != "" {
		info.Capabilities = generating(what, info.ChatTemplate, info.Tools, config.Vision != nil)
	}
	return nil
}

// maxCard is how much of a README.md is read: what it says of the model to programs
// stands at its start.
const maxCard = 64 << 10

// licenceIn returns the licence that a model card names: in the YAML before its text, as
// "license: apache-2.0", or as license_name where that is "other".
func licenceIn(card []byte) string {
	front, ok := strings.CutPrefix(strings.ReplaceAll(string(card), "\r\n", "\n"), "---\n")
	front, _, closed := strings.Cut(front, "\n---")
	if !ok || !closed {
		return ""
	}
	values := make(map[string]string)
	for line := range strings.Lines(front) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			values[key] = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	licence := values["license"]
	if licence == "other" {
		licence = cmp.Or(values["license_name"], licence)
	}
	return printable(licence)
}

// readText returns the start of a small file.
func (t *tree) readText(f *file, most int64) ([]byte, error) {
	opened, _, err := t.open(f.real)
	if err == nil {
		defer opened.Close()
		var text []byte
		if text, err = io.ReadAll(io.LimitReader(opened, most)); err == nil {
			return bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), nil
		}
	}
	return nil, fileError(f.path, err)
}

// readJSON decodes a small file. An error in its content is a *FileError.
func (t *tree) readJSON(f *file, into any) error {
	opened, _, err := t.open(f.real)
	if err != nil {
		t.retry = true
		return fileError(f.path, err)
	}
	defer opened.Close()
	most := maxJSON
	if strings.HasSuffix(f.name(), indexSuffix) {
		most = maxIndex
	}
	data, err := io.ReadAll(io.LimitReader(opened, int64(most)+1))
	switch {
	case err != nil:
		t.retry = true
		return fileError(f.path, err)
	case len(data) > most:
		return &FileError{Path: f.path, Reason: fmt.Sprintf("has more than %v", tier.Bytes(most))}
	}
	// Editors on Windows put a byte order mark before a text.
	if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), into); err != nil {
		return &FileError{Path: f.path, Reason: "is not the JSON that belongs there", Err: err}
	}
	return nil
}
