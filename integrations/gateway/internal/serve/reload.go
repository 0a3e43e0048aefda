package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/integrations/gateway/engines"
)

// reloader has the Manager go by what the library is now, by difference.
type reloader struct {
	open    func(ctx context.Context) (*library, error) // library.again
	manager *modeltier.Manager
	engines *engines.Mover // nil: files are served
	lib     *library       // as it was last opened
	rules   *rules
	// admit checks the file's keys, origins and hosts, and returns what has the guard go by
	// them. nil: there is no guard.
	admit      func(*config.File) (apply func() error, err error)
	supervisor *supervisor
	// said gets a line about each time, told what went wrong.
	said, told io.Writer
}

// start runs it in the background until ctx ends or end is called, which waits for it, but
// not for a file system that does not answer.
func (r *reloader) start(ctx context.Context, signals <-chan os.Signal) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	changes := make(chan struct{}, 1)
	changed := func() {
		select {
		case changes <- struct{}{}:
		default:
		}
	}
	f, models := r.lib.file, r.lib.models
	if r.lib.configured {
		running.Go(func() { f.Watch(ctx, time.Second, changed) })
	}
	for i := range f.Folders {
		if folder := &f.Folders[i]; i > 0 && folder.Watched() {
			running.Go(func() { watchFolder(ctx, folder, models, changed) })
		}
	}
	running.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			case <-changes:
			}
			r.reload(ctx)
		}
	})
	return func() {
		cancel()
		ended := make(chan struct{})
		go func() {
			running.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(startLimit):
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
	before := r.lib.file
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
	if len(parts) == 0 && !same(before, r.lib.file) {
		parts = []string{"settings"}
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
	if lib.state != r.lib.state {
		return modeltier.Reconfiguration{}, fmt.Errorf("the state folder was %q and cannot become %q while the server runs", r.lib.state, lib.state)
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
	apply := func() error { return nil }
	if r.admit != nil {
		if apply, err = r.admit(lib.file); err != nil {
			return modeltier.Reconfiguration{}, err
		}
	}
	// An alias that becomes the name of a model goes first.
	left := maps.Clone(r.lib.aliases)
	for i := range lib.models {
		delete(left, lib.models[i].Name)
	}
	if err := setAliases(ctx, r.manager, r.lib.aliases, left); err != nil {
		return modeltier.Reconfiguration{}, err
	}
	done, err := r.manager.Reconfigure(ctx, lib.models, lib.limits)
	if err != nil { // nothing changes, or everything
		return done, errors.Join(err, setAliases(ctx, r.manager, left, r.lib.aliases))
	}
	if err := apply(); err != nil {
		fmt.Fprintf(r.told, "warning: %v\n", err)
	}
	if r.engines != nil {
		r.engines.SetNames(lib.engines, folderEngine(lib.file))
	}
	if r.rules != nil {
		r.rules.set(lib.file)
	}
	if err := setAliases(ctx, r.manager, left, lib.aliases); err != nil {
		fmt.Fprintf(r.told, "warning: aliases: %v\n", err)
	}
	pin(ctx, r.manager, r.lib.file, lib.file, r.told)
	lib.warn(r.told)
	if later := lasting(r.lib.file, lib.file); len(later) > 0 {
		fmt.Fprintf(r.told, "warning: %s: changed, which counts from the next start on\n", strings.Join(later, ", "))
	}
	r.lib = lib
	return done, nil
}
