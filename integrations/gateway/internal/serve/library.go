package serve

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/tier"
)

// library is what is served, and where.
type library struct {
	dir    string   // of the models; hot loads come from here too
	follow []string // where links in it may lead
	watch  bool     // what is in the folder is served, beside models
	models []tier.Model
	limits tier.Limits
	state  string // "": nothing is remembered
	verify bool   // files are held against their digests
	// engines serve the models, by name. nil: there are none, and files are served.
	engines map[string]config.Engine
	// file has the settings that are nowhere above; it is never nil.
	file       *config.File
	configured bool // it is that of -config
	aliases    map[string]string
	beyond     []string // what the machine cannot have of the limits
	// again opens the library as it is now. nil: it stays as it is.
	again func(ctx context.Context) (*library, error)

	probe tier.MemoryProbe // nil: this machine's
	about string           // the library, in words
	spare tier.Model       // to try a hot load with; its name may be empty
}

// openLibrary returns the library that the options name, and makes what it has to
// make for that: the demo's files, and the engine of llama.cpp.
func openLibrary(ctx context.Context, o *options, stderr io.Writer) (*library, error) {
	if o.config != "" {
		lib, err := openConfig(ctx, o, stderr)
		if err != nil {
			return nil, err
		}
		lib.again = func(ctx context.Context) (*library, error) { return openConfig(ctx, o, stderr) }
		return lib, nil
	}
	var engine *config.Engine
	switch {
	case o.engine == noEngine:
	case o.demo && o.engine == "" && canMake() != nil:
		fmt.Fprintf(stderr, "without an engine: %v; -engine names another one. Files are kept in memory, and none answers for them\n", canMake())
	case o.engine == llamacpp || o.demo && o.engine == "":
		e, err := makeLlamacpp(ctx, !o.stated || o.state != "", stderr)
		if err != nil {
			return nil, fmt.Errorf("-engine %s: %w", llamacpp, err)
		}
		engine = &e
	case o.engine != "":
		e := o.command
		err := e.Validate()
		if err == nil {
			err = e.LookUp()
		}
		if err != nil {
			return nil, fmt.Errorf("-engine: %w", err)
		}
		engine = &e
	}
	if o.demo {
		return openDemo(ctx, o, engine, stderr)
	}
	lib, err := openFolder(ctx, o, engine)
	if err != nil {
		return nil, err
	}
	lib.again = func(ctx context.Context) (*library, error) { return openFolder(ctx, o, engine) }
	return lib, nil
}

// readConfig returns the configuration that the options name; what they say goes before
// what it does. If they name none, it is one that says nothing.
func (o *options) readConfig(told io.Writer) (*config.File, error) {
	if o.config == "" {
		return &config.File{}, nil
	}
	f, warnings, err := config.Read(o.config)
	for _, w := range warnings {
		fmt.Fprintln(told, "warning:", w)
	}
	if f != nil && o.stated {
		f.State = o.state
	}
	if f != nil && o.addressed {
		f.Listen = nil
	}
	if f != nil && err != nil {
		err = f.Check(o.env) // what else is wrong
	}
	if err != nil {
		return nil, err
	}
	f.Limits.RAM = cmp.Or(config.Limit(o.limits.RAM), f.Limits.RAM)
	f.Limits.Swap = cmp.Or(config.Limit(o.limits.Swap), f.Limits.Swap)
	f.Limits.Reserve = cmp.Or(config.Limit(o.limits.Reserved), f.Limits.Reserve)
	return f, nil
}

// openConfig returns the library of a configuration.
func openConfig(ctx context.Context, o *options, stderr io.Writer) (*library, error) {
	f, err := o.readConfig(stderr)
	if err != nil {
		return nil, err
	}
	if err := f.Check(o.env); err != nil {
		return nil, err
	}
	lib := &library{models: f.TierModels(), state: f.State, verify: o.verify || f.Verify, engines: f.Engines, file: f, configured: true, about: o.config}
	if lib.engines == nil { // they may come by a reload
		lib.engines = make(map[string]config.Engine)
	}
	folders := f.Folders
	if len(folders) > 0 {
		first := &folders[0]
		if lib.dir, lib.follow, lib.watch = first.Path, first.Follow, first.Watched(); lib.watch {
			folders = folders[1:]
		}
	} else if lib.dir, err = filepath.Abs(filepath.Dir(o.config)); err != nil {
		return nil, err
	}
	more, err := folderModels(ctx, f, folders, stderr)
	if err != nil {
		return nil, err
	}
	lib.models = append(lib.models, more...)
	lib.aliases = aliases(f)
	lib.setLimits(ctx, f.Limits)
	return lib, nil
}

