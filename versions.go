package modeltier

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/tier"
)

// Rollback has a model become an older version of it: version, which is named by its
// first six or more digits, or with "" the one that was current before. It returns the
// version that the model is then. The one that it was is kept as an older version, if its
// files are there still; so to roll back twice is to have what there was.
//
// Like Reconfigure it does not wait for the model, which takes no new leases, leaves
// memory when those that are held have ended, and is then loaded as the other when it is
// asked for. Home, pin, Quality and KeepAlive stay the model's. With a StateDir it is kept
// across restarts, and it is not undone by a Reconfigure, or a Config, that says of the
// model what was said before.
//
// A model, or a version, that is not known gives ErrNotFound; a version whose files are
// gone or hold something else, or which the model is already, ErrInvalid; a model that is
// being added, removed or replaced ErrInUse.
func (m *Manager) Rollback(ctx context.Context, name, version string) (now string, err error) {
	lib := m.snap.Load().view.Library
	i, ok := lib.Find(name)
	if !ok {
		return "", m.unknown(name)
	}
	all := lib.Versions(i)
	current := lib.At(all[0])
	if current.VersionOf != "" { // it is on its way out of the library
		return "", m.unknown(current.VersionOf)
	}
	to := -1
	for _, j := range slices.Backward(all[1:]) {
		if lib.At(j).Version != current.Version {
			to = j
			break
		}
	}
	if version != "" {
		ref := current.Name + "@" + version
		if to, ok = lib.Find(ref); !ok {
			return "", m.unknown(ref)
		}
	} else if to < 0 {
		return "", &tier.NotFoundError{What: "older version", Name: current.Name}
	}
	next := lib.At(to)
	if next.Version == current.Version {
		return "", &tier.InvalidError{
			Model: current.Name, Field: "version", Value: strconv.Quote(version), Rule: "must be another than the current one",
			Help: []string{"Nothing needs to be done."},
		}
	}
	there := m.cfg.stillThere([]tier.Model{*next, *current})
	if there[0] != nil {
		return "", there[0]
	}
	_, err = ask(ctx, m, func(now time.Time, reply func(struct{}, error)) {
		var err error // the caller may have left with its own
		c := &m.ctl
		e, known := c.core.Named(current.Name)
		o, kept := c.core.Named(next.Name)
		switch {
		case c.stopping:
			err = tier.ErrClosed
		case !known || !kept || o.Model.Version != next.Version || e.Becoming().Version != current.Version:
			err = &tier.InUseError{Model: current.Name, Reason: "Model '" + current.Name + "' has become another just now"}
		default:
			err = c.core.Rollback(e, o, there[1] == nil, now)
		}
		if err != nil {
			reply(struct{}{}, err)
			return
		}
		m.log.Info("a model is rolled back", "model", current.Name, "from", current.Version, "to", next.Version)
		c.keep(func() { reply(struct{}{}, nil) })
	})
	if err != nil {
		return "", err
	}
	return next.Version, nil
}

// stillThere returns what keeps the files of each model from holding what its version
// says. It is not for the loop.
func (cfg *Config) stillThere(models []tier.Model) []error {
	found, errs := hotload.Gather(models, cfg.ModelDir, cfg.Follow...)
	for i := range models {
		if errs[i] == nil && (models[i].Path == "" || found[i].Version != models[i].Version) {
			errs[i] = &tier.InvalidError{
				Model: models[i].Name, Field: "path", Value: strconv.Quote(models[i].Path), Rule: "must hold the version still: something else is there",
				Help: []string{"Put the files of that version back."},
			}
		}
	}
	return errs
}

