//go:build !linux

package llama

// LetGo does nothing here.
func (m *Model) LetGo() error { return nil }
