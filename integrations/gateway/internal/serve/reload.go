package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/engines"
)

// reloader has the Manager go by what the library is now, by difference.
type reloader struct {
	open       func(ctx context.Context) (*library, error) // library.again
	manager    *modeltier.Manager
	engines    *engines.Mover // nil: files are served
	state      string
	supervisor *supervisor
	// said gets a line about each time, told what went wrong.
	said, told io.Writer
}

// start runs it in the background until ctx ends or end is called, which waits for it.
func (r *reloader) start(ctx context.Context, signals <-chan os.Signal, path string) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { r.run(ctx, signals, path) })
	return func() {
		cancel()
		running.Wait()
	}
}

// run reloads at each signal, and when the file of that path, if it is
// not empty, has changed, until ctx ends.
func (r *reloader) run(ctx context.Context, signals <-chan os.Signal, path string) {
	const every = time.Second
	look := time.NewTicker(every)
	defer look.Stop()
	var file settled
	if path == "" {
		look.Stop()
	} else {
		file.look(os.Stat(path))
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			r.reload(ctx)
		case <-look.C:
			if file.look(os.Stat(path)) {
				r.reload(ctx)
			}
		}
	}
}

// reload takes up what there is now. Where anything is wrong with it, it changes
// nothing and says so.
func (r *reloader) reload(ctx context.Context) {
	r.supervisor.tell(reloading)
	defer r.supervisor.tell(ready)
	if r.open == nil {
		fmt.Fprintln(r.told, "not reloaded: the demo library is always the same")
		return
	}
	done, err := r.difference(ctx)
	if err != nil {
		if ctx.Err() == nil {
			fmt.Fprintf(r.told, "not reloaded, nothing was changed: %v\n", err)
		}
		return
	}
	var parts []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"added", done.Added}, {"removed", done.Removed}, {"replaced", done.Replaced}, {"changed", done.Changed}} {
		if len(p.names) > 0 {
			parts = append(parts, p.what+" "+strings.Join(p.names, ", "))
		}
	}
	if done.Limits {
		l := r.manager.Status().Limits
		parts = append(parts, fmt.Sprintf("limits: ram %v, swap %v, reserved %v", l.RAM, l.Swap, l.Reserved))
	}
	if len(parts) == 0 {
		parts = []string{"nothing has changed"}
	}
	fmt.Fprintf(r.said, "reloaded: %s\n", strings.Join(parts, "; "))
}

func (r *reloader) difference(ctx context.Context) (modeltier.Reconfiguration, error) {
	lib, err := r.open(ctx)
	if err != nil {
		return modeltier.Reconfiguration{}, err
	}
	if lib.state != r.state {
		return modeltier.Reconfiguration{}, fmt.Errorf("the state folder was %q and cannot become %q while the server runs", r.state, lib.state)
	}
	if r.engines != nil {
		r.engines.Add(lib.engines)
		for name := range lib.engines {
			if name == "" { // that of -engine
				continue
			}
			if err := r.manager.AddMover(name, r.engines); err != nil && !errors.Is(err, modeltier.ErrExists) {
				return modeltier.Reconfiguration{}, err
			}
		}
	}
	done, err := r.manager.Reconfigure(ctx, lib.models, lib.limits)
	if err != nil {
		return done, err
	}
	if r.engines != nil {
		r.engines.SetNames(lib.engines)
	}
	return done, nil
}

// settled tells when a file has changed and is done with: it looks the same twice
// in a row, and not as it did when that was told last.
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