// markOldStays notes in the traits which models are to replace others whose files are
// there still, at another path.
func (m *Manager) markOldStays(models []tier.Model, traits []core.Traits) {
	snap := m.snap.Load()
	if snap == nil {
		return
	}
	var old []tier.Model
	var of []int
	for i := range models {
		next := &models[i]
		j, ok := snap.view.Library.Find(next.Name)
		if !ok {
			continue
		}
		if was := snap.view.Library.At(j); was.Name == next.Name && next.Path != "" && was.Path != next.Path && was.Version != "" && was.Version != next.Version {
			old, of = append(old, *was), append(of, i)
		}
	}
	for i, err := range m.cfg.stillThere(old) {
		traits[of[i]].OldStays = err == nil
	}
}

// asVersion returns what an alias of the entry, which was found by that name, is to stand
// for: its name, or the version if that was named; "" if that would be too long a name.
func (c *control) asVersion(name string, e *core.Entry) string {
	_, own := c.core.Named(name)
	if _, alias := c.core.Aliases()[name]; own || alias || e.Model.VersionOf != "" {
		return e.Model.Name
	}
	return tier.VersionName(e.Model.Name, e.Model.Version)
}

// isAlias reports whether the name is an alias of the model.
func (s *ModelStatus) isAlias(name string) bool { return slices.Contains(s.Aliases, name) }

// content is what the Config says that a model is.
type content struct {
	Path    string `json:"path,omitempty"`
	Version string `json:"version,omitempty"`
}

// restoreVersions takes up what the state has of versions: a model of the Config that was
// rolled back is what it was rolled back to, if the Config says of it what it said then,
// and else that is an older version; those follow the models, if their files are there
// still.
func (m *Manager) restoreVersions(cfg *Config, versions []tier.Model, said map[string]content, aliases map[string]string) {
	index := make(map[string]int, len(cfg.Models))
	for i := range cfg.Models {
		index[cfg.Models[i].Name] = i
	}
	var older []tier.Model
	for n, err := range cfg.stillThere(versions) {
		v := versions[n]
		if err != nil {
			m.log.Warn("a version is not there any more", "model", cmp.Or(v.VersionOf, v.Name), "version", v.Version, "err", err)
			continue
		}
		i, known := index[cmp.Or(v.VersionOf, v.Name)]
		if !known {
			continue
		}
		if v.VersionOf == "" {
			now, then := &cfg.Models[i], said[v.Name]
			if now.Path == then.Path && !tier.OtherVersion(now.Version, then.Version) {
				v.Home, v.Pinned, v.Quality, v.KeepAlive = now.Home, now.Pinned, now.Quality, now.KeepAlive
				*now = v
				continue
			}
			v.Name, v.VersionOf, v.Home, v.Pinned = tier.VersionName(v.Name, v.Version), v.Name, tier.Storage, false
		}
		older = append(older, v)
	}
	for _, v := range older {
		_, taken := index[v.Name]
		if _, alias := aliases[v.Name]; taken || alias || v.Name == "" || v.Version == cfg.Models[index[v.VersionOf]].Version {
			continue
		}
		index[v.Name] = len(cfg.Models)
		cfg.Models = append(cfg.Models, v)
	}
}

// leaveVersions takes versions that the state had, and that their movers refuse now, out of
// the models: a model that was rolled back to one is what the Config says. It reports
// whether there was one.
func (m *Manager) leaveVersions(cfg *Config, faults []error, kept restored) (changed bool) {
	all := make([]tier.Model, 0, len(cfg.Models))
	for i, v := range cfg.Models {
		said, known := kept.configured[v.Name]
		rolledBack := known && core.OtherContent(&said, &v) && !slices.Contains(kept.hotAdded, v.Name)
		if faults[i] == nil || v.VersionOf == "" && !rolledBack {
			all = append(all, v)
			continue
		}
		changed = true
		m.log.Warn("a version cannot be moved any more", "model", cmp.Or(v.VersionOf, v.Name), "version", v.Version, "err", faults[i])
		if rolledBack {
			said.Home, said.Pinned = v.Home, v.Pinned
			all = append(all, said)
		}
	}
	cfg.Models = all
	return changed
}
