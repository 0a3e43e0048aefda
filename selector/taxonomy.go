package selector

import (
	"maps"
	"slices"
	"strconv"

	"github.com/modeltier/modeltier/tier"
)

// textGeneration is what a request that names no capability means.
const textGeneration = "text-generation"

// Taxonomy says which capability stands for which. Names that it does not
// mention stand for themselves. To extend the default, change what
// DefaultTaxonomy returns.
type Taxonomy struct {
	// Aliases are other names of the same capability, to the name it goes by here.
	Aliases map[string]string
	// Implies are the capabilities that a model also has that has the first one.
	// It is transitive and speaks of names and aliases alike.
	Implies map[string][]string
}

// DefaultTaxonomy returns the aliases and the hierarchy that New uses:
//
//	code = code-generation
//	embedding, feature-extraction = embeddings
//	completion = text-generation
//	tools, function-calling = tool-use
//	transcription, speech-to-text = automatic-speech-recognition
//	tts = text-to-speech
//	rerank = reranking
//
//	chat, instruction-following → text-generation
//	image-text-to-text → vision, text-generation
//	zero-shot-classification → text-classification
//
// A model with code-generation is not taken to be good for text in general.
func DefaultTaxonomy() Taxonomy {
	return Taxonomy{
		Aliases: map[string]string{
			"code":               "code-generation",
			"embedding":          "embeddings",
			"feature-extraction": "embeddings",
			"completion":         textGeneration,
			"tools":              "tool-use",
			"function-calling":   "tool-use",
			"transcription":      "automatic-speech-recognition",
			"speech-to-text":     "automatic-speech-recognition",
			"tts":                "text-to-speech",
			"rerank":             "reranking",
		},
		Implies: map[string][]string{
			"chat":                     {textGeneration},
			"instruction-following":    {textGeneration},
			"image-text-to-text":       {"vision", textGeneration},
			"zero-shot-classification": {"text-classification"},
		},
	}
}

// taxonomy is a Taxonomy made ready: every alias leads straight to its name, and
// every name to all that it implies.
type taxonomy struct {
	names   map[string]string
	implied map[string][]string // sorted, without the name itself
}

// compile copies t, so that its owner may go on changing it.
func (t Taxonomy) compile() (taxonomy, error) {
	c := taxonomy{names: make(map[string]string, len(t.Aliases)), implied: make(map[string][]string, len(t.Implies))}
	for alias := range t.Aliases {
		name := alias
		for steps := 0; ; steps++ {
			next, ok := t.Aliases[name]
			if !ok || next == name {
				break
			}
			if steps > len(t.Aliases) {
				return c, &tier.InvalidError{Field: "alias", Value: strconv.Quote(alias), Rule: "must not lead back to itself"}
			}
			name = next
		}
		c.names[alias] = name
	}
	direct := make(map[string][]string, len(t.Implies))
	for name, also := range t.Implies {
		for _, a := range also {
			direct[c.name(name)] = append(direct[c.name(name)], c.name(a))
		}
	}
	for name := range direct {
		seen := map[string]bool{name: true}
		for todo := []string{name}; len(todo) > 0; todo = todo[1:] {
			for _, a := range direct[todo[0]] {
				if !seen[a] {
					seen[a] = true
					todo = append(todo, a)
				}
			}
		}
		delete(seen, name)
		c.implied[name] = slices.Sorted(maps.Keys(seen))
	}
	return c, nil
}

// name returns the name that a capability goes by.
func (t *taxonomy) name(capability string) string {
	if n, ok := t.names[capability]; ok {
		return n
	}
	return capability
}

// can reports whether a model that names those capabilities has the wanted one.
func (t *taxonomy) can(capabilities []string, wanted string) bool {
	if slices.Contains(capabilities, wanted) {
		return true
	}
	wanted = t.name(wanted)
	for _, c := range capabilities {
		c = t.name(c)
		if c == wanted || slices.Contains(t.implied[c], wanted) {
			return true
		}
	}
	return false
}

// canAll is can for every wanted capability; none wanted: true.
func (t *taxonomy) canAll(capabilities, wanted []string) bool {
	for _, w := range wanted {
		if !t.can(capabilities, w) {
			return false
		}
	}
	return true
}

// canonical returns the names that the capabilities go by, each once, in their
// order.
func (t *taxonomy) canonical(capabilities []string) []string {
	var names []string
	for _, c := range capabilities {
		if n := t.name(c); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}
