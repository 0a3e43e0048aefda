package modeltier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
)

// Config is everything that New can be told. The zero Config is a Manager of no
// models with the defaults of an 8 GB board.
type Config struct {
	// Models is the library to begin with. The first listed wins a tie. A model
	// whose Size is zero, or smaller than what its files hold, is measured. Where it names
	// no Parts, its Path may be any shard of a set, its index or its folder: it becomes the
	// entry of the set (hotload.Gather).
	Models []tier.Model
	// Aliases are further names: each key stands for the model of Models that is its
	// value, wherever a name is taken. None is a model's name or tier.AutoName. With
	// WatchModelDir the model may come later. See Manager.SetAlias.
	Aliases map[string]string
	// Limits of the tiers; every zero field is that of tier.DefaultLimits.
	Limits tier.Limits
	// Mover moves the bytes. nil: mapped files (tier/mapped).
	Mover tier.Mover
	// Movers are further movers, by the names that models call them (tier.Model.Mover): all
	// share one ledger and one queue, and what each offers beyond Move counts for its own
	// models. One value may stand under several names, and be Mover too. The Manager closes
	// them. See Manager.AddMover.
	Movers map[string]tier.Mover
	// Probe reads how much memory there is. nil: safety.NewProbe; a tier.Overlay
	// (jetson.Probe) is laid over one.
	Probe tier.MemoryProbe
	// Selector chooses the model of a request. nil: selector.New.
	Selector tier.Selector
	// Placement decides who is where. nil: optimizer.New.
	Placement tier.Placement
	// StateDir is a folder, made if missing, that keeps models, limits, home tiers
	// and what was learned across restarts and crashes. "": nothing is kept.
	StateDir string
	// ModelDir is the folder that the paths of hot loads on the wire are taken from;
	// a path that leads out of it is refused. "": any path, as the callers of
	// HandleRequest are trusted.
	ModelDir string
	// WatchModelDir has the models in ModelDir be in the library too, as hotload.Scan finds
	// them: those that are there, and then, looked for every hotload.DefaultInterval, those
	// that come. A set of files is taken up when it has stopped changing. One that has
	// changed is replaced, and one that is not there any more leaves, when it is not in use.
	// A model of Models or of a hot load stays as its owner said, whatever is in the folder;
	// what is in the folder and not in the library is in Status.LeftOut. Models keep their
	// names; with a StateDir also across restarts.
	WatchModelDir bool
	// Follow are folders that links in ModelDir may lead to, and below: models on another
	// drive.
	Follow []string
	// Verify has files read and held against tier.Model.Digests while they are loaded, each
	// once as long as it is the same file: by device, inode, size and times, which are kept
	// in the StateDir. A load takes as long as the longer of the two. A model of which a
	// file is damaged goes back to storage, and is rolled back to the version before, if
	// there is one; else it is not loaded, which gives ErrDamaged, until the file or its
	// digest is another.
	Verify bool
	// Logger gets what an operator should know. nil: silent.
	Logger *slog.Logger
	// Events are called as things happen.
	Events Events

	// Protection from eviction, see tier.Protection, which has the defaults. Fairness
	// bounds starvation and thrash: a request waits at most this long before busy
	// models are drained for it and before it goes first, so that no model gives way for
	// younger requests until one does for it; and a model in demand stays at most this
	// long after a load. Grace is how long after its last use a model still counts as in
	// demand. MinResidency is how long a model that came to ram is spared while memory
	// is reclaimed. 0: 3 s, 50 ms, 30 s; negative, but for Fairness: none.
	Fairness, Grace, MinResidency time.Duration
	// MaxWait is the longest that a request waits; then it gets ErrBusy. 0: 5 min.
	MaxWait time.Duration
	// MaxQueue and MaxQueueModel bound how many requests wait, in all and for one
	// model; one more gets ErrBusy at once. 0: 4096 and 1024.
	MaxQueue, MaxQueueModel int
	// Loads is how many moves may read weights at once. 0: 4. Mapped files are read
	// one at a time on each device whatever this says.
	Loads int
	// StallAfter is how long a move may go without progress before it is called
	// off, StuckAfter how long it then has to return before it is reported as
	// stuck. 0: 5 min and 10 s.
	StallAfter, StuckAfter time.Duration
	// ProbeEvery is how often memory is read while nothing happens. 0: 1 s.
	ProbeEvery time.Duration
	// OptimizeEvery is how often the placement is asked at least, while no request
	// waits, what is worth moving: soon after a request (a thirtieth of it), then at pauses
	// that grow up to it, and no more two hours after the last request. 0: 30 s;
	// negative: never by itself.
	OptimizeEvery time.Duration
	// KeepAlive is how long a model may be idle in ram before it goes to swap by itself,
	// if it says nothing of its own, see tier.Model.KeepAlive. StandbyFor is how long any
	// model may be idle in swap before it goes to storage. 0: never by idleness; a negative
	// KeepAlive is as 0.
	KeepAlive, StandbyFor time.Duration
	// Schedules are hours in which the owner expects models to be asked for. They are told to
	// the placement as hints, 5 min before they begin and each hour until they end, if it
	// listens to hints. Quiet are hours in which no bytes move in the background: nothing is
	// prefetched, brought to its home tier or optimised, Optimize included. Requests, what
	// they wait for, and what leaves by KeepAlive are not affected. 256 of each at most.
	Schedules []optimizer.Schedule
	Quiet     []optimizer.Hours
	// MaxBody is the largest JSON request, in bytes. 0: 1 MiB.
	MaxBody int64

	accounts []account // further kinds of memory
}

