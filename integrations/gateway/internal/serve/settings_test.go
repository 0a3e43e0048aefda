package serve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/integrations/gateway/access"
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
	"github.com/modeltier/modeltier/tier"
)

// weightsAt makes a safetensors file.
func weightsAt(t *testing.T, path string) {
	t.Helper()
	header := `{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(string(rune(len(header)))+"\x00\x00\x00\x00\x00\x00\x00"+header+"w"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// settledFront is a front of a configuration in YAML that has all that is not models and
// engines alone: text follows.
func settledFront(t *testing.T, text string) *front {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"one/a", "one/b", "two/c", "two/a"} {
		weightsAt(t, filepath.Join(dir, name+".safetensors"))
	}
	env, err := json.Marshal(enginetest.Env)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "modeltier.yaml")
	text = fmt.Sprintf(`
engines:
  first: {command: [%q], env: %s, max_requests: 3}
  second: {command: [%[1]q], env: %[2]s, max_requests: 5}
folders:
  - {path: one, engine: first}
  - {path: two, engine: second}
limits: {ram: 1GiB, swap: 1GiB, reserve: 64MiB}
`, os.Args[0], env) + text
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f := serveFront(t, &options{env: noEnv, config: path})
	f.path = path
	return f
}

// rewrite replaces words of the configuration, reloads it, and returns what was said.
func (f *front) rewrite(t *testing.T, old, now string) string {
	t.Helper()
	b, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(old)) {
		t.Fatalf("there is no %q in %s", old, b)
	}
	if err := os.WriteFile(f.path, bytes.Replace(b, []byte(old), []byte(now), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	return f.reload(t)
}

func TestConfig_Folders_EachHasItsEngine(t *testing.T) {
	f := settledFront(t, "models: [{name: own, path: one/a.safetensors, engine: second, max_requests: 7, class: high, aliases: [mine]}]\n")
	if said := f.rewrite(t, "aliases: [mine]", "aliases: [mine, ours]"); !strings.Contains(said, "reloaded: settings\n") {
		t.Errorf("it says %q", said)
	}
	if said := f.reload(t); !strings.Contains(said, "nothing has changed") {
		t.Errorf("it says %q", said)
	}
	for _, alias := range []string{"mine", "ours"} {
		if s, _ := f.m.Model(alias); s.Name != "own" {
			t.Errorf("%s is %q", alias, s.Name)
		}
	}
	for name, want := range map[string]struct {
		parallel int
		class    string
	}{"b": {3, "normal"}, "c": {5, "normal"}, "own": {7, "high"}} {
		s, ok := f.m.Model(name)
		if !ok {
			t.Fatalf("there is no %s among %v", name, f.m.Status().Models)
		}
		if got := f.again.rules.parallel(s.Name); got != want.parallel {
			t.Errorf("the engine of %s is given %d requests at once, want %d", name, got, want.parallel)
		}
		if got := f.again.rules.class(s.Name); got.String() != want.class {
			t.Errorf("%s has the class %v, want %s", name, got, want.class)
		}
		res := f.post(t, t.Context(), "/v1/completions", `{"model":"`+name+`","prompt":"x"}`)
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", name, res.Status)
		}
	}
}

func TestConfig_AliasesPinsAndKeepAlive_CountAtTheStartAndAfterAReload(t *testing.T) {
	f := settledFront(t, "aliases: {chat: b, other: c}\npins: [b]\nkeep_alive: 10m\n")
	b, _ := f.m.Model("chat")
	if c, _ := f.m.Model("other"); b.Name != "b" || !b.Pinned || c.Name != "c" || c.Pinned {
		t.Errorf("chat is %+v, other %+v", b, c)
	}
	said := f.rewrite(t, "aliases: {chat: b, other: c}\npins: [b]\nkeep_alive: 10m", "aliases: {chat: c}\npins: [b, c, none]\nkeep_alive: 1m")
	c, _ := f.m.Model("chat")
	if _, ok := f.m.Model("other"); ok || c.Name != "c" || !c.Pinned {
		t.Errorf("after the reload chat is %+v, other is there: %v", c, ok)
	}
	for _, want := range []string{"pins: Model 'none' not found", "keep_alive: changed, which counts from the next start on"} {
		if !strings.Contains(said, want) {
			t.Errorf("it says %q, want %q", said, want)
		}
	}
	f.rewrite(t, "pins: [b, c, none]", "pins: [b]")
	b, _ = f.m.Model("b")
	if c, _ := f.m.Model("c"); !b.Pinned || c.Pinned {
		t.Errorf("b is pinned: %v, want true; c: %v, want false", b.Pinned, c.Pinned)
	}
}

func TestReload_AliasBecomesTheNameOfAModel_IsThatModel(t *testing.T) {
	f := settledFront(t, "aliases: {chat: b}\nmodels: []\n")
	text := "aliases: {chat: b}\nmodels: []"
	broken := "models: [{name: chat, path: two/c.safetensors, engine: second}, {name: broken, path: empty, engine: first}]"
	if err := os.WriteFile(filepath.Join(filepath.Dir(f.path), "empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if said := f.rewrite(t, text, broken); !strings.Contains(said, "not reloaded") {
		t.Errorf("it says %q", said)
	}
	if s, _ := f.m.Model("chat"); s.Name != "b" {
		t.Errorf("after a reload that failed chat is %q, want b", s.Name)
	}
	if said := f.rewrite(t, broken, "models: [{name: chat, path: two/c.safetensors, engine: second}]"); !strings.Contains(said, "added chat") {
		t.Errorf("it says %q", said)
	}
	if s, _ := f.m.Model("chat"); s.Name != "chat" {
		t.Errorf("chat is %q", s.Name)
	}
}

func TestReload_AliasOfAModelThatIsNotThereYet_IsSetByALaterOne(t *testing.T) {
	f := settledFront(t, "aliases: {}\n")
	if said := f.rewrite(t, "aliases: {}", "aliases: {later: d}"); !strings.Contains(said, "aliases: ") {
		t.Errorf("it says %q", said)
	}
	weightsAt(t, filepath.Join(filepath.Dir(f.path), "two", "d.safetensors"))
	said := f.reload(t)
	if s, _ := f.m.Model("later"); s.Name != "d" {
		t.Errorf("later is %q after %q", s.Name, said)
	}
}

func TestReload_Fails_AccessStaysAsItWas(t *testing.T) {
	f := settledFront(t, "keep_alive: 1m\n")
	applied := 0
	f.again.admit = func(*config.File) (func() error, error) {
		return func() error { applied++; return nil }, nil
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(f.path), "empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	broken := "models: [{name: broken, path: empty, engine: first}]"
	if said := f.rewrite(t, "keep_alive: 1m", broken); !strings.Contains(said, "not reloaded") || applied > 0 {
		t.Errorf("it says %q, and other keys were put in force %d times", said, applied)
	}
	if said := f.rewrite(t, broken, ""); !strings.Contains(said, "\nreloaded: ") || applied != 1 {
		t.Errorf("it says %q, and other keys were put in force %d times", said, applied)
	}
}

func TestReload_EnginesComeToAConfigurationWithoutAny_Serve(t *testing.T) {
	dir := t.TempDir()
	weightsAt(t, filepath.Join(dir, "a.safetensors"))
	path := filepath.Join(dir, "modeltier.yaml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text+"limits: {ram: 1GiB, swap: 1GiB, reserve: 64MiB}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	f := serveFront(t, &options{env: noEnv, config: path})
	if f.again.lib.engines == nil {
		t.Error("it would be served as files alone")
	}
	env, err := json.Marshal(enginetest.Env)
	if err != nil {
		t.Fatal(err)
	}
	write(fmt.Sprintf("engines: {first: {command: [%q], env: %s}}\nmodels: [{name: a, path: a.safetensors}]\n", os.Args[0], env))
	if said := f.reload(t); !strings.Contains(said, "added a") {
		t.Errorf("it says %q", said)
	}
	if res := f.post(t, t.Context(), "/v1/completions", `{"model":"a","prompt":"x"}`); res.StatusCode != http.StatusOK {
		t.Errorf("%s: %s", res.Status, enginetest.Whole(t, res))
	}
}

func TestConfig_ModelIsInAFolderThatIsNotWatched_IsServedOnce(t *testing.T) {
	f := settledFront(t, "models: []\n")
	b, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), "{path: one,", "{path: one, watch: false,", 1)
	text = strings.Replace(text, "models: []", "models: [{name: a, path: one/a.safetensors, engine: second}]", 1)
	if err := os.WriteFile(f.path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	again := serveFront(t, &options{env: noEnv, config: f.path})
	for name, engine := range map[string]string{"a": "second", "b": "first", "c": "second"} {
		if s, ok := again.m.Model(name); !ok || s.Mover != engine {
			t.Errorf("%s is there: %v, and its engine %q, want %q", name, ok, s.Mover, engine)
		}
	}
}

func TestConfig_FolderModelsComeAndGoByAReload(t *testing.T) {
	f := settledFront(t, "")
	dir := filepath.Dir(f.path)
	weightsAt(t, filepath.Join(dir, "two", "d.safetensors"))
	if err := os.Remove(filepath.Join(dir, "two", "c.safetensors")); err != nil {
		t.Fatal(err)
	}
	if said := f.reload(t); !strings.Contains(said, "added d; removed c") {
		t.Errorf("it says %q", said)
	}
}

func TestAccessOf_KeysOfTheFile(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "key")
	if err := os.WriteFile(secret, []byte("from-a-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ONE_KEY", "from-the-environment")
	f, _, err := config.Parse("c.yaml", fmt.Appendf(nil, `
keys:
  - {name: a, key: in-the-file}
  - {name: b, key_file: %q, scopes: [manage, watch]}
  - {name: c, key_env: ONE_KEY, class: low}
origins: [https://chat.example.org]
`, secret), dir)
	if err != nil {
		t.Fatal(err)
	}
	e := environment{at: os.LookupEnv}
	e.hideKeys(f)
	if v, ok := os.LookupEnv("ONE_KEY"); ok {
		t.Errorf("engines are given %q", v)
	}
	o, err := accessOf("token", f, false, e.lookup)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Keys) != 4 || o.Keys[1].Secret != "in-the-file" || o.Keys[2].Secret != "from-a-file" || o.Keys[3].Secret != "from-the-environment" || o.Keys[3].Class != "low" {
		t.Errorf("%d keys, of which one differs", len(o.Keys))
	}
	if s := o.Keys[1].Scopes; len(s) != 1 || s[0] != access.Use {
		t.Errorf("without scopes a key has %v", s)
	}
	if s := o.Keys[2].Scopes; len(s) != 2 || s[0] != access.Manage || s[1] != access.Watch {
		t.Errorf("key b has %v", s)
	}
	if _, err := access.New(o); err != nil {
		t.Error(err)
	}
	if _, err := accessOf("in-the-file", f, false, e.lookup); err == nil || !strings.Contains(err.Error(), `key "a"`) || !strings.Contains(err.Error(), tokenVariable) || strings.Contains(err.Error(), "in-the-file") {
		t.Errorf("with a key that is the token: %v", err)
	}
	os.Remove(secret)
	if _, err := accessOf("", f, true, e.lookup); err == nil || !strings.Contains(err.Error(), `key "b"`) {
		t.Errorf("without its file: %v", err)
	}
}

func TestOpenConfig_LimitsThatTheMachineCannotHave_AreTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("engines: {e: {command: 'sh {port}'}}\nlimits: {ram: 900TiB}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lib, err := openLibrary(t.Context(), &options{env: noEnv, config: path}, &strings.Builder{})
	if err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	lib.warn(&told)
	if !strings.Contains(told.String(), "warning: limits.ram is ") || lib.limits.RAM != 900*1024*tier.GiB {
		t.Errorf("limits %+v; it says %q", lib.limits, told.String())
	}
}

// A key in the environment is taken out of it before engines start, and is read all the same,
// also at the next reload.
func TestSettings_KeyInTheEnvironment_IsFoundAfterItWasHidden(t *testing.T) {
	t.Setenv("MODELTIER_TEST_KEY", "sesame")
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("keys: [{name: a, key_env: MODELTIER_TEST_KEY}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := environment{at: os.LookupEnv}
	o := &options{env: e.lookup, config: path}
	for range 2 {
		lib, err := openConfig(t.Context(), o, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		e.hideKeys(lib.file)
		if _, there := os.LookupEnv("MODELTIER_TEST_KEY"); there {
			t.Error("engines get it")
		}
	}
}
