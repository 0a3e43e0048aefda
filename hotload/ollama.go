package hotload

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// Ollama's store: manifests/<host>/<namespace>/<model>/<tag> is a JSON file that names
// blobs/sha256-<hex>, one of which is the GGUF file of the model.

const (
	ollamaManifests = "manifests"
	ollamaBlobs     = "blobs"
)

// isOllama reports whether the folder is such a store.
func (f *folder) isOllama() bool {
	return f.sub(ollamaManifests) && f.sub(ollamaBlobs) && !f.sub(snapshots)
}

// sub reports whether the folder has that subfolder.
func (f *folder) sub(name string) bool {
	_, ok := slices.BinarySearch(f.subs, filepath.Join(f.dir, name))
	return ok
}

// ollamaManifest is what matters of a manifest, and of the config that it names.
type ollamaManifest struct {
	Config ollamaLayer   `json:"config"`
	Layers []ollamaLayer `json:"layers"`
}

type ollamaLayer struct {
	Type   string     `json:"mediaType"`
	Digest string     `json:"digest"`
	Size   tier.Bytes `json:"size"`
}

type ollamaConfig struct {
	Format     string `json:"model_format"`
	RemoteHost string `json:"remote_host"`
}

// ollamaLayers are the media types of layers that are weights.
const (
	ollamaModel     = "application/vnd.ollama.image.model"
	ollamaProjector = "application/vnd.ollama.image.projector"
	ollamaAdapter   = "application/vnd.ollama.image.adapter"
)

// ollamaDigest is what a digest looks like; nothing else becomes part of a path.
var ollamaDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// isBlob reports whether the path is that of a whole blob of a store.
func isBlob(path string) bool {
	return filepath.Base(filepath.Dir(path)) == ollamaBlobs && ollamaDigest.MatchString(strings.Replace(filepath.Base(path), "sha256-", "sha256:", 1))
}

// ollamaLevels are the folders of a manifest: host, namespace, model.
const ollamaLevels = 3

// addManifests lists the folders with manifests in and below one of a store.
func (t *tree) addManifests(ctx context.Context, store *folder, dir string, level int) {
	if ctx.Err() != nil {
		return // the walk ends with it
	}
	f, err := t.list(dir)
	if err != nil {
		t.skipFor(dir, err).unread = true
		return
	}
	t.skipped = append(t.skipped, f.skipped...)
	if level == ollamaLevels {
		f.manifests = true
		store.tags = append(store.tags, f)
		t.manifests = append(t.manifests, f)
		return
	}
	for _, sub := range f.subs {
		t.addManifests(ctx, store, sub, level+1)
	}
}

// ollama returns the models of a store. What is no manifest, and models that are
// elsewhere or not whole, are skipped.
func (t *tree) ollama(store *folder) (sets []set) {
	top := filepath.Join(store.dir, ollamaManifests)
	for _, f := range store.tags {
		rel := strings.TrimPrefix(f.dir, top+string(filepath.Separator))
		for i := range f.others {
			manifest := &f.others[i]
			names := append(strings.Split(rel, string(filepath.Separator)), manifest.name())
			if s, err := t.ollamaSet(store, manifest, names); err != nil {
				t.skipFor(manifest.path, err)
			} else {
				sets = append(sets, s)
			}
		}
	}
	return sets
}

// ollamaSet returns the model of a manifest.
func (t *tree) ollamaSet(f *folder, manifest *file, names []string) (set, error) {
	fault := func(reason, help string) (set, error) {
		return set{}, &FileError{Path: manifest.path, Reason: reason, Help: help}
	}
	var m ollamaManifest
	if err := t.readJSON(manifest, &m); err != nil {
		return set{}, err
	}
	var config ollamaConfig
	if blob, err := t.ollamaBlob(f, &m.Config); err == nil {
		if err := t.readJSON(blob, &config); err != nil {
			return set{}, err
		}
	}
	if config.RemoteHost != "" {
		return fault(fmt.Sprintf("is a model at %.100q, with no weights here", config.RemoteHost), "Pull a model that runs on this machine.")
	}
	s := set{source: manifest.path}
	taken := make(map[string]bool) // blobs
	for i := range m.Layers {
		layer := &m.Layers[i]
		switch layer.Type {
		case ollamaModel, ollamaProjector, ollamaAdapter:
		default:
			continue
		}
		blob, err := t.ollamaBlob(f, layer)
		if err != nil {
			return fault(err.Error(), "Let Ollama pull the model again.")
		}
		if taken[blob.path] {
			continue
		}
		taken[blob.path] = true
		info, err := t.read(blob)
		if err != nil {
			return set{}, err
		}
		switch {
		case layer.Type == ollamaModel && s.info.Entry != "":
			return fault("names more than one file of weights", "Merge the files with Ollama.")
		case layer.Type == ollamaModel && info.Format != FormatGGUF:
			return fault("names weights that are no GGUF file", "Pull a GGUF version of the model.")
		case layer.Type == ollamaModel && info.Shards > 1:
			return fault(fmt.Sprintf("names shard %d of %d of a model", info.Shard, info.Shards), "Merge the shards with llama-gguf-split, and create the model from the whole file.")
		case layer.Type == ollamaModel && info.Role != RoleModel:
			return fault(fmt.Sprintf("names as its weights a file of the role %q", info.Role), "Create the model from a GGUF file of a whole model.")
		case layer.Type == ollamaModel:
			parts := s.info
			s.info = info
			s.info.Entry, s.info.Projector = blob.path, parts.Projector
			s.info.add(&parts)
			s.files = slices.Insert(s.files, 0, *blob)
			continue
		case layer.Type == ollamaProjector:
			s.info.Projector = blob.path
		}
		s.info.add(&info)
		s.files = append(s.files, *blob)
	}
	if s.info.Entry == "" {
		return fault(fmt.Sprintf("names no GGUF file of weights (its format is %.50q)", cmp.Or(config.Format, "not said")), "Pull a GGUF version of the model.")
	}
	s.info.Name = ollamaName(names)
	s.info.Version = t.versionOf(s.files, s.info.Entry)
	return s, nil
}

// ollamaBlob returns the file of a layer.
func (t *tree) ollamaBlob(f *folder, layer *ollamaLayer) (*file, error) {
	if !ollamaDigest.MatchString(layer.Digest) {
		return nil, fmt.Errorf("names the blob %.100q, which is no SHA-256 digest", layer.Digest)
	}
	blobs, err := t.list(filepath.Join(f.dir, ollamaBlobs))
	if err != nil {
		return nil, err
	}
	blob := blobs.has(strings.Replace(layer.Digest, ":", "-", 1))
	if blob == nil {
		blob = blobs.has(layer.Digest) // of the first versions
	}
	switch {
	case blob == nil || blob.info() == nil:
		return nil, fmt.Errorf("names the blob %s, which is not there", layer.Digest)
	case tier.Bytes(blob.size()) != layer.Size:
		return nil, fmt.Errorf("names the blob %s with %d bytes, which has %d", layer.Digest, layer.Size, blob.size())
	}
	return blob, nil
}

// ollamaName returns a model's name as Ollama shows it, without the parts that are
// its defaults.
func ollamaName(names []string) string {
	host, namespace, model, tag := names[0], names[1], names[2], names[3]
	name := model + ":" + tag
	if host != "registry.ollama.ai" {
		return compose(host + "/" + namespace + "/" + name)
	}
	if namespace != "library" {
		name = namespace + "/" + name
	}
	return compose(name)
}
