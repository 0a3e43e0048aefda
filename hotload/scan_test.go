package hotload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modeltier/modeltier/tier"
)

// scan returns what Scan found below dir: name → path, and path → reason.
func scan(t *testing.T, dir string) (models, skipped map[string]string) {
	t.Helper()
	found, left, err := Scan(t.Context(), dir)
	must(t, err)
	models, skipped = make(map[string]string), make(map[string]string)
	rel := func(path string) string {
		r, err := filepath.Rel(dir, path)
		must(t, err)
		return filepath.ToSlash(r)
	}
	for _, m := range found {
		if err := m.Validate(); err != nil {
			t.Error(err)
		}
		if models[m.Name] != "" {
			t.Errorf("two models are called %q", m.Name)
		}
		if size, err := Measure(m.Path); err != nil || size != m.Size {
			t.Errorf("%s has size %d, Measure says %d, %v", m.Name, m.Size, size, err)
		}
		if info, err := Inspect(m.Path); err != nil || info.Size != m.Size {
			t.Errorf("%s has size %d, Inspect says %d, %v", m.Name, m.Size, info.Size, err)
		}
		models[m.Name] = rel(m.Path)
	}
	for _, s := range left {
		skipped[rel(s.Path)] = s.Reason
	}
	return models, skipped
}

func TestScan_FolderOfEverything_FindsModelsAndSaysWhatItLeftOut(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{
		"a.gguf":                           llama(),
		"b.safetensors":                    safetensorsShard(),
		"README.md":                        "no model",
		"sub/a.gguf":                       llama(),
		"deeper/sub/a.gguf":                llama(),
		"shards/m-00001-of-00002.gguf":     ggufShard(1, 2),
		"shards/m-00002-of-00002.gguf":     ggufShard(2, 2),
		"hub/model.safetensors":            safetensorsShard(),
		"hub/config.json":                  `{"architectures":["BertModel"]}`,
		"sees/model.gguf":                  llama(),
		"sees/mmproj.gguf":                 projector(),
		"many/q4.gguf":                     llama(),
		"many/q8.gguf":                     llama(),
		"broken.gguf":                      "hello",
		"cut.gguf":                         llama()[:200],
		"empty.gguf":                       "",
		".hidden.gguf":                     llama(),
		".cache/c.gguf":                    llama(),
		"adapter.gguf":                     string(newGGUF("llama").set("general.type", "adapter").tensor("t", 0, 1).bytes()),
		"mmproj-x.gguf":                    projector(),
		"loose-00001-of-00002.gguf":        ggufShard(1, 2),
		"whole-00001-of-00002.safetensors": safetensorsShard(),
		"whole-00002-of-00002.safetensors": safetensorsShard(),
		"mixed/one.gguf":                   llama(),
		"mixed/m-00001-of-00002.gguf":      ggufShard(1, 2),
		"mixed/m-00002-of-00002.gguf":      ggufShard(2, 2),
		"none/README.md":                   "nothing here",
		"tuned/model.safetensors":          safetensorsShard(),
		"tuned/config.json":                `{"architectures":["BertModel"]}`,
		"tuned/adapter.safetensors":        string(safetensorsFile(`{"m.lora_A":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}`, 1)),
		"spoilt/model.safetensors":         safetensorsShard(),
		"spoilt/config.json":               `{"architectures":["BertModel"]}`,
		"spoilt/more.safetensors":          safetensorsShard()[:30],
	})
	models, skipped := scan(t, dir)
	want := map[string]string{
		"a": "a.gguf", "b": "b.safetensors", "sub/a": "sub/a.gguf", "a-2": "deeper/sub/a.gguf",
		"shards/m": "shards/m-00001-of-00002.gguf", "m": "mixed/m-00001-of-00002.gguf", "whole": "whole-00001-of-00002.safetensors",
		"hub": "hub", "sees": "sees/model.gguf", "tuned": "tuned", "spoilt": "spoilt", "q4": "many/q4.gguf", "q8": "many/q8.gguf", "one": "mixed/one.gguf",
	}
	// Which of three files called a gets which name depends on the order of paths.
	if diff := cmp.Diff(want, models); diff != "" {
		want["sub/a"], want["a-2"] = want["a-2"], want["sub/a"]
		if cmp.Diff(want, models) != "" {
			t.Errorf("models (-want +got):\n%s", diff)
		}
	}
	for path, reason := range map[string]string{
		"broken.gguf": "does not begin with GGUF", "cut.gguf": "truncated", "empty.gguf": "is empty",
		".hidden.gguf": "is hidden", ".cache": "is hidden", "adapter.gguf": "is an adapter", "mmproj-x.gguf": "is a projector",
		"loose-00001-of-00002.gguf": "not there", "tuned/adapter.safetensors": "is an adapter",
		"spoilt/more.safetensors": "truncated",
	} {
		if !strings.Contains(skipped[path], reason) {
			t.Errorf("%s was left out because it %q; want something about %q", path, skipped[path], reason)
		}
		delete(skipped, path)
	}
	if len(skipped) > 0 {
		t.Errorf("left out beyond that: %v", skipped)
	}
}

