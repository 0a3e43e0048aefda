package modeltier

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/modeltier/modeltier/tier"
)

// mover is one of the movers, with what may be asked of it beyond Move; nil where it does
// not offer that. What it offers counts for the models that it moves.
type mover struct {
	tier.Mover
	resident    tier.Resident
	cacher      tier.Cacher
	footprinter tier.Footprinter
	instancer   tier.Instancer

	plugin *plugin      // its calls, other than moves and what is asked after one
	stuck  atomic.Int32 // looks that did not return in time
}

func (m *Manager) newMover(name string, v tier.Mover) *mover {
	p := &plugin{m: m, name: "mover", key: "mover", part: v}
	if name != "" {
		p.name, p.key = "mover "+strconv.Quote(name), "mover "+name
	}
	mv := &mover{Mover: v, plugin: p}
	mv.resident, _ = v.(tier.Resident)
	mv.cacher, _ = v.(tier.Cacher)
	mv.footprinter, _ = v.(tier.Footprinter)
	mv.instancer, _ = v.(tier.Instancer)
	return mv
}

// movers are the movers by name; Config.Mover has none. A value that stands under several
// names is one mover.
type movers map[string]*mover

// with returns the movers and one more.
func (all movers) with(m *Manager, name string, v tier.Mover) movers {
	next := maps.Clone(all)
	for _, mv := range all {
		if same(mv.Mover, v) {
			next[name] = mv
			return next
		}
	}
	next[name] = m.newMover(name, v)
	return next
}

// same reports whether two parts are one. Those that cannot be compared are not.
func same(a, b any) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// each returns every mover once, by the first of its names.
func (all movers) each() (list []*mover) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if mv := all[name]; !slices.Contains(list, mv) {
			list = append(list, mv)
		}
	}
	return list
}

// moverOf returns the mover of a model. One that was hot loaded in an earlier life, with a
// mover that the Config has no more, cannot be moved.
func (m *Manager) moverOf(model *tier.Model) *mover {
	all := *m.movers.Load()
	if mv, known := all[model.Mover]; known {
		return mv
	}
	return m.newMover(model.Mover, missing{all})
}

// missing stands for a mover that there is none of.
type missing struct{ known movers }

func (m missing) Move(_ context.Context, mv tier.Move, _ func(tier.Bytes)) error {
	return m.CheckModel(&mv.Model)
}

// CheckModel implements tier.ModelChecker.
func (m missing) CheckModel(model *tier.Model) error {
	return checkMover("mover", model.Name, model.Mover, m.known)
}

// AddMover adds a mover to those of Config.Movers: models that are hot loaded or come by
// Reconfigure may name it from now on. The Manager closes it as it does those of the
// Config. A name that is taken gives ErrExists, one that is no name, or no mover,
// ErrInvalid.
func (m *Manager) AddMover(name string, v tier.Mover) error {
	if err := checkMovers(map[string]tier.Mover{name: v}); err != nil {
		return err
	}
	m.adding.Lock()
	defer m.adding.Unlock()
	all := *m.movers.Load()
	if m.closing.Load() {
		return tier.ErrClosed
	}
	if _, taken := all[name]; taken {
		return fmt.Errorf("mover %s %w", strconv.Quote(name), tier.ErrExists)
	}
	all = all.with(m, name, v)
	m.movers.Store(&all)
	return nil
}

// checkMovers returns what is wrong with the movers of a configuration, one after the
// other.
func checkMovers(named map[string]tier.Mover) error {
	for _, name := range slices.Sorted(maps.Keys(named)) {
		if err := tier.CheckName("Movers", name); err != nil {
			return err
		}
		if named[name] == nil {
			return &tier.InvalidError{Field: "Movers", Value: strconv.Quote(name), Rule: "must not be nil"}
		}
	}
	return nil
}

// maxMoverNames bounds the movers that an error lists.
const maxMoverNames = 20

// checkMover returns the error of a model that names a mover which is none of those known.
// field is what its author calls it.
func checkMover[M ~map[string]V, V any](field, model, name string, known M) error {
	if _, ok := known[name]; ok || name == "" {
		return nil
	}
	if err := tier.CheckName(field, name); err != nil {
		return err
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(known)), func(name string) bool { return name == "" })
	err := &tier.InvalidError{Model: model, Field: field, Value: strconv.Quote(name), Rule: "must be left out: there is none with a name"}
	if len(names) == 0 {
		return err
	}
	if near := tier.Nearest(name, names); len(near) > 0 {
		err.Help = append(err.Help, "Did you mean "+strings.Join(near, ", ")+"?")
	}
	if more := len(names) - maxMoverNames; more > 0 {
		names = append(names[:maxMoverNames], fmt.Sprintf("… (%d more)", more))
	}
	err.Rule = "must be one of " + strings.Join(names, ", ")
	err.Help = append(err.Help, field+" "+err.Rule+".")
	return err
}
