package hotload

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/modeltier/modeltier/tier"
)

// Format is a file format for weights.
type Format uint8

const (
	// FormatUnknown: any other file. Nothing is known but its size.
	FormatUnknown Format = iota
	FormatGGUF
	FormatSafetensors
)

// String returns "gguf", "safetensors" or "unknown".
func (f Format) String() string {
	switch f {
	case FormatUnknown:
		return "unknown"
	case FormatGGUF:
		return "gguf"
	case FormatSafetensors:
		return "safetensors"
	}
	return fmt.Sprintf("format(%d)", uint8(f))
}

// Role is what a file is for.
type Role uint8

const (
	// RoleModel: a model of its own.
	RoleModel Role = iota
	// RoleProjector goes beside a language model and lets it see or hear.
	RoleProjector
	// RoleAdapter changes another model (LoRA).
	RoleAdapter
	// RoleAuxiliary has no weights to serve: a vocabulary, an importance matrix.
	RoleAuxiliary
)

// String returns "model", "projector", "adapter" or "auxiliary".
func (r Role) String() string {
	switch r {
	case RoleModel:
		return "model"
	case RoleProjector:
		return "projector"
	case RoleAdapter:
		return "adapter"
	case RoleAuxiliary:
		return "auxiliary"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// Info is what a model file, or a folder of shards, says about itself. ReadGGUF
// and ReadSafetensors fill what stands in the header, Inspect the rest. What the
// file does not say is zero.
type Info struct {
	Format Format
	Role   Role
	// Name is a name for the model, from that of the file or folder.
	Name string
	// Title is what its makers call it. It is printable.
	Title string
	// Architecture is GGUF's general.architecture ("llama"), or the first of the
	// architectures in a config.json ("LlamaForCausalLM").
	Architecture string
	// Size is the bytes of the weight files on disk, Tensors and Parameters count
	// what is in them, TensorBytes is what the tensors take of Size.
	Size        tier.Bytes
	TensorBytes tier.Bytes
	Tensors     int64
	Parameters  int64
	// ContextLength is in tokens.
	ContextLength int64
	// Quantisation is the number format of most weights: "Q4_K_M", "BF16".
	Quantisation string
	// Capabilities is a suggestion, by architecture and by what else the header
	// has; none where nothing speaks for any.
	Capabilities []string
	// Shard of Shards, counted from 1, where the file is one of several that make
	// one model. Both are 0 for a file that stands alone and for a whole folder.
	Shard, Shards int
	// Files are the weight files, in order.
	Files []string
}

// Model returns the model that the info describes, with what is known beyond the
// tier package's fields as labels: format, architecture, quantisation,
// context_length, parameters, title.
func (i *Info) Model(path string) tier.Model {
	labels := map[string]string{
		"format":       i.Format.String(),
		"architecture": i.Architecture,
		"quantisation": i.Quantisation,
		"title":        i.Title,
	}
	if i.ContextLength > 0 {
		labels["context_length"] = strconv.FormatInt(i.ContextLength, 10)
	}
	if i.Parameters > 0 {
		labels["parameters"] = strconv.FormatInt(i.Parameters, 10)
	}
	maps.DeleteFunc(labels, func(_, v string) bool { return v == "" })
	return tier.Model{Name: i.Name, Path: path, Size: i.Size, Capabilities: slices.Clone(i.Capabilities), Labels: labels}
}

// printable returns s where it can be shown and kept as a label, else "".
func printable(s string) string {
	if tier.CheckName("text", s) != nil {
		return ""
	}
	return s
}