func TestScan_SymbolicLinks_FollowedWithinTheFolderOnly(t *testing.T) {
	outside := t.TempDir()
	dir := t.TempDir()
	plant(t, outside, map[string]string{"secret.gguf": llama(), "folder/m.gguf": llama(), "config.json": "{}"})
	plant(t, dir, map[string]string{
		"out.gguf":                               "-> " + filepath.Join(outside, "secret.gguf"),
		"out":                                    "-> " + filepath.Join(outside, "folder"),
		"up.gguf":                                "-> ../" + filepath.Base(outside) + "/secret.gguf",
		"gone.gguf":                              "-> nowhere.gguf",
		"loop.gguf":                              "-> loop.gguf",
		"back":                                   "-> .",
		"..data/v1":                              llama(),
		"in.gguf":                                "-> ..data/v1",
		"abs.gguf":                               "-> " + filepath.Join(dir, "..data", "v1x"),
		"..data/v1x":                             llama(),
		"same.gguf":                              "-> in.gguf",
		"hub/m.gguf":                             "-> " + filepath.Join(outside, "secret.gguf"),
		"chain.gguf":                             "-> chain2",
		"chain2":                                 "-> " + filepath.Join(outside, "secret.gguf"),
		"sub/up.gguf":                            "-> ../..data/v3",
		"..data/v3":                              llama(),
		"blobs/abcdef":                           llama(),
		"models--org--name/snapshots/123/m.gguf": "-> ../../../blobs/abcdef",
	})
	models, skipped := scan(t, dir)
	want := map[string]string{"in": "in.gguf", "abs": "abs.gguf", "up": "sub/up.gguf", "m": "models--org--name/snapshots/123/m.gguf"}
	if diff := cmp.Diff(want, models); diff != "" {
		t.Errorf("models (-want +got):\n%s", diff)
	}
	for _, path := range []string{"out.gguf", "out", "up.gguf", "hub/m.gguf", "chain.gguf", "chain2"} {
		if !strings.Contains(skipped[path], "leads out") {
			t.Errorf("%s was left out because it %q", path, skipped[path])
		}
	}
	if !strings.Contains(skipped["same.gguf"], "same file") {
		t.Errorf("same.gguf: %q", skipped["same.gguf"])
	}
	for _, path := range []string{"gone.gguf", "loop.gguf"} {
		if skipped[path] == "" {
			t.Errorf("%s was not reported", path)
		}
	}
}

