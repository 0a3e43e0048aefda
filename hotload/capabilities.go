package hotload

import "strings"

// What a model can do, in the words of the wire contract where it has one, and
// else in those of the task names of model hubs.
const (
	textGeneration      = "text-generation"
	chat                = "chat"
	embeddings          = "embeddings"
	reranking           = "reranking"
	textClassification  = "text-classification"
	transcription       = "transcription"
	vision              = "vision"
	audio               = "audio"
	imageGeneration     = "image-generation"
	imageClassification = "image-classification"
)

// ggufArchitectures are the values of general.architecture that say something
// about what a model is for. Sources: those with text-generation are the known
// values of the specification (docs/gguf.md in ggml); the encoders are the names
// in MODEL_ARCH_NAMES of llama.cpp's gguf-py; the image models are those that
// stable-diffusion.cpp and ComfyUI-GGUF read. Any other architecture that has a
// vocabulary or a context length generates text, as all of llama.cpp's do that
// are not named here.
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

// ggufTraits are what a GGUF header has that speaks for a capability.
type ggufTraits struct {
	architecture string
	role         Role
	pooling      uint64 // enum llama_pooling_type: 0 none, 1 mean, 2 cls, 3 last, 4 rank
	speaks       bool   // has a vocabulary or a context length
	chatTemplate bool
	sees, hears  bool // of a projector
}

func ggufCapabilities(t ggufTraits) []string {
	const rank = 4
	switch {
	case t.role == RoleProjector && t.hears && t.sees:
		return []string{vision, audio}
	case t.role == RoleProjector && t.hears:
		return []string{audio}
	case t.role == RoleProjector: // the first ones had no flag and could only see
		return []string{vision}
	case t.role != RoleModel:
		return nil
	case t.pooling == rank:
		return []string{reranking}
	case t.pooling != 0:
		return []string{embeddings}
	}
	what, known := ggufArchitectures[t.architecture]
	if !known && t.speaks {
		what = textGeneration
	}
	switch {
	case what == "":
		return nil
	case what == textGeneration && t.chatTemplate:
		return []string{textGeneration, chat}
	}
	return []string{what}
}

// hubArchitectures say what a model is for by the name of its class in the
// "architectures" of a config.json. The first that fits counts. Source: the
// naming of the classes in Hugging Face transformers, where the part behind "For"
// is the task.
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

// hubTraits are what a folder from a model hub has that speaks for a capability.
type hubTraits struct {
	architecture    string
	sentenceEncoder bool // made for sentence embeddings, whatever its architecture
	chatTemplate    bool
	visionPart      bool
}

func hubCapabilities(t hubTraits) []string {
	if t.sentenceEncoder {
		return []string{embeddings}
	}
	var out []string
	for _, a := range hubArchitectures {
		if strings.HasPrefix(t.architecture, a.prefix) && strings.HasSuffix(t.architecture, a.suffix) {
			out = append(out, a.what)
			break
		}
	}
	if len(out) > 0 && out[0] == textGeneration && t.chatTemplate {
		out = append(out, chat)
	}
	if len(out) > 0 && t.visionPart {
		out = append(out, vision)
	}
	return out
}
