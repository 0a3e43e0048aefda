package hotload

import (
	"bytes"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// Format is a file format for weights.
type Format uint8

const (
	// FormatUnknown: any other file. Only its size is known.
	FormatUnknown Format = iota
	FormatGGUF
	FormatSafetensors
)

// String returns "gguf", "safetensors" or "unknown".
func (f Format) String() string {
	return nameIn("format", f, "unknown", "gguf", "safetensors")
}

// nameIn returns the name of a value, or what it is a value of and its number.
func nameIn[E ~uint8](what string, e E, names ...string) string {
	if int(e) < len(names) {
		return names[e]
	}
	return fmt.Sprintf("%s(%d)", what, uint8(e))
}

// Role is what a file is for.
type Role uint8

const (
	// RoleModel: a model of its own.
	RoleModel Role = iota
	// RoleProjector lets the language model beside it see or hear.
	RoleProjector
	// RoleAdapter changes another model (LoRA).
	RoleAdapter
	// RoleAuxiliary: no weights to serve, as a vocabulary or an importance matrix.
	RoleAuxiliary
	// RoleDraft proposes tokens for a larger model.
	RoleDraft
	// RoleControlVector steers another model.
	RoleControlVector
)

// String returns "model", "projector", "adapter", "auxiliary", "draft" or "control
// vector".
func (r Role) String() string {
	return nameIn("role", r, "model", "projector", "adapter", "auxiliary", "draft", "control vector")
}

// Info describes a model file, or a folder of shards. ReadGGUF and ReadSafetensors
// fill in what the header says, Inspect the rest. Unknown fields are zero.
type Info struct {
	Format Format
	Role   Role
	// Name is derived from the file or folder.
	Name string
	// Title is the publisher's name for the model. It is printable.
	Title string
	// Architecture is GGUF's general.architecture ("llama"), or the first of the
	// architectures in a config.json ("LlamaForCausalLM").
	Architecture string
	// Size is the bytes of the weight files on disk, TensorBytes the part of it that
	// is tensors.
	Size        tier.Bytes
	TensorBytes tier.Bytes
	Tensors     int64
	Parameters  int64
	// ContextLength is in tokens, Layers counts transformer or other blocks, and Width is
	// that of an embedding, with a projector of those that it makes.
	ContextLength, Layers, Width int64
	// Quantisation is the number format of most weights: "Q4_K_M", "BF16".
	Quantisation string
	// ChatTemplate: there is one. Tools: it mentions tools.
	ChatTemplate, Tools bool
	// Maker is who made the model, and Licence that which it is under, as the file says.
	// They are printable.
	Maker, Licence string
	// Capabilities follow from the architecture, the pooling type, the chat template and
	// the encoders that are there, and never from the name; empty if nothing indicates one.
	Capabilities []string
	// Shard of Shards, counted from 1, if the file is one of several of a model. Both
	// are 0 for a single file and for a whole folder.
	Shard, Shards int
	// Files are the weight files, in order.
	Files []string
	// Version tells the content from any other, see tier.Model.Version. It is left to
	// Inspect: of one file "sha256:" and its digest, if its store names it by that (Ollama's,
	// the cache of Hugging Face), else "header:" and the SHA-256 of its size, its header, and
	// samples of what follows: all of that if it is short, else eight of 4 KiB each. Of
	// several files it is the SHA-256 of a line for each, sorted: its path from the
	// entry's folder, its size and its version; "sha256:", if all of them are digests.
	Version string
	// Entry is what an engine is given: the first of the Files, or the folder of a model
	// hub. Projector is the one of the Files that lets the model see or hear. Both are
	// left to Inspect.
	Entry, Projector string
}

// Model returns the model that the Info describes, at a path. If that is one of its
// files or their folder, relative or not, the model's path is the Entry. What
// tier.Model has no field for becomes a label: format, architecture, quantisation,
// context_length, parameters, title, layers, maker, licence, and tier.ProjectorLabel.
func (i *Info) Model(path string) tier.Model {
	if abs, err := filepath.Abs(path); err == nil && i.Entry != "" && (abs == i.Entry || slices.Contains(i.Files, abs) || filepath.Dir(i.Entry) == abs) {
		path = i.Entry
	}
	labels := map[string]string{
		"format":       i.Format.String(),
		"architecture": i.Architecture,
		"quantisation": i.Quantisation,
		"title":        i.Title,
		"maker":        i.Maker,
		"licence":      i.Licence,

		tier.ProjectorLabel: i.Projector,
	}
	for key, n := range map[string]int64{"context_length": i.ContextLength, "parameters": i.Parameters, "layers": i.Layers} {
		if n > 0 {
			labels[key] = strconv.FormatInt(n, 10)
		}
	}
	maps.DeleteFunc(labels, func(_, v string) bool { return v == "" })
	return tier.Model{Name: i.Name, Path: path, Parts: i.parts(path), Size: i.Size, Capabilities: slices.Clone(i.Capabilities), Version: i.Version, Labels: labels}
}

// parts returns the files that belong to a model at the path, beside that; nil if it
// is one file, or files that only the path as a folder tells.
func (i *Info) parts(path string) []string {
	if i.Format == FormatUnknown {
		return nil
	}
	parts := slices.DeleteFunc(slices.Clone(i.Files), func(f string) bool { return f == path })
	if len(parts) == 0 || len(i.Files) == 1 && i.Entry == i.Files[0] {
		return nil
	}
	return parts
}

// printable returns s if it is valid as a label, else "".
func printable(s string) string {
	if tier.CheckName("text", s) != nil {
		return ""
	}
	return s
}

// Capabilities, in the words of the wire contract if it has one, else in those of
// model hubs for tasks.
const (
	textGeneration      = "text-generation"
	chat                = "chat"
	toolUse             = "tools"
	embeddings          = "embeddings"
	reranking           = "reranking"
	textClassification  = "text-classification"
	transcription       = "transcription"
	vision              = "vision"
	audio               = "audio"
	imageGeneration     = "image-generation"
	imageClassification = "image-classification"
)

// generating returns what a model does whose architecture does what: it also sees if it
// has an encoder for that, and if it generates text, it chats and calls tools by its
// template.
func generating(what string, template, tools, sees bool) []string {
	if what == "" {
		return nil
	}
	all := []string{what}
	if what == textGeneration && template {
		if all = append(all, chat); tools {
			all = append(all, toolUse)
		}
	}
	if sees {
		all = append(all, vision)
	}
	return all
}

// toolsWords are what chat templates of models that call tools have in them: the list of
// tools that they are given, or the calls in an answer. Source: the variables that
// transformers passes to apply_chat_template, and OpenAI's message format.
var toolsWords = []string{"tools", "tool_calls", "tool_call"}

const maxToolsWord = 16 // bytes, with what is beside it

// mentionsTools reports whether a part of a chat template has one of the words, not as a
// part of another.
func mentionsTools(template []byte) bool {
	letter := func(at int) bool {
		return at >= 0 && at < len(template) && (template[at] == '_' || template[at]|0x20 >= 'a' && template[at]|0x20 <= 'z')
	}
	for _, word := range toolsWords {
		for at := 0; ; at += len(word) {
			next := bytes.Index(template[at:], []byte(word))
			if next < 0 {
				break
			}
			if at += next; !letter(at-1) && !letter(at+len(word)) {
				return true
			}
		}
	}
	return false
}

// ggufArchitectures are values of general.architecture that indicate a capability.
// Sources: for text generation the values in the specification (docs/gguf.md in
// ggml); for encoders MODEL_ARCH_NAMES of llama.cpp's gguf-py; for images those that
// stable-diffusion.cpp and ComfyUI-GGUF read. Any other architecture that has a
// vocabulary or a context length generates text, as all others of llama.cpp do.
var ggufArchitectures = map[string]string{
	"llama": textGeneration, "mpt": textGeneration, "gptneox": textGeneration,
	"gptj": textGeneration, "gpt2": textGeneration, "bloom": textGeneration,
	"falcon": textGeneration, "mamba": textGeneration, "rwkv": textGeneration,

	"bert": embeddings, "modern-bert": embeddings, "neo-bert": embeddings,
	"nomic-bert": embeddings, "nomic-bert-moe": embeddings, "jina-bert-v2": embeddings,
	"jina-bert-v3": embeddings, "eurobert": embeddings, "gemma-embedding": embeddings,
	"t5encoder": embeddings,

	"whisper":          transcription,
	"wavtokenizer-dec": audio,

	"flux": imageGeneration, "sd1": imageGeneration, "sdxl": imageGeneration,
	"sd3": imageGeneration, "aura": imageGeneration, "hidream": imageGeneration,
	"lumina2": imageGeneration, "qwen_image": imageGeneration, "pixart": imageGeneration,
}

// hubArchitectures map class names in the "architectures" of a config.json to a
// capability. The first match counts. Source: class names of Hugging Face
// transformers, where the part after "For" is the task.
var hubArchitectures = []struct {
	prefix, suffix string
	what           string
}{
	{"Whisper", "", transcription},
	{"", "ForCTC", transcription},
	{"", "ForSpeechSeq2Seq", transcription},
	{"", "ForCausalLM", textGeneration},
	{"", "LMHeadModel", textGeneration},
	{"", "ForConditionalGeneration", textGeneration},
	{"", "ForSequenceClassification", textClassification},
	{"", "ForImageClassification", imageClassification},
	{"", "ForMaskedLM", embeddings},
	{"", "Model", embeddings},
}

// hubCapability returns "" if the class is unknown.
func hubCapability(class string) string {
	for _, a := range hubArchitectures {
		if strings.HasPrefix(class, a.prefix) && strings.HasSuffix(class, a.suffix) {
			return a.what
		}
	}
	return ""
}
