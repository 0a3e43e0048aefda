package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/integrations/gateway/access"
	"github.com/modeltier/modeltier/tier"
)

// within returns a path that is relative as one of dir.
func within(dir, path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// settle fills in what is left out, and makes the paths that are relative those of dir.
func (f *File) settle(dir string) {
	only := ""
	for name, e := range f.Engines {
		only = name
		e.assign()
		e.settle(dir)
		f.Engines[name] = e
	}
	if len(f.Engines) != 1 {
		only = ""
	}
	for i := range f.Models {
		m := &f.Models[i]
		m.Engine = cmp.Or(m.Engine, only)
		// A name in a hub is none of a file, and stays as it is.
		if at := within(dir, m.Path); strings.HasPrefix(m.Path, "~/") || m.Path != "" && exists(at) {
			m.Path = at
		}
		for i, part := range m.Parts {
			m.Parts[i] = within(dir, part)
		}
	}
	for i := range f.Folders {
		folder := &f.Folders[i]
		folder.Engine = cmp.Or(folder.Engine, only)
		folder.Path = within(dir, folder.Path)
		for i, follow := range folder.Follow {
			folder.Follow[i] = within(dir, follow)
		}
	}
	for i, addr := range f.Listen {
		if path, ok := strings.CutPrefix(addr, socket); ok {
			f.Listen[i] = socket + within(dir, path)
		}
	}
	for i := range f.Keys {
		f.Keys[i].KeyFile = within(dir, f.Keys[i].KeyFile)
	}
	f.State = within(dir, f.State)
}

// validate notes what is wrong with what was read.
func (d *decoder) validate() {
	f := d.file
	for _, name := range slices.Sorted(maps.Keys(f.Engines)) {
		at := []string{"engines", name}
		d.named(at, name)
		e := f.Engines[name]
		d.each(at, e.Validate(), func(field string) []string {
			return strings.Split(strings.ToLower(keyNames.Replace(field)), ".")
		})
		d.notNegative(append(at, "max_requests"), e.MaxRequests)
	}
	d.validateModels()
	d.validateNames()
	for i := range f.Folders {
		at := []string{"folders", fmt.Sprintf("[%d]", i)}
		if f.Folders[i].Path == "" {
			d.invalid(append(at, "path"), "", "must name a folder")
		}
		d.engine(append(at, "engine"), f.Folders[i].Engine)
	}
	for key, l := range map[string]Limit{"ram": f.Limits.RAM, "max_model": f.Limits.MaxModel} {
		if tier.Bytes(l) == tier.None {
			d.invalid([]string{"limits", key}, "", "must be more than nothing")
		}
	}
	d.validateAccess()
}

func (d *decoder) validateModels() {
	f := d.file
	seen := map[string]bool{}
	for i := range f.Models {
		m := &f.Models[i]
		at := []string{"models", fmt.Sprintf("[%d]", i)}
		if m.Name != "" && seen[m.Name] {
			d.invalid(append(at, "name"), "", "is there twice")
		}
		seen[m.Name] = true
		d.engine(append(at, "engine"), m.Engine)
		engine := f.Engines[m.Engine]
		model := m.Tier(&engine)
		keys := map[string]string{"home": "tier", "mover": "engine", "alias": "aliases", "capability": "capabilities"}
		d.each(at, model.Validate(), func(field string) []string {
			field, _, _ = strings.Cut(field, "[")
			return []string{cmp.Or(keys[field], field)}
		})
		d.notNegative(append(at, "max_requests"), m.MaxRequests)
	}
}

// engine notes an engine that is not there.
func (d *decoder) engine(at []string, name string) {
	if _, ok := d.file.Engines[name]; ok {
		return
	}
	names := slices.Sorted(maps.Keys(d.file.Engines))
	switch near := tier.Nearest(name, names); {
	case len(names) == 0:
		d.invalid(at, "", "is needed, and there are no engines")
	case name == "":
		d.invalid(at, "", "is needed, as there are several: "+either(names[:min(len(names), 10)]))
	case len(near) > 0:
		d.invalid(at, "", "is no engine of this file; did you mean "+near[0]+"?")
	default:
		d.invalid(at, "", "is no engine of this file, which has "+either(names[:min(len(names), 10)]))
	}
}

// validateNames checks what refers to models.
func (d *decoder) validateNames() {
	f := d.file
	var names []string
	for i := range f.Models {
		names = append(append(names, f.Models[i].Name), f.Models[i].Aliases...)
	}
	known := make(map[string]bool)
	for _, name := range names {
		known[name] = true
	}
	// What is in a folder, or could not be read, may have any name.
	open := len(f.Folders) > 0 || d.faulty["folders"] || d.faulty["models"]
	target := func(at []string, name string) {
		switch near := tier.Nearest(name, names); {
		case known[name] || open:
		case len(near) > 0:
			d.invalid(at, strconv.Quote(name), "is no model of this file; did you mean "+near[0]+"?")
		default:
			d.invalid(at, strconv.Quote(name), "is no model of this file")
		}
	}
	if err := tier.CheckAliases(len(f.Aliases)); err != nil {
		d.check([]string{"aliases"}, nil, err)
		return
	}
	for _, alias := range slices.Sorted(maps.Keys(f.Aliases)) {
		at := []string{"aliases", alias}
		if known[alias] {
			d.invalid(at, "", "is the name of a model already")
		}
		d.each(at, tier.CheckAlias("alias", alias), func(string) []string { return nil })
		target(at, f.Aliases[alias])
	}
	for alias := range f.Aliases {
		known[alias] = true
		names = append(names, alias)
	}
	for i, name := range f.Pins {
		target([]string{"pins", fmt.Sprintf("[%d]", i)}, name)
	}
}

func (d *decoder) validateAccess() {
	f := d.file
	for i, addr := range f.Listen {
		if strings.HasPrefix(addr, socket) {
			continue
		}
		if _, port, err := net.SplitHostPort(addr); err != nil {
			d.invalid(d.item("listen", i), strconv.Quote(addr), "must be HOST:PORT, such as 127.0.0.1:8080 or :8080, or unix:PATH")
		} else if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
			d.invalid(d.item("listen", i), strconv.Quote(addr), "must have a port of 0 to 65535")
		}
	}
	for i, origin := range f.Origins {
		if err := access.CheckOrigin(origin, true); err != nil { // whether there are keys, Check knows
			d.invalid(d.item("origins", i), strconv.Quote(origin), err.Error())
		}
	}
	for i, host := range f.Hosts {
		if err := access.CheckHost(host); err != nil {
			d.invalid(d.item("hosts", i), strconv.Quote(host), err.Error())
		}
	}
	seen := map[string]bool{}
	for i := range f.Keys {
		k, at := &f.Keys[i], d.item("keys", i)
		d.named(append(at, "name"), k.Name)
		if len(k.Name) > maxKeyName {
			d.invalid(append(at, "name"), "", fmt.Sprintf("must not be longer than %d bytes", maxKeyName))
		}
		if seen[k.Name] {
			d.invalid(append(at, "name"), "", "is there twice")
		}
		seen[k.Name] = true
		given := 0
		for _, v := range []string{k.Key, k.KeyFile, k.KeyEnv} {
			if v != "" {
				given++
			}
		}
		if given != 1 {
			d.invalid(at, "", "must have one of key, key_file and key_env")
		}
		if strings.TrimSpace(k.Name) != k.Name {
			d.invalid(append(at, "name"), "", "must not begin or end with a blank")
		}
		if k.Name != "" && slices.ContainsFunc(f.Keys, func(other Key) bool { return other.Key == k.Name }) {
			d.invalid(at, "", "has a name that is the secret of a key, and names are written to logs: choose another name") // without the value
		}
		if err := CheckSecret(k.Key); k.Key != "" && err != nil {
			d.invalid(append(at, "key"), "", err.Error())
		}
	}
}

