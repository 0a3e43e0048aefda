package config

import (
	"cmp"
	"io/fs"

	"github.com/goccy/go-yaml/ast"

	"github.com/modeltier/modeltier/tier"
)

// File is a configuration. Relative paths in it start at its folder, and "~/" at the
// home folder of the user.
type File struct {
	// Addresses to listen on, such as 127.0.0.1:8080, or :8080 for all of the machine's.
	// Beyond the loopback interface keys are needed. Default: 127.0.0.1:8080.
	Listen []string `json:"listen,omitempty"`
	// The engines, by name: programs that serve a model over HTTP.
	Engines map[string]Engine `json:"engines,omitempty"`
	// The models, each with its files and its engine. Of those that do equally well the first is
	// chosen.
	Models []Model `json:"models,omitempty"`
	// Folders in which every model file is served, beside models. A path alone will do.
	Folders []Folder `json:"folders,omitempty"`
	// Further names for models: each key stands for the model that is its value.
	Aliases map[string]string `json:"aliases,omitempty"`
	// How much memory models may take.
	Limits Limits `json:"limits,omitzero"`
	// How long an idle model stays in memory. Default: until its room is needed.
	KeepAlive KeepAlive `json:"keep_alive,omitzero"`
	// How long a model stays on standby, in the swap tier, before it goes to storage. 0 or none:
	// until its room is needed.
	StandbyFor Duration `json:"standby_for,omitzero"`
	// Names of models that do not give way to others, those in folders too.
	Pins []string `json:"pins,omitempty"`
	// Who may use the server. None: this machine only, without a key.
	Keys []Key `json:"keys,omitempty"`
	// Origins of web pages that may send requests (CORS), such as https://chat.example.org; "*" is
	// any.
	Origins []string `json:"origins,omitempty"`
	// Names by which clients may address the server, beside localhost and IP addresses, such as
	// llm.example.org.
	Hosts []string `json:"hosts,omitempty"`
	// A folder, made if missing, that keeps limits, home tiers and what was learned across
	// restarts. None: nothing is kept.
	State string `json:"state,omitempty"`
	// Hold files against their SHA-256, where one is known, as they are loaded for the first time.
	Verify bool `json:"verify,omitempty"`
	// How long things may take.
	Timeouts Timeouts `json:"timeouts,omitzero"`

	name string // of the file, in faults
	root ast.Node
	read *decoder    // what it was read by
	info fs.FileInfo // as it was when it was read; nil: no file was
}

// Model is a model, by its files or by a name that its engine knows.
type Model struct {
	// Its name, by which clients ask for it.
	Name string `json:"name" need:"yes"`
	// Its file, or one of them, or its folder; or a name that the engine knows, if there is no
	// such file: then size is needed.
	Path string `json:"path,omitempty"`
	// Its further files: shards, a projector, adapters. Found by path if there are none here.
	Parts []string `json:"parts,omitempty"`
	// The engine that serves it. Default: the only one.
	Engine string `json:"engine,omitempty"`
	// What its weights take. Default: the size of its files.
	Size Size `json:"size,omitzero" old:"size_gb"`
	// What serving takes beyond the weights, such as the KV cache. Default: estimated by the
	// engine's flags, and then measured.
	Runtime Size `json:"runtime,omitzero" old:"runtime_gb"`
	// Where it is kept if nothing needs the room: ram, swap (standby) or storage. Default:
	// storage, until it is asked for.
	Home tier.Tier `json:"tier,omitzero"`
	// What it can do, such as text-generation, embeddings or vision, for requests that name no
	// model.
	Capabilities []string `json:"capabilities,omitempty"`
	// Its rank among models that can do the same; 0 or none: by its size.
	Quality float64 `json:"quality,omitempty"`
	// It does not give way to other models.
	Pinned bool `json:"pinned,omitempty"`
	// How long it stays in memory while it is idle. Default: keep_alive of the file.
	KeepAlive KeepAlive `json:"keep_alive,omitzero"`
	// Further names for it.
	Aliases []string `json:"aliases,omitempty"`
	// How soon its requests have their turn at a busy engine: high, normal or low. That of the
	// client's key counts more. Default: normal.
	Class Class `json:"class,omitempty"`
	// How many requests its engine is given at once; the others wait. Default: max_requests of its
	// engine.
	MaxRequests int `json:"max_requests,omitempty"`
}

// Folder is a folder of model files.
type Folder struct {
	// The folder.
	Path string `json:"path" need:"yes" short:"yes"`
	// The engine that serves its models. Default: the only one.
	Engine string `json:"engine,omitempty"`
	// Folders that links in it may lead to, and below.
	Follow []string `json:"follow,omitempty"`
	// Take up files that come and go while the server runs. Default: true.
	Watch *bool `json:"watch,omitempty"`
}

