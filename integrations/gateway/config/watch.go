package config

import (
	"context"
	"io/fs"
	"os"
	"time"
)

// Watch calls changed each time the file that f was read from is another one than before and
// is done with: it looks the same twice in a row. It looks at once, then at that interval, and
// returns when ctx ends. changed is called on the goroutine of Watch, which does not look
// meanwhile. The file is never opened; while it is not there, nothing happens.
func (f *File) Watch(ctx context.Context, every time.Duration, changed func()) {
	seen := settled{told: f.info}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if seen.look(os.Stat(f.name)) {
			changed()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// settled tells when a file has changed and is done with: it looks the same twice in a row,
// and not as it did when that was told last.
type settled struct{ told, last fs.FileInfo }

func (s *settled) look(now fs.FileInfo, err error) bool {
	if err != nil {
		return false // it is being replaced
	}
	still := s.last != nil && alike(s.last, now)
	s.last = now
	switch {
	case s.told == nil:
		s.told = now
		return false
	case !still || alike(s.told, now):
		return false
	}
	s.told = now
	return true
}

func alike(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