func TestScan_FileIsSwappedForALinkAfterTheListing_NotFollowedOut(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	plant(t, outside, map[string]string{"secret.gguf": llama()})
	plant(t, dir, map[string]string{"m.gguf": llama()})
	tr, err := openTree(dir)
	must(t, err)
	defer tr.close()
	f, err := tr.list(dir)
	must(t, err)
	must(t, os.Remove(filepath.Join(dir, "m.gguf")))
	plant(t, dir, map[string]string{"m.gguf": "-> " + filepath.Join(outside, "secret.gguf")})
	if info, err := tr.read(&f.weights[0]); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestScan_FolderIsSwappedForALinkAfterTheListing_NotFollowedOut(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	plant(t, outside, map[string]string{"secret.gguf": llama()})
	plant(t, dir, map[string]string{"sub": "-> " + outside})
	tr, err := openTree(dir)
	must(t, err)
	defer tr.close()
	if _, err = tr.list(filepath.Join(dir, "sub")); !errors.Is(err, tier.ErrInvalid) || !strings.Contains(err.Error(), "leads out") {
		t.Errorf("%v", err)
	}
}

func TestScan_NamesThatCannotBeShown_LeftOut(t *testing.T) {
	dir := t.TempDir()
	bad := []string{"a\nb.gguf", "a\x1b[2J.gguf", "a\u202eb.gguf"}
	for _, name := range bad {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(llama()), 0o600); err != nil {
			t.Skipf("needs a file system that takes such names: %v", err)
		}
	}
	plant(t, dir, map[string]string{"模型.gguf": llama()})
	models, skipped := scan(t, dir)
	if diff := cmp.Diff(map[string]string{"模型": "模型.gguf"}, models); diff != "" {
		t.Errorf("models (-want +got):\n%s", diff)
	}
	for _, name := range bad {
		if skipped[name] == "" {
			t.Errorf("%q was not reported", name)
		}
	}
	_, left, _ := Scan(t.Context(), dir)
	for _, s := range left {
		if strings.ContainsAny(s.String(), "\n\x1b\u202e") {
			t.Errorf("%s cannot be shown", s)
		}
	}
}

func TestScan_DeepFolders_LeftOutBelowABound(t *testing.T) {
	dir := t.TempDir()
	deep := strings.Repeat("d/", maxDepth)
	plant(t, dir, map[string]string{deep + "in.gguf": llama(), deep + "e/out.gguf": llama()})
	models, skipped := scan(t, dir)
	if models["in"] == "" || models["out"] != "" || !strings.Contains(skipped[deep+"e"], "deeper") {
		t.Errorf("models %v, left out %v", models, skipped)
	}
}

func TestScan_CannotBeScanned_IsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, dir := range []string{file, filepath.Join(t.TempDir(), "gone")} {
		if _, _, err := Scan(t.Context(), dir); !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("Scan(%q): %v", dir, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errBroken)
	if _, _, err := Scan(ctx, t.TempDir()); err != errBroken {
		t.Errorf("Scan with an ended context: %v, want its cause", err)
	}
}

func TestScan_ManyFiles_RefusedBeyondABound(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{"a.gguf": llama()})
	tr, err := openTree(dir)
	must(t, err)
	defer tr.close()
	tr.entries = maxEntries
	if _, err := tr.readDir(dir); err == nil {
		t.Error("an entry more than allowed is no error")
	}
}

