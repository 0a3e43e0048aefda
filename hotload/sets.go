package hotload

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// group is weight files of a folder that claim to be one model, a projector, or
// whatever their headers say.
type group struct {
	folder *folder
	stem   string // the name that they share
	files  []file // in order
	of     int    // how many there should be
	index  string // the path of the index that names them; "": none does
	err    error  // what is wrong with the index

	joined bool
	info   Info
	fault  error // of the headers, or of what is missing

	asFolder bool     // an engine is given the folder
	called   []string // what calls returns; nil: not asked for
	also     []*group // further groups that belong to the model
}

func (g *group) format() Format { return formatOf(g.files[0].path) }

// contains reports whether the path is one of the files, or the index.
func (g *group) contains(path string) bool {
	return path == g.index || slices.ContainsFunc(g.files, func(f file) bool { return f.path == path })
}

// shard is what a file name says about shards: "-00002-of-00003" before the
// extension, for GGUF and for safetensors.
type shard struct {
	stem   string // the name without it and without the extension
	no, of int    // counted from 1; of is 0 for a single file
}

var shardName = regexp.MustCompile(`^(.+)-([0-9]{5})-of-([0-9]{5})$`)

func shardOf(name string) shard {
	stem := strings.TrimSuffix(name, filepath.Ext(name))
	m := shardName.FindStringSubmatch(stem)
	if m == nil {
		return shard{stem: stem}
	}
	no, _ := strconv.Atoi(m[2])
	of, _ := strconv.Atoi(m[3])
	return shard{stem: m[1], no: no, of: of}
}

// otherShardName is how other tools and people number the parts of a model; no engine
// finds them by that.
var otherShardName = regexp.MustCompile(`(?i)^.+[-_. ](?:part[-_ ]?)?([0-9]{1,5})[-_ ]?of[-_ ]?([0-9]{1,5})$`)

// misnamed returns an error if the name of a single file says that it is a shard.
func misnamed(f *file) error {
	stem := shardOf(f.name()).stem
	if !strings.Contains(strings.ToLower(stem), "of") { // as most do
		return nil
	}
	m := otherShardName.FindStringSubmatch(stem)
	if m == nil {
		return nil
	}
	no, _ := strconv.Atoi(m[1])
	of, _ := strconv.Atoi(m[2])
	if of < 2 || no < 1 || no > of {
		return nil
	}
	return &FileError{
		Path: f.path, Reason: fmt.Sprintf("is shard %d of %d by its name, in a way that engines do not know", no, of),
		Help: "Call shards as in NAME-00001-of-00002" + filepath.Ext(f.name()) + ", and a whole model by a name without \"of\"; or hot load it.",
	}
}

// group sorts the weight files of the folder into groups: by the indexes in it, and
// the rest by their names. Files that belong to a model in a folder above are none of
// them.
func (t *tree) group(f *folder) []*group {
	if f.grouped {
		return f.groups
	}
	f.grouped = true
	listed := make(map[string]bool)
	for i := range f.others {
		other := &f.others[i]
		if stem, ok := strings.CutSuffix(other.name(), indexSuffix); ok {
			g := t.indexed(f, other, stem)
			f.groups = append(f.groups, g)
			for _, file := range g.files {
				listed[file.path] = true
				t.claimed[file.path] = t.claimed[file.path] || filepath.Dir(file.path) != f.dir
			}
		}
	}
	bySet := make(map[string]*group)
	for _, w := range f.weights {
		if listed[w.path] || t.claimed[w.path] {
			continue
		}
		sh, key := shardOf(w.name()), w.name()
		if sh.of > 0 {
			key = sh.stem + "/" + strconv.Itoa(sh.of) + strings.ToLower(filepath.Ext(key)) // no file's name
		}
		g := bySet[key]
		if g == nil {
			g = &group{folder: f, stem: sh.stem, of: max(sh.of, 1)}
			bySet[key] = g
			f.groups = append(f.groups, g)
		}
		g.files = append(g.files, w)
	}
	t.chooseHub(f)
	return f.groups
}

// join reads the headers of a group and adds them up. The metadata is that of the
// first file, where both formats keep it.
func (t *tree) join(g *group) (Info, error) {
	if !g.joined {
		g.joined = true
		g.info, g.fault = t.joinFiles(g)
	}
	return g.info, g.fault
}