// account is a kind of memory beside ram and swap.
type account struct {
	name  string
	limit tier.Bytes
	// takes returns what a model takes of it in a tier; it is a pure function.
	takes func(m *tier.Model, t tier.Tier) tier.Bytes
	// available returns what the machine has of it to give. It is called as
	// tier.MemoryProbe is.
	available func(ctx context.Context) (tier.Bytes, error)
}

// protection returns the protection from eviction, settled.
func (cfg *Config) protection() tier.Protection {
	return tier.Protection{MinResidency: cfg.MinResidency, Grace: cfg.Grace, Fairness: cfg.Fairness}.OrDefault()
}

// positive sets a field that is zero to its default, and returns what is wrong if it
// is negative.
func positive[T ~int | ~int64](field string, v *T, zero T) error {
	if *v = cmp.Or(*v, zero); *v <= 0 {
		return &tier.InvalidError{Field: field, Value: fmt.Sprint(int64(*v)), Rule: "must be positive, or zero for its default"}
	}
	return nil
}

// fill sets the defaults of all fields but the parts, and reports every fault at
// once. cfg is the Manager's own copy.
func (cfg *Config) fill() error {
	cfg.Limits = cfg.Limits.OrElse(tier.DefaultLimits())
	cfg.OptimizeEvery = cmp.Or(cfg.OptimizeEvery, 30*time.Second)
	errs := []error{
		positive("Fairness", &cfg.Fairness, tier.DefaultFairness),
		positive("MaxWait", &cfg.MaxWait, 5*time.Minute),
		positive("MaxQueue", &cfg.MaxQueue, 4096),
		positive("MaxQueueModel", &cfg.MaxQueueModel, 1024),
		positive("Loads", &cfg.Loads, 4),
		positive("StallAfter", &cfg.StallAfter, 5*time.Minute),
		positive("StuckAfter", &cfg.StuckAfter, 10*time.Second),
		positive("ProbeEvery", &cfg.ProbeEvery, time.Second),
		positive("MaxBody", &cfg.MaxBody, 1<<20),
		cfg.Limits.Validate(), cfg.validateAccounts(), cfg.validateHours(), checkMovers(cfg.Movers),
	}
	if cfg.WatchModelDir && cfg.ModelDir == "" {
		errs = append(errs, &tier.InvalidError{Field: "ModelDir", Value: `""`, Rule: "must name the folder that WatchModelDir is about"})
	}
	if cfg.StandbyFor < 0 {
		errs = append(errs, &tier.InvalidError{Field: "StandbyFor", Value: cfg.StandbyFor.String(), Rule: "must be positive, or zero for never"})
	}
	cfg.Limits = cfg.Limits.Settled()

	models, faults := cfg.gather(cfg.Models)
	for i := range models {
		models[i].VersionOf = "" // which is not the owner's to say
	}
	cfg.Models = models
	errs = append(errs, faults...)
	for i := range models {
		errs = append(errs, checkMover("mover", models[i].Name, models[i].Mover, cfg.Movers))
	}
	lib, err := tier.NewLibrary(models)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	cfg.Aliases, cfg.Movers = maps.Clone(cfg.Aliases), maps.Clone(cfg.Movers)
	return errors.Join(append(errs, checkAliases(cfg.Aliases, lib, cfg.WatchModelDir))...)
}

