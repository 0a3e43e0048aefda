package serve

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/integrations/gateway"
	"github.com/modeltier/modeltier/integrations/gateway/access"
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/integrations/gateway/room"
	"github.com/modeltier/modeltier/safety"
	"github.com/modeltier/modeltier/tier"
)

// accessOf says who may send requests: the holders of the file's keys, and of the token
// everything, or, if there are none, all that is on this machine. loopback says that
// nothing else reaches the listeners.
func accessOf(token string, f *config.File, loopback bool, env func(string) (string, bool)) (access.Options, error) {
	o := access.Options{Origins: f.Origins, Hosts: f.Hosts, Loopback: loopback, ScopeOf: gateway.ScopeOf, Deny: gateway.Deny}
	if token != "" {
		o.Keys = []access.Key{{
			Name: tokenVariable, Secret: access.Secret(token),
			Scopes: []access.Scope{access.Use, access.Manage, access.Watch},
		}}
	}
	for i := range f.Keys {
		k := &f.Keys[i]
		secret, err := k.Secret(env)
		if err != nil {
			return o, fmt.Errorf("key %q: %w", k.Name, err)
		}
		if secret == token { // never both empty: a secret is not
			return o, fmt.Errorf("key %q: its secret is that of -token or %s as well, which may do everything: leave out one of the two", k.Name, tokenVariable)
		}
		key := access.Key{Name: k.Name, Secret: access.Secret(secret), Class: string(k.Class)}
		for _, word := range k.Scopes {
			scope, err := access.ParseScope(string(word))
			if err != nil {
				return o, fmt.Errorf("key %q: %w", k.Name, err)
			}
			key.Scopes = append(key.Scopes, scope)
		}
		if len(key.Scopes) == 0 {
			key.Scopes = []access.Scope{access.Use}
		}
		o.Keys = append(o.Keys, key)
	}
	return o, nil
}

// environment is that of the start, without what engines must not get: the token, the
// supervisor's socket and the keys that a configuration has there. They are read from here
// later on.
type environment struct {
	at     func(string) (string, bool)
	hidden map[string]string
}

// hide takes variables out of what engines inherit.
func (e *environment) hide(names ...string) {
	if e.hidden == nil {
		e.hidden = make(map[string]string)
	}
	for _, name := range names {
		if value, ok := e.at(name); ok && name != "" {
			e.hidden[name] = value
			os.Unsetenv(name)
		}
	}
}

func (e *environment) lookup(name string) (string, bool) {
	if value, ok := e.hidden[name]; ok {
		return value, true
	}
	return e.at(name)
}

// hideKeys hides the variables that hold keys.
func (e *environment) hideKeys(f *config.File) {
	for i := range f.Keys {
		e.hide(f.Keys[i].KeyEnv)
	}
}

// memoryLimit is how long the machine may take to say how much memory it has.
const memoryLimit = 5 * time.Second

// machine returns how much memory there is; zero: that cannot be told.
func machine(ctx context.Context) tier.Memory {
	ctx, cancel := context.WithTimeout(ctx, memoryLimit)
	defer cancel()
	mem, err := safety.NewProbe().Memory(ctx)
	if err != nil {
		return tier.Memory{}
	}
	return mem
}

// rules are what the room goes by: how many requests each engine is given at once, and the
// classes of models. They are replaced by a reload.
type rules struct {
	manager *modeltier.Manager
	now     atomic.Pointer[ruled]
}

// ruled is a configuration, and its models by their names.
type ruled struct {
	file   *config.File
	models map[string]*config.Model
}

func (r *rules) set(f *config.File) {
	now := &ruled{f, make(map[string]*config.Model, len(f.Models))}
	for i := range f.Models {
		now.models[f.Models[i].Name] = &f.Models[i]
	}
	r.now.Store(now)
}

// parallel is room.Options.Parallel.
func (r *rules) parallel(name string) int {
	now := r.now.Load()
	m, engine := now.models[name], folderEngine(now.file)
	if m != nil {
		engine = m.Engine
	} else if s, ok := r.manager.Model(name); ok && s.Mover != "" {
		engine = s.Mover
	}
	return now.file.MaxRequests(engine, m)
}

// class is room.Options.ModelClass.
func (r *rules) class(name string) room.Class {
	if m := r.now.Load().models[name]; m != nil {
		class, _ := room.ParseClass(string(m.Class)) // which the file was checked for
		return class
	}
	return room.Normal
}

// folderEngine is the engine of models that name none: that of the first folder, or the
// only one.
func folderEngine(f *config.File) string {
	if len(f.Folders) > 0 {
		return f.Folders[0].Engine
	}
	if len(f.Engines) == 1 {
		for name := range f.Engines {
			return name
		}
	}
	return ""
}

