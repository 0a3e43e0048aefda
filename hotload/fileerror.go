package hotload

import (
	"fmt"

	"github.com/modeltier/modeltier/tier"
)

// FileError is a model file or folder that cannot be used as it is.
type FileError struct {
	Path string
	// Reason says what is wrong with it, in a few words that follow its path.
	Reason string
	// Missing is how many bytes the file is short of what its header promises, or
	// at least is; 0: it is not truncated.
	Missing tier.Bytes
	// Err is the error of the operating system, where that is the cause.
	Err error
	// Help is what can be done about it.
	Help string
}

func (e *FileError) Error() string {
	what := "model file"
	if e.Path != "" {
		what = fmt.Sprintf("%q", e.Path)
	}
	if e.Err != nil {
		return fmt.Sprintf("%s %s: %v", what, e.Reason, e.Err)
	}
	return what + " " + e.Reason
}

// Unwrap returns tier.ErrInvalid, and Err where there is one.
func (e *FileError) Unwrap() []error {
	if e.Err != nil {
		return []error{tier.ErrInvalid, e.Err}
	}
	return []error{tier.ErrInvalid}
}

// Suggestions implements tier.Suggester.
func (e *FileError) Suggestions() []string {
	switch {
	case e.Help != "":
		return []string{e.Help}
	case e.Missing > 0:
		return []string{"Wait until the file is complete, or copy it again."}
	case e.Err != nil:
		return []string{"Check the path, and that the server may read it."}
	}
	return []string{"Copy or convert the file again."}
}
