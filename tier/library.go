package tier

import (
	"cmp"
	"errors"
	"iter"
	"maps"
	"slices"
	"strconv"
	"unicode"
)

// Library is the immutable, ordered set of models that a View describes. The same
// pointer means the same content, so what is derived from a Library (an index, a
// ranking) is valid as long as the pointer is the same.
type Library struct {
	models  []Model
	byName  map[string]int    // aliases as well
	aliases map[string]string // of which models, which may be missing
	called  map[int][]string  // the aliases of each model, sorted
	older   map[string][]int  // the older versions of a model, by its name
}

// NewLibrary returns a library of the models in that order. It reports every
// invalid model and every repeated name at once. It keeps the slice.
func NewLibrary(models []Model) (*Library, error) {
	l := AssembleLibrary(models)
	var faults []error
	for i := range models {
		if err := models[i].Validate(); err != nil {
			faults = append(faults, err)
		}
		if l.byName[models[i].Name] != i {
			faults = append(faults, &ExistsError{Model: models[i].Name})
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return l, nil
}

// AssembleLibrary returns a library of models that were validated before, in that
// order, in time proportional to their number: for changes of many models at once,
// where With and Without would copy the library for each. No two models may have
// the same name. It keeps the slice.
func AssembleLibrary(models []Model) *Library {
	return assemble(models, nil)
}

// WithAliases returns a library of the same models in which each key of aliases stands
// for the model that is its value, or for the version of one (NAME@VERSION). One whose model is not there, or which is a model's
// own name, stands for nothing. It replaces the aliases that there were, and keeps the
// map.
func (l *Library) WithAliases(aliases map[string]string) *Library {
	if len(aliases)+len(l.aliases) == 0 {
		return l
	}
	return assemble(l.models, aliases)
}

func assemble(models []Model, aliases map[string]string) *Library {
	l := &Library{models: models, byName: make(map[string]int, len(models)+len(aliases)), aliases: aliases}
	for i := range models {
		m := &models[i]
		l.byName[m.Name] = i
		if m.VersionOf != "" {
			if l.older == nil {
				l.older = make(map[string][]int)
			}
			l.older[m.VersionOf] = append(l.older[m.VersionOf], i)
		}
	}
	for _, alias := range slices.Sorted(maps.Keys(aliases)) {
		i, there := l.Named(aliases[alias])
		if there {
			i = l.current(i)
		} else {
			i, there = l.version(aliases[alias], true)
		}
		if _, taken := l.byName[alias]; taken || !there {
			continue
		}
		if l.called == nil {
			l.called = make(map[int][]string)
		}
		l.byName[alias] = i
		l.called[i] = append(l.called[i], alias)
	}
	for i := range models {
		if models[i].VersionOf == "" {
			l.callAlso(i, models[i].Aliases)
		}
	}
	return l
}

// callAlso gives a model those of the names that are free.
func (l *Library) callAlso(i int, names []string) {
	for _, name := range names {
		if _, taken := l.byName[name]; taken || l.aliases[name] != "" {
			continue
		}
		if l.called == nil {
			l.called = make(map[int][]string)
		}
		l.byName[name] = i
		l.called[i] = append(l.called[i], name)
		slices.Sort(l.called[i])
	}
}

// Aliases returns what each alias is of, those of models that are not there as well.
// Do not change it.
func (l *Library) Aliases() map[string]string { return l.aliases }

// AliasesOf returns the aliases of the model at index i, sorted. Do not change them.
func (l *Library) AliasesOf(i int) []string { return l.called[i] }

// Len returns the number of models.
func (l *Library) Len() int { return len(l.models) }

// At returns the model at index i, 0 ≤ i < Len. Do not change it.
func (l *Library) At(i int) *Model { return &l.models[i] }

// Find returns the index of the model of that name or alias or, where there is none, of
// the version that is so named: NAME@VERSION, where NAME is a model's name or alias and
// VERSION the first six or more of its digits, as many as tell it from the other versions
// of the model. The current version is the model itself, also while an older version of
// that name, which it was before, has yet to leave.
func (l *Library) Find(name string) (int, bool) {
	if i, ok := l.byName[name]; ok {
		return l.current(i), true
	}
	return l.version(name, false)
}

// Named returns the index of the model that has that very name.
func (l *Library) Named(name string) (int, bool) {
	i, ok := l.byName[name]
	return i, ok && l.models[i].Name == name
}

// All yields the models in order.
func (l *Library) All() iter.Seq2[int, *Model] {
	return func(yield func(int, *Model) bool) {
		for i := range l.models {
			if !yield(i, &l.models[i]) {
				return
			}
		}
	}
}

// With returns a library in which m stands last, or in the place of the model
// of the same name. It does not validate m.
func (l *Library) With(m Model) *Library {
	models := slices.Clone(l.models)
	if i, ok := l.Named(m.Name); ok {
		models[i] = m
		return assemble(models, l.aliases) // an alias may be of the version that it was
	}
	return assemble(append(models, m), l.aliases)
}

// Without returns a library that lacks the model of that name; the models
// behind it move up by one.
func (l *Library) Without(name string) *Library {
	i, ok := l.Named(name)
	if !ok {
		return l
	}
	return assemble(slices.Delete(slices.Clone(l.models), i, i+1), l.aliases)
}

// Names returns up to maxNames names in order and, if there are more, a last element
// that counts the rest. It is for error messages.
func (l *Library) Names(maxNames int) []string {
	names := make([]string, 0, min(maxNames, l.Len())+1)
	for i, m := range l.All() {
		if i == maxNames {
			return append(names, "… and "+strconv.Itoa(l.Len()-maxNames)+" more")
		}
		names = append(names, m.Name)
	}
	return names
}

// Unknown returns the error of a name that Find does not find: that of an alias whose
// model is not there, that of a version that is not there or is several, which names
// those that are, else one with the names and aliases that look like it. It costs time in
// proportion to the names.
func (l *Library) Unknown(name string) *NotFoundError {
	err := &NotFoundError{What: "model", Name: name, Of: l.aliases[name]}
	like := name
	if err.Of != "" {
		like = err.Of
	}
	if l.unknownVersion(err) {
		return err
	}
	names := make([]string, 0, len(l.models)+len(l.aliases))
	for i := range l.models {
		if l.models[i].VersionOf == "" && l.models[i].Name != name { // one of that name is about to leave
			names = append(names, l.models[i].Name)
		}
	}
	own := len(names)
	for _, of := range l.called {
		names = append(names, of...)
	}
	slices.Sort(names[own:])
	if err.Nearby = Nearest(like, names); len(err.Nearby) == 0 {
		like, _, _ = cutVersion(like)
		err.Nearby = Nearest(like, names)
	}
	return err
}

// Nearest returns up to three of names that look like name, best first: they differ in
// case, separators, spaces or Unicode form only, one contains the other, or few edits
// lie between them. It is for error messages, and costs time in proportion to the
// names; no more than 4096 are looked at closely.
func Nearest(name string, names []string) []string {
	const (
		maxFound = 3
		maxClose = 4096
	)
	type near struct {
		name string
		off  int
	}
	want := fold(name, nil)
	var found []near
	var room [maxFolded]rune
	var row [maxFolded + 1]int
	looked := 0
	for _, n := range names {
		have := fold(n, room[:0])
		off := len(have) - len(want)
		most := 1 + len(want)/4
		within := len(want) > 0 && len(have) > 0 && (contains(have, want) || contains(want, have))
		if !within && max(off, -off) > most {
			continue
		}
		if looked++; looked > maxClose {
			break
		}
		if off = distance(want, have, row[:]); within {
			off = min(off, 1)
		}
		if off <= most {
			found = append(found, near{n, off})
		}
	}
	slices.SortStableFunc(found, func(a, b near) int { return cmp.Compare(a.off, b.off) })
	out := make([]string, 0, maxFound)
	for _, f := range found[:min(len(found), maxFound)] {
		out = append(out, f.name)
	}
	return out
}

// maxFolded is how many characters of a name are compared; the rest tells little.
const maxFolded = 64

// fold appends to out what of a name tells it apart: its letters and digits, in lower
// case, without marks, and those of full width as the usual ones. Accents of a letter
// that is one with its mark (NFC) are left to the distance.
func fold(s string, out []rune) []rune {
	for _, r := range s {
		if r >= 0xff01 && r <= 0xff5e { // Unicode: Halfwidth and Fullwidth Forms
			r -= 0xff01 - '!'
		}
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			continue
		}
		if out = append(out, unicode.ToLower(r)); len(out) == maxFolded {
			break
		}
	}
	return out
}

// contains reports whether b stands in a.
func contains(a, b []rune) bool {
	for i := 0; i+len(b) <= len(a); i++ {
		if slices.Equal(a[i:i+len(b)], b) {
			return true
		}
	}
	return false
}

// distance is the least number of characters to insert, delete or replace that turn a
// into b (Levenshtein 1966), by the usual row of dynamic programming.
func distance(a, b []rune, row []int) int {
	row = row[:len(b)+1]
	for j := range row {
		row[j] = j
	}
	for i := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j := range b {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