// folderModels returns the models of folders that the Manager does not watch itself. Of two
// of one name the first counts.
func folderModels(ctx context.Context, f *config.File, folders []config.Folder, told io.Writer) ([]tier.Model, error) {
	known := make(map[string]bool)
	for i := range f.Models {
		known[f.Models[i].Name] = true
	}
	var all []tier.Model
	for _, folder := range folders {
		models, _, err := hotload.Scan(ctx, folder.Path, folder.Follow...)
		if err != nil {
			return nil, err
		}
		engine := f.Engines[folder.Engine]
		for _, m := range models {
			if known[m.Name] {
				fmt.Fprintf(told, "left out: %s: there is a model '%s' already\n", m.Path, m.Name)
				continue
			}
			known[m.Name] = true
			m.Mover = folder.Engine
			if m.Labels = maps.Clone(m.Labels); m.Labels == nil {
				m.Labels = make(map[string]string)
			}
			m.Labels[config.EngineLabel] = engine.ID()
			all = append(all, m)
		}
	}
	return all, nil
}

// watchFolder calls changed when a folder beyond the first is another one than when the
// models were read, until ctx ends.
func watchFolder(ctx context.Context, folder *config.Folder, models []tier.Model, changed func()) {
	// Its error is that ctx has ended, or a folder that has gone since: then there is
	// nothing to see.
	_ = hotload.Watch(ctx, folder.Path, models, 0, func(hotload.Change) { changed() }, folder.Follow...)
}

// aliases returns the further names of the file, by model or all together.
func aliases(f *config.File) map[string]string {
	all := make(map[string]string)
	maps.Copy(all, f.Aliases)
	for i := range f.Models {
		for _, alias := range f.Models[i].Aliases {
			all[alias] = f.Models[i].Name
		}
	}
	return all
}

// pin pins the models that the file names beside those that it lists, and tells which are
// not there. Those that the file before it has pinned so are pinned no more.
func pin(ctx context.Context, m *modeltier.Manager, before, f *config.File, told io.Writer) {
	for _, name := range before.Pins {
		listed := slices.ContainsFunc(f.Models, func(m config.Model) bool { return m.Name == name && m.Pinned })
		if listed || slices.Contains(f.Pins, name) {
			continue
		}
		if err := m.SetPinned(ctx, name, false); err != nil && !errors.Is(err, modeltier.ErrNotFound) {
			fmt.Fprintf(told, "warning: pins: %v\n", err)
		}
	}
	for _, name := range f.Pins {
		if err := m.SetPinned(ctx, name, true); err != nil {
			fmt.Fprintf(told, "warning: pins: %v\n", err)
		}
	}
}

// lasting returns the settings that count from the next start on and differ, by their keys.
func lasting(a, b *config.File) (changed []string) {
	for _, s := range []struct {
		key  string
		a, b any
	}{
		{"listen", a.Listen, b.Listen},
		{"keep_alive", a.KeepAlive, b.KeepAlive},
		{"standby_for", a.StandbyFor, b.StandbyFor},
		{"verify", a.Verify, b.Verify},
		{"timeouts", a.Timeouts, b.Timeouts},
		{"folders", a.Folders, b.Folders},
	} {
		if !reflect.DeepEqual(s.a, s.b) {
			changed = append(changed, s.key)
		}
	}
	return changed
}

// same reports whether two configurations say the same.
func same(a, b *config.File) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// setAliases has the Manager go by the aliases, where they changed. Those that cannot be
// set are taken out of now: the next time they are tried again.
func setAliases(ctx context.Context, m *modeltier.Manager, old, now map[string]string) error {
	var errs []error
	for alias := range old { // first, as there is room for so many only
		if _, ok := now[alias]; !ok {
			if err := m.SetAlias(ctx, alias, ""); !errors.Is(err, modeltier.ErrNotFound) {
				errs = append(errs, err)
			}
		}
	}
	for alias, model := range now {
		if old[alias] == model {
			continue
		}
		if err := m.SetAlias(ctx, alias, model); err != nil {
			errs = append(errs, err)
			delete(now, alias)
		}
	}
	return errors.Join(errs...)
}

// addresses are where to listen: those of the command line, else those of the file.
func (o *options) addresses(f *config.File) []string {
	if len(f.Listen) > 0 { // there are none if -addr was named
		return f.Listen
	}
	return strings.Split(o.addr, ",")
}

// grace is how long requests have to end once the server is told to stop.
func grace(f *config.File) time.Duration {
	return time.Duration(cmp.Or(f.Timeouts.Shutdown, config.Duration(30*time.Second)))
}
