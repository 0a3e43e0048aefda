package hotload

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/modeltier/modeltier/tier"
)

// maxJSON bounds the JSON files beside weights: an index names a shard for each
// of some 100 000 tensors.
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
	names := make([]string, 0, len(seen))
	for name := range seen {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// consult adds what the other files of a model hub's folder say.
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
	var traits hubTraits
	for _, other := range f.others {
		var err error
		switch other.name() {
		case "config.json":
			p.whole = true
			err = t.readJSON(&other, &config)
		case "tokenizer_config.json":
			err = t.readJSON(&other, &tokenizer)
			traits.chatTemplate = traits.chatTemplate || tokenizer.ChatTemplate != nil
		case "chat_template.jinja", "chat_template.json":
			traits.chatTemplate = true
		case "modules.json": // how sentence-transformers marks its models
			traits.sentenceEncoder = true
		}
		if err != nil {
			return err
		}
	}
	if len(config.Architectures) > 0 {
		traits.architecture = printable(config.Architectures[0])
		p.info.Architecture = traits.architecture
	}
	traits.visionPart = config.Vision != nil
	if n := max(config.Context, config.Text.Context); n >= 1 && n <= 1<<31 {
		p.info.ContextLength = int64(n)
	}
	p.info.Capabilities = hubCapabilities(traits)
	return nil
}

// readJSON decodes a small file. An error in its content is a *FileError.
func (t *tree) readJSON(f *file, into any) error {
	opened, err := openRegularWith(func(_ string, flag int, perm os.FileMode) (*os.File, error) {
		return t.open(f.real, flag, perm)
	}, f.path)
	if err != nil {
		return &FileError{Path: f.path, Reason: "cannot be read", Err: err}
	}
	defer opened.Close()
	data, err := io.ReadAll(io.LimitReader(opened, maxJSON+1))
	switch {
	case err != nil:
		return &FileError{Path: f.path, Reason: "cannot be read", Err: err}
	case len(data) > maxJSON:
		return &FileError{Path: f.path, Reason: fmt.Sprintf("has more than %v", tier.Bytes(maxJSON))}
	}
	if err := json.Unmarshal(data, into); err != nil {
		return &FileError{Path: f.path, Reason: "is not the JSON that belongs there", Err: err}
	}
	return nil
}