const (
	socket     = "unix:" // begins the address of a Unix socket
	maxKeyName = 64      // as in package access
)

// item is the path of an item of a list of the File.
func (d *decoder) item(key string, i int) []string {
	return []string{key, fmt.Sprintf("[%d]", i)}
}

func (d *decoder) named(at []string, name string) {
	d.each(at, tier.CheckName("name", name), func(string) []string { return nil })
}

func (d *decoder) notNegative(at []string, n int) {
	if n < 0 {
		d.invalid(at, "", "must not be negative")
	}
}

// each notes the errors that err joins, by the keys that their fields have below at.
func (d *decoder) each(at []string, err error, keys func(field string) []string) {
	if err == nil {
		return
	}
	if named, ok := err.(byKeys); ok {
		err = named.error
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			d.each(at, err, keys)
		}
		return
	}
	if invalid, ok := errors.AsType[*tier.InvalidError](err); ok && invalid.Reason == "" {
		d.invalid(append(at, keys(invalid.Field)...), invalid.Value, keyNames.Replace(invalid.Rule))
		return
	}
	d.invalid(at, "", keyNames.Replace(err.Error()))
}

// Check looks at what a File of Read or Parse names, and returns all that is wrong with it:
// the faults that Parse told, and what is not there of programs, files of models, folders,
// secrets, and a state for engines that save; and who may be let in without any key. Each is
// a *Fault with its place. env is as os.LookupEnv, for keys and MODELTIER_TOKEN.
func (f *File) Check(env func(string) (string, bool)) error {
	d := decoder{file: f}
	if f.read != nil { // else it is a program's own, without places
		d = *f.read
		d.faults = slices.Clone(d.faults)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Engines)) {
		e := f.Engines[name]
		if err := e.LookUp(); err != nil {
			d.absent([]string{"engines", name, "command"}, err)
		}
		if e.Dir != "" && !strings.ContainsRune(e.Dir, '{') {
			d.absent([]string{"engines", name, "dir"}, checkKind(e.Dir, "a folder", fs.FileMode.IsDir))
		}
		if e.Save != nil && f.State == "" {
			d.invalid([]string{"engines", name, "save"}, "", "needs a folder: name one in state")
		}
	}
	if f.State != "" && exists(f.State) {
		d.absent([]string{"state"}, checkKind(f.State, "a folder", fs.FileMode.IsDir))
	}
	within, follow := filepath.Dir(f.name), []string(nil) // where hot loads come from, too
	if abs, err := filepath.Abs(within); err == nil {
		within = abs
	}
	if len(f.Folders) > 0 {
		within, follow = f.Folders[0].Path, f.Folders[0].Follow
	}
	_, unmeasured := hotload.Gather(f.TierModels(), within, follow...)
	for i := range f.Models {
		m, at := &f.Models[i], append(d.item("models", i), "path")
		switch {
		case m.Size == 0 && unmeasured[i] != nil && exists(m.Path):
			d.absent(at, unmeasured[i])
		case m.Path != "" && exists(m.Path):
			err := checkKind(m.Path, "a regular file or a folder", func(m fs.FileMode) bool { return m.IsRegular() || m.IsDir() })
			d.absent(at, err)
		case m.Path != "" && m.Size == 0:
			d.invalid(at, "", "is not there; if it is a name that the engine knows, size is needed")
		}
	}
	for i := range f.Folders {
		at := append(d.item("folders", i), "path")
		d.absent(at, checkKind(f.Folders[i].Path, "a folder", fs.FileMode.IsDir))
	}
	d.checkKeys(env)
	return d.err()
}