// checkAliases returns what is wrong with the aliases of a configuration. open: there may
// be models that are not in it.
func checkAliases(aliases map[string]string, lib *tier.Library, open bool) error {
	errs := []error{tier.CheckAliases(len(aliases))}
	for _, alias := range slices.Sorted(maps.Keys(aliases)) {
		if err := tier.CheckAlias("alias", alias); err != nil {
			errs = append(errs, err)
		}
		if _, taken := lib.Find(alias); taken {
			errs = append(errs, &tier.ExistsError{Model: alias})
		}
		if _, there := lib.Find(aliases[alias]); !there && !open {
			// Of which version there are files is known later.
			if err := lib.Unknown(aliases[alias]); err.VersionOf == "" {
				errs = append(errs, fmt.Errorf("alias %q: %w", alias, err))
			}
		}
	}
	return errors.Join(errs...)
}

// validateHours returns what is wrong with Schedules and Quiet. It makes them the
// Config's own.
func (cfg *Config) validateHours() error {
	const most = 256
	var errs []error
	for field, n := range map[string]int{"Schedules": len(cfg.Schedules), "Quiet": len(cfg.Quiet)} {
		if n > most {
			errs = append(errs, &tier.InvalidError{Field: field, Value: fmt.Sprint(n, " of them"), Rule: fmt.Sprint("must be ", most, " at most")})
		}
	}
	cfg.Schedules, cfg.Quiet = slices.Clone(cfg.Schedules), slices.Clone(cfg.Quiet)
	for i := range cfg.Schedules {
		s := &cfg.Schedules[i]
		s.Days, s.Models = slices.Clone(s.Days), slices.Clone(s.Models)
		if err := s.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("in Schedules[%d]: %w", i, err))
		}
	}
	for i := range cfg.Quiet {
		h := &cfg.Quiet[i]
		h.Days = slices.Clone(h.Days)
		if err := h.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("in Quiet[%d]: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

// validateAccounts returns what is wrong with the further accounts.
func (cfg *Config) validateAccounts() error {
	seen := map[string]bool{tier.RAM.String(): true, tier.Swap.String(): true}
	for _, a := range cfg.accounts {
		if seen[a.name] {
			return &tier.InvalidError{Field: "accounts", Value: a.name, Rule: "must have different names, and not those of the tiers"}
		}
		seen[a.name] = true
	}
	if n := len(cfg.accounts); n > tier.MaxAccounts-int(tier.FurtherAccount) {
		return &tier.InvalidError{Field: "accounts", Value: fmt.Sprint(n), Rule: fmt.Sprint("must be ", tier.MaxAccounts-int(tier.FurtherAccount), " at most")}
	}
	return nil
}

// gather returns copies of the models that share nothing with the caller's, with
// their parts, and their sizes as they are on disk if that is more than what was
// declared. A path that cannot be measured is an error only if nothing was declared: it
// may come to be, and its load says what is wrong.
func (cfg *Config) gather(models []tier.Model) ([]tier.Model, []error) {
	models, errs := hotload.Gather(models, cfg.ModelDir, cfg.Follow...)
	for i := range models {
		if m := &models[i]; errs[i] != nil && m.Size == 0 {
			errs[i] = fmt.Errorf("model %q has no size and its path cannot be measured: %w", m.Name, errs[i])
		} else {
			errs[i] = nil
		}
	}
	return models, errs
}

// inspect looks into the file of a model that is to be added: what is there and is
// broken is an error.
func inspect(m *tier.Model) error {
	if m.Path == "" {
		return nil
	}
	if _, err := hotload.Inspect(m.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("model %q: %w", m.Name, err)
	}
	return nil
}
