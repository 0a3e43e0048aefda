package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
)

// Progress is how far Make has come. Total counts only what has to be written.
type Progress struct {
	File        string
	Done, Total tier.Bytes
}

// Make writes the files that are missing, cut short, or otherwise not what they
// should be, and calls progress from time to time, if it is not nil. A file has
// its name only once it is whole and on disk, so whatever ends Make leaves
// nothing half done behind that a later call would take for good. The bytes are
// the same every time.
func (l Library) Make(ctx context.Context, progress func(Progress)) error {
	if err := l.Validate(); err != nil {
		return err
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	var missing []entry
	p := Progress{}
	for _, e := range append(models[:len(models):len(models)], spare) {
		clearStale(l.path(e))
		if !l.whole(e) {
			missing = append(missing, e)
			p.Total += l.size(e)
		}
	}
	for _, e := range missing {
		p.File = e.file()
		err := l.write(ctx, e, func(n int) {
			p.Done += tier.Bytes(n)
			progress(p)
		})
		if err != nil {
			return fmt.Errorf("making the demo library, %v in %s: %w", l.Total(), l.Dir, err)
		}
	}
	return nil
}

// whole reports whether the file is there in full.
func (l Library) whole(e entry) bool {
	info, err := hotload.Inspect(l.path(e))
	shape := l.shape(e)
	return err == nil && info.Format == hotload.FormatGGUF && info.Size == shape.Size() && info.Title == shape.title()
}

// write makes one file under another name and renames it when it is on disk. The
// data is flushed for a second reason too: pages that are not written yet cannot
// be dropped from memory, and dropping them is what a demote does.
func (l Library) write(ctx context.Context, e entry, wrote func(n int)) (err error) {
	path := l.path(e)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// A name of its own: two servers may be making the same library.
	f, err := os.CreateTemp(dir, e.file()+".*.part")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	shape := l.shape(e)
	if err := shape.Write(ctx, f, wrote); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	forget(f)
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// clearStale removes what a Make that was killed has left of the file.
func clearStale(path string) {
	const abandoned = 10 * time.Minute
	parts, err := filepath.Glob(path + ".*.part")
	if err != nil {
		return // a folder whose name is a pattern: what is left there stays
	}
	for _, part := range parts {
		if info, err := os.Stat(part); err == nil && time.Since(info.ModTime()) > abandoned {
			os.Remove(part)
		}
	}
}