func TestResolve_PathFromOutside_StaysWithinTheFolder(t *testing.T) {
	outside := t.TempDir()
	root := filepath.Join(t.TempDir(), "models")
	plant(t, outside, map[string]string{"secret.gguf": llama()})
	plant(t, root, map[string]string{
		"m.gguf": llama(), "sub/m.gguf": llama(), "a..b.gguf": llama(),
		"out.gguf": "-> " + filepath.Join(outside, "secret.gguf"), "out": "-> " + outside,
		"in.gguf": "-> sub/m.gguf", "leaky/m.gguf": "-> " + filepath.Join(outside, "secret.gguf"),
		"unrelated/m.gguf": llama(), "unrelated/README": "-> /etc/hostname",
	})
	plant(t, filepath.Dir(root), map[string]string{"models-evil/m.gguf": llama(), "beside.gguf": llama()})
	link := filepath.Join(t.TempDir(), "link")
	plant(t, filepath.Dir(link), map[string]string{"link": "-> " + root})

	for path, want := range map[string]string{
		"m.gguf": "m.gguf", "sub/m.gguf": "sub/m.gguf", "sub": "sub", "./sub//m.gguf": "sub/m.gguf", "a..b.gguf": "a..b.gguf",
		"in.gguf": "in.gguf", "unrelated": "unrelated",
		filepath.Join(root, "m.gguf"): "m.gguf",
	} {
		got, err := Resolve(root, path)
		if err != nil || got != filepath.Join(root, want) {
			t.Errorf("Resolve(%q) = %q, %v; want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"m.gguf", filepath.Join(link, "m.gguf"), filepath.Join(root, "m.gguf")} {
		if got, err := Resolve(link, path); err != nil || got != filepath.Join(link, "m.gguf") {
			t.Errorf("Resolve through a link of %q = %q, %v", path, got, err)
		}
	}
	for _, path := range []string{
		"", "..", "../beside.gguf", "sub/../m.gguf", "sub/../../beside.gguf", "/etc/passwd", "/", outside,
		filepath.Join(outside, "secret.gguf"), filepath.Join(root, "..", "beside.gguf"), root + "/../beside.gguf",
		root + "-evil/m.gguf", "out.gguf", "out", "out/secret.gguf", "leaky", "gone.gguf", "m.gguf/x",
		"m.gguf\x00", "a\nb", strings.Repeat("d/", 3000) + "m.gguf", "~/m.gguf",
	} {
		got, err := Resolve(root, path)
		if !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("Resolve(%q) = %q, %v; want ErrInvalid", path, got, err)
			continue
		}
		if strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 1000 {
			t.Errorf("the error for %q cannot be shown: %q", path, err)
		}
		if strings.Contains(path, "secret") || strings.Contains(path, "passwd") {
			there, gone := errorFor(t, root, path), errorFor(t, root, path+"-gone")
			if there != gone {
				t.Errorf("the error tells whether %q is there: %q, %q", path, there, gone)
			}
		}
	}
}

// errorFor is the rule that the path breaks, without the path.
func errorFor(t *testing.T, root, path string) string {
	_, err := Resolve(root, path)
	e, ok := errors.AsType[*tier.InvalidError](err)
	if !ok {
		t.Fatalf("%T", err)
	}
	return e.Rule
}

func FuzzResolve(f *testing.F) {
	top := f.TempDir()
	root := filepath.Join(top, "models")
	plant(f, top, map[string]string{
		"models/m.gguf": "m", "models/sub/m.gguf": "m", "models/out": "-> ..", "models/o.gguf": "-> ../beside.gguf", "beside.gguf": "m",
	})
	for _, s := range []string{"m.gguf", "sub", "../beside.gguf", "out/beside.gguf", "o.gguf", "/etc/passwd", "sub/./m.gguf", root + "/m.gguf"} {
		f.Add(s)
	}
	real, err := filepath.EvalSymlinks(root)
	must(f, err)
	f.Fuzz(func(t *testing.T, path string) {
		got, err := Resolve(root, path)
		if err != nil {
			if !errors.Is(err, tier.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		where, err := filepath.EvalSymlinks(got)
		must(t, err)
		if where != real && !strings.HasPrefix(where, real+string(filepath.Separator)) {
			t.Fatalf("%q leads to %q", path, where)
		}
	})
}

func BenchmarkScan(b *testing.B) {
	dir := b.TempDir()
	for i := range 200 {
		plant(b, dir, map[string]string{fmt.Sprintf("m%03d.gguf", i): llama()})
	}
	for b.Loop() {
		if models, _, err := Scan(b.Context(), dir); err != nil || len(models) != 200 {
			b.Fatal(len(models), err)
		}
	}
}

func TestWatcher_ScanAgain_KnownOneKeepsItsName(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{"b/m.gguf": llama(), "c/m.gguf": llama()})
	w, err := NewWatcher(dir, nil, nil)
	must(t, err)
	known := make(map[string]string)
	check := func(want map[string]string) {
		t.Helper()
		c, err := w.Scan(t.Context())
		must(t, err)
		for _, m := range c.Removed {
			delete(known, m.Name)
		}
		for _, m := range c.Added {
			rel, err := filepath.Rel(dir, m.Path)
			must(t, err)
			known[m.Name] = filepath.ToSlash(rel)
		}
		if diff := cmp.Diff(want, known); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	check(map[string]string{"m": "b/m.gguf", "c/m": "c/m.gguf"})
	plant(t, dir, map[string]string{"a/m.gguf": llama()}) // it stands before the others
	check(map[string]string{"m": "b/m.gguf", "c/m": "c/m.gguf", "a/m": "a/m.gguf"})
	must(t, os.Remove(filepath.Join(dir, "b", "m.gguf")))
	check(map[string]string{"c/m": "c/m.gguf", "a/m": "a/m.gguf"})
	plant(t, dir, map[string]string{"b/m.gguf": llama()})
	check(map[string]string{"m": "b/m.gguf", "c/m": "c/m.gguf", "a/m": "a/m.gguf"})
}

func TestWatcher_NamesOfBeforeAndOfOthers_AreKept(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{"a/m.gguf": llama(), "b/m.gguf": llama(), "c/m.gguf": llama(), "d/m.gguf": llama()})
	at := func(name string) string { return filepath.Join(dir, name, "m.gguf") }
	w, err := NewWatcher(dir, map[string]string{at("b"): "m", at("gone"): "gone", at("d"): "mine"}, func() []tier.Model {
		return []tier.Model{{Name: "mine", Path: at("c")}}
	})
	must(t, err)
	c, err := w.Scan(t.Context())
	must(t, err)
	got := make(map[string]string)
	for _, m := range c.Added {
		got[m.Path] = m.Name
	}
	want := map[string]string{at("a"): "a/m", at("b"): "m", at("c"): "mine", at("d"): "d/m"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNames_TakenOrTooLong_StillUniqueAndValid(t *testing.T) {
	n := make(names)
	seen := make(map[string]bool)
	long := strings.Repeat("模", 83) // 249 bytes
	for range 20 {
		for _, name := range []string{"a", long, strings.Repeat("x", tier.MaxNameLength)} {
			got := n.claim(name, filepath.Join("/models", strings.Repeat("d", 200)))
			if err := tier.CheckName("name", got); err != nil || seen[got] {
				t.Fatalf("claim(%.20q…) = %q, %v, seen before: %v", name, got, err, seen[got])
			}
			seen[got] = true
		}
	}
	if got := n.claim("b", "/models/x"); got != "b" {
		t.Errorf("a free name became %q", got)
	}
	if got := n.claim("b", "/models/x"); got != "x/b" {
		t.Errorf("a taken name became %q, want that with its folder", got)
	}
}

func TestFolderName_CacheOfAModelHub_IsTheRepository(t *testing.T) {
	for dir, want := range map[string]string{
		"/hub/models--org--some-name/snapshots/0123abcd": "org/some-name",
		"/hub/models--one/snapshots/0123abcd":            "one",
		"/hub/snapshots/0123abcd":                        "0123abcd",
		"/models/llama":                                  "llama",
	} {
		if got := folderName(filepath.FromSlash(dir)); got != want {
			t.Errorf("folderName(%q) = %q, want %q", dir, got, want)
		}
	}
}

func TestNames_ManyOfOneName_NoSearchForEach(t *testing.T) {
	claims := func(n int) float64 {
		return testing.AllocsPerRun(1, func() { // each name that is tried is an allocation
			taken := make(names)
			for i := range n {
				taken.claim("model", fmt.Sprint("/x/", i))
			}
		})
	}
	if few, many := claims(500), claims(2000); many > 6*few {
		t.Errorf("500 names take %v allocations, 2000 take %v", few, many)
	}
}

func TestNames_Released_LowestNumberIsGivenAgain(t *testing.T) {
	taken := make(names)
	claim := func() string { return taken.claim("m", "/d") }
	for _, want := range []string{"m", "d/m", "m-2", "m-3", "m-4"} {
		if got := claim(); got != want {
			t.Fatalf("claimed %q, want %q", got, want)
		}
	}
	for _, name := range []string{"m-3", "d/m", "m-2"} {
		taken.release(name)
	}
	for _, want := range []string{"d/m", "m-2", "m-3", "m-5"} {
		if got := claim(); got != want {
			t.Fatalf("claimed %q after releases, want %q", got, want)
		}
	}
}