// checkKeys notes secrets that are not there or are there twice and, if there are no keys,
// what needs one.
func (d *decoder) checkKeys(env func(string) (string, bool)) {
	f, first := d.file, map[string]int{}
	for i := range f.Keys {
		k := &f.Keys[i]
		if k.KeyFile == "" && k.KeyEnv == "" && CheckSecret(k.Key) != nil {
			continue // which is told
		}
		secret, err := k.Secret(env)
		if err != nil {
			d.absent(d.item("keys", i), err)
		} else if at, twice := first[secret]; twice {
			d.invalid(d.item("keys", i), "", fmt.Sprintf("has the secret of keys[%d], and whose request it is could not be told", at))
		} else {
			first[secret] = i
		}
	}
	if token, _ := env(tokenVariable); len(f.Keys) > 0 || d.faulty["keys"] || token != "" {
		return
	}
	for i, addr := range f.Listen {
		host, _, err := net.SplitHostPort(addr)
		if ip, invalid := netip.ParseAddr(host); err == nil && (host == "" || invalid == nil && !ip.IsLoopback()) {
			d.invalid(d.item("listen", i), strconv.Quote(addr), "can be reached by other machines, and anyone there could load and unload models: give a key, or listen on 127.0.0.1")
		}
	}
	for i, origin := range f.Origins {
		if err := access.CheckOrigin(origin, false); err != nil && access.CheckOrigin(origin, true) == nil {
			d.invalid(d.item("origins", i), strconv.Quote(origin), err.Error())
		}
	}
}

// absent notes an error about what a value names.
func (d *decoder) absent(path []string, err error) {
	if err == nil {
		return
	}
	d.invalid(path, "", ": "+err.Error())
}

// tokenVariable is the environment variable of a key that no file names.
const tokenVariable = "MODELTIER_TOKEN"

// maxSecret bounds a key's file.
const maxSecret = 4096

// Secret returns what clients have to send: the key itself, or what its file or its
// environment variable holds. The error does not hold it.
func (k *Key) Secret(env func(string) (string, bool)) (string, error) {
	secret, from := k.Key, "key"
	switch {
	case k.KeyFile != "":
		from = "key_file " + k.KeyFile
		if err := checkKind(k.KeyFile, "a regular file", fs.FileMode.IsRegular); err != nil {
			return "", err
		}
		f, err := os.Open(k.KeyFile)
		if err != nil {
			return "", err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
		if err != nil {
			return "", err
		}
		secret = strings.TrimRight(strings.TrimPrefix(string(b), "\ufeff"), "\r\n")
	case k.KeyEnv != "":
		from = "key_env " + k.KeyEnv
		secret, _ = env(k.KeyEnv)
	}
	if err := CheckSecret(secret); err != nil {
		return "", fmt.Errorf("the secret of %s %w", from, err)
	}
	return secret, nil
}

// CheckSecret returns why a secret could not be sent in a header.
func CheckSecret(secret string) error {
	switch {
	case secret == "":
		return errors.New("is empty")
	case len(secret) > maxSecret:
		return fmt.Errorf("is longer than %d bytes", maxSecret)
	case strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("must be printable ASCII without blanks")
	}
	return nil
}