// Watched reports whether files are taken up while the server runs.
func (f *Folder) Watched() bool { return f.Watch == nil || *f.Watch }

// Limits bound what models may take. 1 GB is 2^30 bytes, as is 1 GiB.
type Limits struct {
	// Memory for models that are in use or ready for it, what serving takes included. Default:
	// what the machine has, less a reserve.
	RAM Limit `json:"ram,omitzero" old:"ram_gb"`
	// How much standby models may take beyond that: files that need not be in memory. Default:
	// twice what the machine has for ram.
	Swap Limit `json:"swap,omitzero" old:"swap_gb"`
	// What every load leaves free on the machine. Default: an eighth of its memory, at least 512
	// MiB, at most 4 GiB.
	Reserve Limit `json:"reserve,omitzero" old:"reserved_gb"`
	// A model with larger weights is refused. Default: the larger of ram and swap.
	MaxModel Limit `json:"max_model,omitzero"`
}

// OrElse returns the limits with those that are not named taken from other. Where a tier
// has more room than any model may have by other, larger models are meant to fit.
func (l Limits) OrElse(other tier.Limits) tier.Limits {
	named := tier.Limits{RAM: tier.Bytes(l.RAM), Swap: tier.Bytes(l.Swap), Reserved: tier.Bytes(l.Reserve), MaxModel: tier.Bytes(l.MaxModel)}
	all := named.OrElse(other)
	if named.MaxModel == 0 {
		all.MaxModel = max(all.MaxModel, all.RAM, all.Swap)
	}
	return all
}

// Key is a secret that a client sends, and what it may do with it. One of key, key_file
// and key_env is given.
type Key struct {
	// Its name, for logs and for what it has used. The secret is in neither.
	Name string `json:"name" need:"yes"`
	// The secret. Who can read this file can use it: key_file and key_env are safer.
	Key string `json:"key,omitempty" secret:"yes"`
	// A file that holds the secret.
	KeyFile string `json:"key_file,omitempty"`
	// An environment variable that holds the secret. Engines do not get it.
	KeyEnv string `json:"key_env,omitempty"`
	// What it allows: use (ask models), watch (status and lists), manage (load, unload,
	// limits). Default: use.
	Scopes []Scope `json:"scopes,omitempty"`
	// How soon its requests have their turn at a busy engine: high, normal or low. Default: that
	// of the model.
	Class Class `json:"class,omitempty"`
}

// Timeouts say how long things may take.
type Timeouts struct {
	// Until an engine that was started is ready, if the engine has no start_timeout of its own.
	// Default: 5m.
	Start Duration `json:"start,omitzero"`
	// Until an engine that was told to stop is killed. Default: 5s.
	Stop Duration `json:"stop,omitzero"`
	// How long a request waits for its model. Default: 5m.
	Wait Duration `json:"wait,omitzero"`
	// How long requests have to end once the server was told to stop. Default: 30s.
	Shutdown Duration `json:"shutdown,omitzero"`
}

// EngineLabel is the label of a model of Model.Tier that tells the configuration of its
// engine (Engine.ID): if that changes, its models count as changed.
const EngineLabel = "engine_config"

// Tier returns the model as a Manager takes it, served by an engine: the one that is named
// Model.Engine. Its aliases are not in it: what replaces a library leaves aliases as they
// are (Manager.SetAlias sets them).
func (m *Model) Tier(engine *Engine) tier.Model {
	return tier.Model{
		Name: m.Name, Path: m.Path, Parts: m.Parts, Size: tier.Bytes(m.Size), Runtime: tier.Bytes(m.Runtime),
		Home: m.Home, Capabilities: m.Capabilities, Quality: m.Quality, Pinned: m.Pinned,
		KeepAlive: m.KeepAlive.Duration(),
		Mover:     m.Engine, Labels: map[string]string{EngineLabel: engine.ID()},
	}
}

// TierModels returns the models as a Manager takes them, in order.
func (f *File) TierModels() []tier.Model {
	var models []tier.Model
	for i := range f.Models {
		engine := f.Engines[f.Models[i].Engine]
		models = append(models, f.Models[i].Tier(&engine))
	}
	return models
}

// MaxRequests returns how many requests the engine of a model is given at once; 0: there
// is no bound. engine is the name of its engine, model is its own entry, nil for one of a
// folder.
func (f *File) MaxRequests(engine string, model *Model) int {
	own := 0
	if model != nil {
		own = model.MaxRequests
	}
	return cmp.Or(own, f.Engines[engine].MaxRequests)
}