func (t *tree) joinFiles(g *group) (sum Info, err error) {
	if g.err != nil {
		return Info{}, g.err
	}
	seen := make(map[int]bool)
	var widest tier.Bytes
	for i := range g.files {
		f := &g.files[i]
		info, err := t.read(f)
		if err != nil {
			return Info{}, err
		}
		if info.Shards > 1 && g.index == "" {
			if sh := shardOf(f.name()); sh.of != info.Shards || sh.no != info.Shard {
				return Info{}, &FileError{Path: f.path, Reason: fmt.Sprintf("is shard %d of %d by its header, and not by its name", info.Shard, info.Shards), Help: "Give the file back its first name."}
			}
			if info.Shard < 1 || info.Shard > g.of || seen[info.Shard] {
				return Info{}, &FileError{Path: f.path, Reason: "has a shard number that cannot be"}
			}
			seen[info.Shard] = true
		}
		if i == 0 {
			sum, widest = info, info.TensorBytes
			continue
		}
		if info.TensorBytes > widest && info.Quantisation != "" {
			widest, sum.Quantisation = info.TensorBytes, info.Quantisation
		}
		sum.add(&info)
	}
	if g.of == 1 && g.index == "" && sum.Shards <= 1 {
		if err := misnamed(&g.files[0]); err != nil {
			return Info{}, err
		}
	}
	if len(g.files) < g.of {
		return Info{}, g.missing(seen)
	}
	if sum.Role == RoleModel && draftName.MatchString(g.stem) {
		sum.Role = RoleDraft
	}
	sum.Name = g.stem
	sum.Shard, sum.Shards = 0, 0
	return sum, nil
}

// draftName is how llama.cpp calls the drafts in a repository.
var draftName = regexp.MustCompile(`(?i)^(mtp|eagle3|dflash|dspark)-`)

// missing returns an error that names what is not there of shards of which those are.
func (g *group) missing(there map[int]bool) error {
	first := g.files[0]
	ext := filepath.Ext(first.name())
	var names []string
	for no := 1; no <= g.of && len(names) <= maxNamed; no++ {
		if !there[no] {
			names = append(names, fmt.Sprintf("%s-%05d-of-%05d%s", g.stem, no, g.of, ext))
		}
	}
	return &FileError{Path: first.path, Reason: fmt.Sprintf("is one of %d shards, of which %d are not there: %s", g.of, g.of-len(g.files), someOf(names)), Help: "Copy the missing shards beside it."}
}

// maxNamed bounds how many missing files an error names.
const maxNamed = 3