// setLimits makes the limits those that are named, and else what the machine has.
func (lib *library) setLimits(ctx context.Context, named config.Limits) {
	mem := machine(ctx)
	lib.limits = named.OrElse(config.MachineLimits(mem))
	lib.beyond = config.Beyond(lib.limits, mem)
}

// openFolder returns the library of a folder, whose models the Manager finds.
func openFolder(ctx context.Context, o *options, engine *config.Engine) (*library, error) {
	dir, err := filepath.Abs(o.models)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("-models: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("-models: %s must be a folder", dir)
	}
	lib := &library{dir: dir, follow: o.follow, watch: true, verify: o.verify, file: &config.File{}, about: "the files in " + dir}
	lib.setLimits(ctx, config.Limits{RAM: config.Limit(o.limits.RAM), Swap: config.Limit(o.limits.Swap), Reserve: config.Limit(o.limits.Reserved)})
	state := "state-" + folderID(dir)
	if engine != nil {
		lib.withEngine(*engine, 0)
		state += enginesSuffix
	}
	lib.state, err = stateFolder(o, state)
	return lib, err
}

// withEngine returns the library, served by one engine that needs that much beyond the
// weights of a model; 0: as process.Mover.Forecast says.
func (lib *library) withEngine(e config.Engine, runtime tier.Bytes) {
	lib.engines = map[string]config.Engine{"": e}
	for i := range lib.models {
		m := &lib.models[i]
		m.Runtime = cmp.Or(m.Runtime, runtime)
	}
}

// enginesSuffix tells the state of a library that engines serve from that of the
// same files alone: what is learned of the one is not true of the other.
const enginesSuffix = "-engines"

func openDemo(ctx context.Context, o *options, engine *config.Engine, stderr io.Writer) (*library, error) {
	cache, err := cacheFolder(fmt.Sprintf("demo-%d", o.scale))
	if err != nil {
		return nil, fmt.Errorf("%w; or serve a folder of your own with -models", err)
	}
	d := demo.Library{Dir: filepath.Join(cache, "models"), Scale: o.scale}
	file := ""
	err = d.Make(ctx, func(p demo.Progress) {
		if p.File != file {
			file = p.File
			fmt.Fprintf(stderr, "making the demo library in %s, once: %s (%v of %v done)\n", d.Dir, file, p.Done, p.Total)
		}
	})
	if err != nil {
		return nil, err
	}
	lib := &library{
		dir: d.Dir, models: d.Models(), limits: d.Limits(), spare: d.Spare(), file: &config.File{},
		about: fmt.Sprintf("the demo library, 1/%d of its real size, in %s", o.scale, d.Dir),
	}
	state := filepath.Join(filepath.Base(cache), "state")
	if engine != nil {
		lib.withEngine(*engine, demoRuntime)
		lib.limits.RAM = roomForEngines(lib)
		state += enginesSuffix
	}
	lib.limits = fill(o.limits, lib.limits)
	lib.state, err = stateFolder(o, state)
	return lib, err
}

// demoRuntime is what an engine of a demo model needs beyond its weights.
const demoRuntime = 48 * tier.MiB

// roomForEngines is the demo's ram where engines serve it: they need some of their
// own, and serve nothing from swap, so that the largest model has to fit.
func roomForEngines(lib *library) tier.Bytes {
	most := lib.limits.RAM + tier.Bytes(len(lib.models))*demoRuntime
	for i := range lib.models {
		most = max(most, lib.models[i].Size+lib.models[i].Runtime)
	}
	return most
}

// fill returns the defaults but for what was named. Who gives a tier more room
// than any model may have wants larger models to fit as well.
func fill(named, defaults tier.Limits) tier.Limits {
	l := named.OrElse(defaults)
	l.MaxModel = max(l.MaxModel, l.RAM, l.Swap)
	return l
}

// stateFolder returns the folder that was named, or else the one of that name in
// the user's cache.
func stateFolder(o *options, name string) (string, error) {
	if o.stated {
		return o.state, nil
	}
	dir, err := cacheFolder(name)
	if err != nil {
		return "", fmt.Errorf("%w; or name a folder with -state, or -state none", err)
	}
	return dir, nil
}

func cacheFolder(name string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", errors.New("the user has no cache folder: set HOME or XDG_CACHE_HOME")
	}
	return filepath.Join(cache, "modeltier", name), nil
}

// folderID is a name for a folder that no other folder has, and that a person
// can tell from others.
func folderID(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return fmt.Sprintf("%s-%x", filepath.Base(dir), sum[:4])
}
