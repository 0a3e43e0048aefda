package tier

import (
	"iter"
	"maps"
	"slices"
	"strconv"
)

// Library is the immutable, ordered set of models that a View speaks of. The
// same pointer means the same content, so what is derived from a Library (an
// index, a ranking) may be kept for as long as the pointer is the same.
type Library struct {
	models []Model
	byName map[string]int
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
		return nil, joinFaults(faults)
	}
	return l, nil
}

// AssembleLibrary returns a library of models that were validated before, in that
// order, in time proportional to their number: for changes of many models at once,
// where With and Without would copy the library for each. No two models may have
// the same name. It keeps the slice.
func AssembleLibrary(models []Model) *Library {
	l := &Library{models: models, byName: make(map[string]int, len(models))}
	for i := range models {
		l.byName[models[i].Name] = i
	}
	return l
}

// Len returns the number of models.
func (l *Library) Len() int { return len(l.models) }

// At returns the model at index i, 0 ≤ i < Len. It is not to be changed.
func (l *Library) At(i int) *Model { return &l.models[i] }

// Find returns the index of the model of that name.
func (l *Library) Find(name string) (int, bool) {
	i, ok := l.byName[name]
	return i, ok
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
	n := &Library{models: slices.Clone(l.models), byName: l.byName}
	if i, ok := l.byName[m.Name]; ok {
		n.models[i] = m
		return n
	}
	n.models = append(n.models, m)
	n.byName = maps.Clone(l.byName)
	n.byName[m.Name] = len(n.models) - 1
	return n
}

// Without returns a library that lacks the model of that name; the models
// behind it move up by one.
func (l *Library) Without(name string) *Library {
	i, ok := l.byName[name]
	if !ok {
		return l
	}
	return AssembleLibrary(slices.Delete(slices.Clone(l.models), i, i+1))
}

// Names returns up to most names in order, and a last element that counts the
// rest where there are more. It is for error messages.
func (l *Library) Names(most int) []string {
	names := make([]string, 0, min(most, l.Len())+1)
	for i, m := range l.All() {
		if i == most {
			return append(names, "… and "+strconv.Itoa(l.Len()-most)+" more")
		}
		names = append(names, m.Name)
	}
	return names
}