// someOf quotes the first of the names.
func someOf(names []string) string {
	var b strings.Builder
	for i, name := range names {
		switch {
		case i == maxNamed:
			b.WriteString(", …")
			return b.String()
		case i > 0:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%.200q", name)
	}
	return b.String()
}

// add adds another file of the model. Slices of an Info that is remembered have no
// spare capacity, so that appending to them copies.
func (i *Info) add(b *Info) {
	i.Size = i.Size.Plus(b.Size)
	i.TensorBytes = i.TensorBytes.Plus(b.TensorBytes)
	i.Tensors = int64(tier.Bytes(i.Tensors).Plus(tier.Bytes(b.Tensors)))
	i.Parameters = int64(tier.Bytes(i.Parameters).Plus(tier.Bytes(b.Parameters)))
	i.Files = append(slices.Clip(i.Files), b.Files...)
	for _, c := range b.Capabilities {
		if !slices.Contains(i.Capabilities, c) {
			i.Capabilities = append(slices.Clip(i.Capabilities), c)
		}
	}
}

// set is a whole model: its description, and its files as they were seen, the one that
// an engine is given first.
type set struct {
	info   Info
	files  []file
	source string // the file that names them; "": what an engine is given is its name
}

// whole returns the model that a group is, with its projector. An error is a
// *FileError.
func (t *tree) whole(g *group) (set, error) {
	info, err := t.join(g)
	if err != nil {
		return set{}, err
	}
	s := set{info: info, files: g.files}
	s.info.Entry = g.files[0].path
	for _, other := range g.also {
		more, err := t.join(other)
		if err != nil {
			return set{}, err
		}
		s.info.add(&more)
		s.files = append(slices.Clip(s.files), other.files...)
	}
	if g.asFolder {
		s.info.Entry = g.folder.dir
		if err := t.consult(g.folder, &s.info); err != nil {
			t.skipFor(g.folder.dir, err) // it has weights, and serves without
		}
	}
	if info.Role == RoleModel && info.Format == FormatGGUF {
		if p := t.projectorOf(g); p != nil {
			with, _ := t.join(p)
			s.info.add(&with)
			s.info.Projector = p.files[0].path
			s.files = append(slices.Clip(s.files), p.files...)
			t.paired[p.files[0].path] = true
		}
	}
	s.info.Name = t.nameOf(g)
	s.info.Version = t.versionOf(s.files, s.info.Entry)
	return s, nil
}

// roleReasons say why what is in a role is no model of its own.
var roleReasons = [...]string{
	RoleAdapter:       "is an adapter, no model of its own",
	RoleAuxiliary:     "holds no weights to serve",
	RoleDraft:         "is a draft for speculative decoding, no model of its own",
	RoleControlVector: "is a control vector, no model of its own",
}

// setsIn returns the models of a folder. It skips what cannot be used, with the
// reason; projectors are left to unpaired.
func (t *tree) setsIn(f *folder) (sets []set) {
	for _, g := range t.group(f) {
		s, err := t.whole(g)
		switch {
		case err != nil:
			path := f.dir
			if len(g.files) > 0 {
				path = g.files[0].path
			}
			t.skipFor(path, err).special = true
		case s.info.Role == RoleProjector:
		case s.info.Role != RoleModel:
			t.skip(g.files[0].path, roleReasons[s.info.Role])
		default:
			sets = append(sets, s)
		}
	}
	return sets
}

// unpaired skips the projectors in the folder that no model took.
func (t *tree) unpaired(f *folder) {
	for _, g := range t.group(f) {
		if info, err := t.join(g); err != nil || info.Role != RoleProjector || t.paired[g.files[0].path] {
			continue
		}
		reason := "is a projector, and no model beside it is its own by its name"
		for _, other := range t.projectors(f) {
			if t.paired[other.files[0].path] && slices.Equal(other.calls(), g.calls()) {
				reason = fmt.Sprintf("is a projector, and %q is the one that is taken", other.files[0].name())
			}
		}
		t.skip(g.files[0].path, reason)
	}
}

// quantisations are the tokens at the end of a name that say in which format the
// weights are: those of llama.cpp, with unsloth's prefix for its own mixes, and those
// of the hub.
const quantisations = `(?:UD-)?(?:I?Q[0-9](?:_[0-9A-Z]+)*|TQ[12]_0|MXFP[0-9](?:_MOE)?|NVFP4|B?F16|F32|FP(?:4|8|16|32)|INT[48]|[0-9]-?BITS?|W[0-9]A[0-9]+|AWQ|GPTQ)`

var (
	quantised = regexp.MustCompile(`(?i)^(.*?)[-_.](` + quantisations + `)$`)
	quantOnly = regexp.MustCompile(`(?i)^` + quantisations + `$`)
)

// splitName splits a name into what it is a version of, in lower case, and its
// quantisation.
func splitName(stem string) (base, quant string) {
	if quantOnly.MatchString(stem) {
		return "", stem
	}
	if m := quantised.FindStringSubmatch(stem); m != nil {
		return strings.ToLower(m[1]), m[2]
	}
	return strings.ToLower(stem), ""
}

// plainNames say nothing about the model.
var plainNames = map[string]bool{
	"model": true, "ggml-model": true, "ggml": true, "consolidated": true, "pytorch_model": true, "diffusion_pytorch_model": true,
	"weights": true, "unsloth": true, "gguf": true, "llm": true,
}

// nameOf returns what a model is called: the stem of its set, the folder where an
// engine is given that, and both where the stem says nothing.
func (t *tree) nameOf(g *group) string {
	if g.asFolder {
		return folderName(g.folder.dir)
	}
	base, quant := splitName(g.stem)
	if !plainNames[base] || g.folder.dir == t.dir {
		return compose(g.stem)
	}
	name := folderName(g.folder.dir)
	if _, said := splitName(name); quant != "" && said == "" {
		name += "-" + quant
	}
	return name
}

// folderName returns the name of a model in a folder of its own. The cache of Hugging
// Face keeps "org/name" at models--org--name/snapshots/<revision>. A folder that is
// called as a quantisation alone has the name of the one above it.
func folderName(dir string) string {
	up, name := filepath.Dir(dir), compose(filepath.Base(dir))
	if filepath.Base(up) == snapshots {
		if repository, ok := strings.CutPrefix(filepath.Base(filepath.Dir(up)), repositoryPrefix); ok {
			return strings.ReplaceAll(repository, "--", "/")
		}
	}
	if quantOnly.MatchString(name) && up != dir {
		return folderName(up) + "-" + name
	}
	return name
}

// fileName returns the name of a model in a single file.
func fileName(path string) string {
	name := filepath.Base(path)
	if formatOf(name) == FormatUnknown {
		return compose(name)
	}
	return compose(shardOf(name).stem)
}

// setOf returns the model that a path names: its folder, any of its files, or its
// index. Where the file is of no set (a projector, an adapter, or one of an unknown
// format) it is that file. An error is a *FileError.
func (t *tree) setOf(path string, isDir bool) (set, error) {
	if isDir {
		return t.setInFolder(path)
	}
	alone := &file{path: path, real: path}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		alone.real = real
	}
	name := filepath.Base(path)
	if formatOf(name) == FormatUnknown && !strings.HasSuffix(name, indexSuffix) {
		return t.alone(alone)
	}
	dirs := []string{filepath.Dir(path)}
	if formatOf(name) == FormatSafetensors {
		dirs = append(dirs, filepath.Dir(dirs[0])) // an index may name files in folders below
	}
	for _, dir := range slices.Backward(dirs) {
		f, err := t.list(dir)
		if err != nil {
			continue // the file itself may be readable
		}
		for _, g := range t.group(f) {
			if !g.contains(path) {
				continue
			}
			s, err := t.whole(g)
			if g.of == 1 && g.index == "" && (err != nil || s.info.Role != RoleModel) {
				return t.alone(&g.files[0])
			}
			return s, err
		}
	}
	return t.alone(alone)
}

