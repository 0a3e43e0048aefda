package hotload

import (
	"cmp"
	"errors"
	"fmt"
)

// Skipped is something in a folder that was not taken for a model, and why.
type Skipped struct {
	Path   string
	Reason string

	help    string // what can be done about it
	special bool   // it is there and would count if it could be used
	unread  bool   // a folder of which nothing is known
}

func (s Skipped) String() string { return fmt.Sprintf("%q %s", s.Path, s.Reason) }

// fault is the error that it makes where it is asked for by itself.
func (s Skipped) fault() error {
	return &FileError{Path: s.Path, Reason: s.Reason, Help: cmp.Or(s.help, "Put a whole model there.")}
}

// skippedFor says why the error kept what is at path, or what it names itself,
// from being used.
func skippedFor(path string, err error) Skipped {
	e, ok := errors.AsType[*FileError](err)
	if !ok {
		return Skipped{Path: path, Reason: err.Error()}
	}
	s := Skipped{Path: cmp.Or(e.Path, path), Reason: e.Reason, help: e.Suggestions()[0]}
	if e.Err != nil {
		s.Reason += ": " + e.Err.Error()
	}
	return s
}
