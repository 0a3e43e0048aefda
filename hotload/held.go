package hotload

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/modeltier/modeltier/tier"
)

// lockName is the file that is locked. It stays when the lock is let go: to remove
// it would let two processes hold two different files of that name.
const lockName = "lock"

// HeldError is a state folder that another process, or another Store of this
// one, has open.
type HeldError struct {
	Dir    string
	Holder string // who, as it described itself; "" where that cannot be read
}

func (e *HeldError) Error() string {
	holder := e.Holder
	if holder == "" {
		holder = "another process"
	}
	return fmt.Sprintf("state folder %q is held by %s", e.Dir, holder)
}

// Unwrap returns tier.ErrInUse.
func (e *HeldError) Unwrap() error { return tier.ErrInUse }

// Suggestions implements tier.Suggester.
func (e *HeldError) Suggestions() []string {
	return []string{"Stop the holder, or give this process a state folder of its own."}
}

// writeHolder describes this process in the locked file. The description is for
// people: nothing fails where it cannot be written.
func writeHolder(f *os.File) {
	who := fmt.Sprintf("process %d (%s) since %s\n", os.Getpid(), filepath.Base(os.Args[0]), time.Now().UTC().Format(time.RFC3339))
	if f.Truncate(0) == nil {
		f.WriteAt([]byte(who), 0)
	}
}

func readHolder(f *os.File) string {
	line := make([]byte, 256)
	n, err := f.ReadAt(line, 0)
	if err != nil && err != io.EOF {
		return ""
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, string(line[:n]))
}
