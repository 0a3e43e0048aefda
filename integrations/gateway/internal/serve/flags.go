package serve

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/tier"
)

// tokenVariable is where the token comes from if not from the flag. Other users
// of the machine can read a command line, but not the environment.
const tokenVariable = "MODELTIER_TOKEN"

// ErrUsage: the command line is wrong.
var ErrUsage = errors.New("see -h")

// options are what the command line says.
type options struct {
	demo      bool // the demo library is served
	addr      string
	addressed bool // addr was named
	models    string
	follow    []string
	config    string        // "": there is no such file
	engine    string        // "": there is none but those of config
	command   config.Engine // of engine, if that is one
	scale     int
	limits    tier.Limits // zero fields were not named
	state     string
	stated    bool   // the state folder was named; "": none
	token     string // "": none is wanted
	verify    bool
	verbose   bool
	// env is the environment of the start; see environment.
	env func(string) (string, bool)
}

func (o *options) level() slog.Level {
	if o.verbose {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// defaultAddr is where a server listens, and where the other commands look for it.
const defaultAddr = "127.0.0.1:8080"

// bind has flags set the options.
func (o *options) bind(fs *flag.FlagSet) {
	fs.StringVar(&o.addr, "addr", defaultAddr, "listen on this `HOST:PORT`, or several, with commas; port 0 takes any free one, unix:PATH is a Unix socket")
	if o.demo {
		fs.IntVar(&o.scale, "scale", 16, fmt.Sprintf("make the library, and its limits, `N` times smaller than on an 8 GB board, %d to %d", demo.MinScale, demo.MaxScale))
		fs.StringVar(&o.engine, "engine", "", "serve the models with this `COMMAND`, \"llamacpp\": build and fetch a small one, \"none\": keep files in memory only (default llamacpp, if go and npm are at hand)")
	} else {
		fs.StringVar(&o.models, "models", "", "serve the GGUF and safetensors files in this `FOLDER`")
		fs.Func("follow", "let links in the folder of -models lead to this `FOLDER`, and below; may be repeated", func(dir string) error {
			if dir == "" {
				return errors.New("must not be empty")
			}
			abs, err := filepath.Abs(dir)
			o.follow = append(o.follow, abs)
			return err
		})
		fs.StringVar(&o.config, "config", "", "serve the models of this `FILE` with the engines it names")
		fs.StringVar(&o.engine, "engine", "", "serve the models with this `COMMAND`, started for each: {path}, {mmproj}, {dir}, {port}, {name}, {threads} and {context} are filled in, and it needs a GET /health; or \"llamacpp\": build and fetch a small one")
		fs.BoolVar(&o.verify, "verify", false, "hold files against their SHA-256, where one is known, as they are loaded for the first time")
	}
	ram, swap, reserve := "what the machine has, less a reserve", "twice what that is", "an eighth of it"
	state := "a folder in the user's cache; with -config what the file says, else nowhere"
	if o.demo {
		ram, swap, reserve = "that of the demo library, scaled", "the same", "the same"
		state = "a folder in the user's cache"
	}
	fs.Var(size{&o.limits.RAM, false}, "ram", "hold at most this `SIZE` of models in memory (default "+ram+")")
	fs.Var(size{&o.limits.Swap, true}, "swap", "keep at most this `SIZE` of models on standby beyond that (default "+swap+")")
	fs.Var(size{&o.limits.Reserved, true}, "reserve", "leave this `SIZE` of the machine's memory free (default "+reserve+")")
	fs.StringVar(&o.state, "state", "", "remember models, limits and home tiers in this `FOLDER`, \"none\": nowhere (default "+state+")")
	fs.StringVar(&o.token, "token", "", "want this `TOKEN` from clients; other users of the machine can read a command line, but not the environment variable "+tokenVariable)
	fs.BoolVar(&o.verbose, "v", false, "log what happens")
}

// settle completes the options by the environment, and checks them. named tells which
// flags the command line has. An error unwraps to ErrUsage.
func (o *options) settle(named func(flag string) bool, env func(string) (string, bool)) error {
	o.addressed = named("addr")
	if o.stated = named("state"); o.state == "none" {
		o.state = ""
	}
	fault := func(format string, args ...any) error {
		return fmt.Errorf(format+" (%w)", append(args, ErrUsage)...)
	}
	for flag, value := range map[string]string{"addr": o.addr, "models": o.models, "config": o.config, "engine": o.engine} {
		if named(flag) && value == "" {
			return fault("-%s must not be empty", flag)
		}
	}
	switch {
	case o.demo:
		if err := (demo.Library{Scale: o.scale}).Validate(); err != nil {
			return fault("-%v", err)
		}
	case named("config") && (named("models") || named("engine")):
		return fault("-config names models and engines itself: leave out -models and -engine")
	case !named("config") && !named("models"):
		return fault("there is nothing to serve: name a folder of models with -models, or a configuration with -config; \"modeltier demo\" serves a library that it makes")
	case named("follow") && !named("models"):
		return fault("-follow is for the folder of -models")
	}
	if o.engine != "" && o.engine != llamacpp && o.engine != noEngine {
		var err error
		if o.command, err = config.Commanded(o.engine); err != nil {
			return fault("-engine: %v", err)
		}
	}
	tokened := named("token")
	if !tokened {
		o.token, tokened = env(tokenVariable)
	}
	// A token that came out empty was meant to be one: a server without any is not
	// what its owner wanted.
	if err := config.CheckSecret(o.token); err != nil && tokened {
		return fault("the token of -token or %s %v", tokenVariable, err)
	}
	return nil
}

// size is a flag.Value for one of the limits.
type size struct {
	to   *tier.Bytes
	none bool // 0 is allowed, and means none at all
}

func (s size) String() string {
	if s.to == nil || *s.to == 0 {
		return ""
	}
	return s.to.String()
}

func (s size) Set(text string) error {
	b, err := config.ParseSize(text)
	switch {
	case err != nil:
		return err
	case b == 0 && !s.none:
		return errors.New("must be more than nothing")
	case b == 0:
		b = tier.None // in limits, zero is the default
	}
	*s.to = b
	return nil
}