// alone returns the model that one file is.
func (t *tree) alone(f *file) (set, error) {
	info, err := t.inspect(f)
	info.Entry = f.path
	return set{info: info, files: []file{*f}}, err
}

// setInFolder returns the one model in a folder.
func (t *tree) setInFolder(dir string) (set, error) {
	dir = t.snapshotOf(dir)
	f, err := t.usable(dir)
	if err != nil {
		return set{}, err
	}
	if p := t.pipeline(f); p != nil {
		return t.whole(p)
	}
	if len(f.weights) == 0 && !slices.ContainsFunc(f.others, func(o file) bool { return strings.HasSuffix(o.name(), indexSuffix) }) {
		var info Info // nothing of a known format
		for _, file := range f.others {
			info.Files = append(info.Files, file.path)
		}
		info.Entry, info.Name = f.dir, folderName(f.dir)
		info.Size, err = f.weigh()
		info.Version = t.versionOf(f.others, f.dir)
		return set{info: info, files: f.others}, err
	}
	before := len(t.skipped)
	sets := t.setsIn(f)
	t.unpaired(f)
	for _, s := range sets {
		if s.info.Entry == f.dir { // the folder is its name, whatever else is in it
			return s, nil
		}
	}
	for _, s := range t.skipped[before:] {
		if s.special || len(sets) == 0 { // without a model, something was skipped
			return set{}, s.fault()
		}
	}
	if len(sets) == 0 {
		return set{}, &FileError{Path: f.dir, Reason: "holds no model of its own", Help: "Name the folder above it."}
	}
	if len(sets) > 1 {
		return set{}, &FileError{Path: f.dir, Reason: fmt.Sprintf("holds %d models, %s and %s among them", len(sets), sets[0].info.Name, sets[1].info.Name), Help: "Name one of the files in it, or give each model a folder."}
	}
	if s := &sets[0]; !quantOnly.MatchString(filepath.Base(dir)) {
		s.info.Name = cmp.Or(folderName(dir), s.info.Name)
	}
	return sets[0], nil
}
