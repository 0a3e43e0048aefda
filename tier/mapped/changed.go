package mapped

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/modeltier/modeltier/tier"
)

// ChangedError is a file that is not any more what was mapped. The mapping must
// not be used: it shows another version of the weights, or parts of two, or
// ends early. A move to storage lets it go; the next load takes the file as it
// is then. It unwraps to tier.ErrInvalid.
type ChangedError struct {
	Model string
	Path  string
	// How: "truncated", "grown", "rewritten", "replaced", "gone" or "out of reach".
	How string
	// Was and Is are the file's sizes when it was mapped and now.
	Was, Is tier.Bytes
}

func (e *ChangedError) Error() string {
	about := quote(e.Path)
	if e.Model != "" {
		about = "model " + quote(e.Model) + ": " + about
	}
	switch {
	case e.How == "gone" || e.How == "out of reach":
		return fmt.Sprintf("%s is %s while it is mapped", about, e.How)
	case e.Was != e.Is:
		return fmt.Sprintf("%s was %s while it was mapped: it had %d bytes and has %d", about, e.How, int64(e.Was), int64(e.Is))
	}
	return fmt.Sprintf("%s was %s while it was mapped", about, e.How)
}

// Unwrap returns tier.ErrInvalid.
func (e *ChangedError) Unwrap() error { return tier.ErrInvalid }

// Suggestions implements tier.Suggester.
func (e *ChangedError) Suggestions() []string {
	if e.How == "gone" || e.How == "out of reach" {
		return []string{"Put the file back where it can be read, or remove the model."}
	}
	return []string{
		"Move the model to storage and load it again, when the file is whole.",
		"Replace weight files by renaming a new file over the old one, not by writing into it.",
	}
}

// check returns a *ChangedError where the file is not what was mapped. It asks
// for the path, not the open file: that a new file lies there is a change too.
func (s *shard) check() error {
	e := &ChangedError{Model: s.model, Path: s.path, Was: tier.Bytes(s.was.Size())}
	now, err := os.Stat(s.path)
	if err != nil {
		e.How = "out of reach"
		if errors.Is(err, fs.ErrNotExist) {
			e.How = "gone"
		}
		return e
	}
	e.Is = tier.Bytes(now.Size())
	switch {
	case !os.SameFile(s.was, now):
		e.How = "replaced"
	case e.Is < e.Was:
		e.How = "truncated"
	case e.Is > e.Was:
		e.How = "grown"
	case !now.ModTime().Equal(s.was.ModTime()):
		e.How = "rewritten"
	default:
		return nil
	}
	return e
}
