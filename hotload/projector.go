package hotload

import (
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxLooked is up to how many weight files in a folder the headers of all of them are
// read to find projectors. In a larger one a projector has to be called one.
const maxLooked = 64

// projectors returns the groups of a folder that are projectors by their headers.
func (t *tree) projectors(f *folder) []*group {
	if f.projectors != nil {
		return f.projectors
	}
	f.projectors, f.bases = []*group{}, make(map[string]bool)
	groups := t.group(f)
	for _, g := range groups {
		if len(g.files) == 0 || g.format() != FormatGGUF {
			continue
		}
		role, whole := RoleModel, true
		if len(f.weights) <= maxLooked || projectorName.MatchString(g.stem) {
			info, err := t.join(g)
			role, whole = info.Role, err == nil
		}
		switch {
		case !whole && projectorName.MatchString(g.stem):
		case role == RoleProjector:
			f.projectors = append(f.projectors, g)
		case role == RoleModel: // also one that is not whole yet
			base, _ := splitName(g.stem)
			f.bases[base] = true
		}
	}
	for _, s := range f.skipped {
		if base := downloading(filepath.Base(s.Path)); base != "" {
			f.bases[base] = true
		}
	}
	return f.projectors
}

// downloading returns what the model is called of which a file that is no projector is a
// part of a download; "": it is none.
func downloading(name string) string {
	at := strings.Index(strings.ToLower(name), ".gguf")
	if at < 0 || unfinished(name) == "" || projectorName.MatchString(name) {
		return ""
	}
	stem := strings.ToLower(name[:at])
	for _, prefix := range []string{"downloading_", "incomplete-"} { // LM Studio, GPT4All
		stem = strings.TrimPrefix(stem, prefix)
	}
	base, _ := splitName(shardOf(stem + ".gguf").stem)
	return base
}

// projectorOf returns the projector of a model; nil: it has none. It is one in the
// model's folder: the one that is called like the model or, if only one model is there
// or on its way (in any number of quantisations), any that fits its width. If it has none, it is one in the folder above:
// one that is called like the model or, if that folder holds no model, one without a
// name, as in unsloth's repositories. Of several, the one of the model's quantisation
// is taken, else of the nearest number of bits, else the first.
func (t *tree) projectorOf(g *group) *group {
	candidates := t.called(g.folder, g)
	if len(candidates) == 0 && len(g.folder.bases) == 1 {
		candidates = t.fitting(t.projectors(g.folder), g)
	}
	if len(candidates) == 0 && g.folder.dir != t.dir {
		up, err := t.list(filepath.Dir(g.folder.dir))
		if err != nil {
			return nil
		}
		candidates = t.called(up, g)
		if len(candidates) == 0 && len(up.bases) == 0 {
			for _, p := range t.projectors(up) {
				if len(p.calls()) == 0 {
					candidates = append(candidates, p)
				}
			}
		}
	}
	if len(candidates) == 0 {
		return nil
	}
	_, want := splitName(g.stem)
	off := func(p *group) int {
		_, has := splitName(p.stem)
		if strings.EqualFold(has, want) {
			return -1
		}
		return max(bitsOf(want)-bitsOf(has), bitsOf(has)-bitsOf(want))
	}
	return slices.MinFunc(candidates, func(a, b *group) int { return off(a) - off(b) })
}

// fitting returns the projectors that may be the model's: of those that have another
// name, the ones whose output is as wide as its embeddings, as far as both say.
func (t *tree) fitting(projectors []*group, g *group) (out []*group) {
	model, _ := t.join(g)
	for _, p := range projectors {
		info, _ := t.join(p)
		if len(p.calls()) == 0 || info.Width == 0 || model.Width == 0 || info.Width == model.Width {
			out = append(out, p)
		}
	}
	return out
}

var projectorName = regexp.MustCompile(`(?i)mmproj`)

// called returns the projectors in a folder that are called like the model.
func (t *tree) called(f *folder, g *group) (out []*group) {
	model, _ := splitName(g.stem)
	for _, p := range t.projectors(f) {
		if slices.ContainsFunc(p.calls(), func(name string) bool { return begins(model, name) || begins(name, model) }) {
			out = append(out, p)
		}
	}
	return out
}

// calls returns what a projector is called: what stands before and behind "mmproj" in
// its name, but for words that say nothing.
func (g *group) calls() []string {
	if g.called == nil {
		at := projectorName.FindStringIndex(g.stem)
		if at == nil {
			at = []int{0, 0}
		}
		before := strings.ToLower(strings.Trim(g.stem[:at[0]], "-_. "))
		behind, _ := splitName(strings.Trim(g.stem[at[1]:], "-_. "))
		g.called = []string{}
		for _, name := range []string{before, behind} {
			if name != "" && !plainNames[name] {
				g.called = append(g.called, name)
			}
		}
	}
	return g.called
}

// begins reports whether the name begins with the other, up to the end of a word.
func begins(name, other string) bool {
	rest, ok := strings.CutPrefix(name, other)
	return ok && other != "" && (rest == "" || strings.ContainsAny(rest[:1], "-_. "))
}

var digits = regexp.MustCompile(`[0-9]+`)

// bitsOf returns the bits of a quantisation by its first number, as llama.cpp does:
// Q4_K_M has 4, F16 has 16.
func bitsOf(quant string) int {
	n, _ := strconv.Atoi(digits.FindString(quant))
	return n
}
