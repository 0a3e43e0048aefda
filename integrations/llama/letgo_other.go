//go:build !linux

package llama

// span would be where a file is mapped: it is not known here.
type span struct{}

func spans(string) ([]span, error) { return nil, nil }

func ownSpans(string, []span) []span { return nil }

// LetGo does nothing here.
func (m *Model) LetGo() error { return nil }
