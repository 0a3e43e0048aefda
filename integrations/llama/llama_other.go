//go:build !linux || (!amd64 && !arm64)

package llama

import "context"

// Library is llama.cpp, which cannot be loaded here.
type Library struct{}

// Open returns an error here.
func Open(string) (*Library, error) { return nil, errElsewhere }

// Load returns an error here.
func (*Library) Load(string, int, int) (*Model, error) { return nil, errElsewhere }

// Model is never made here.
type Model struct{}

// Close does nothing here.
func (*Model) Close() {}

// LetGo does nothing here.
func (*Model) LetGo() error { return nil }

// Generate returns an error here.
func (*Model) Generate(context.Context, string, int, func(int32, string) error) error {
	return errElsewhere
}

// Embed returns an error here.
func (*Model) Embed(string) ([]float32, error) { return nil, errElsewhere }
