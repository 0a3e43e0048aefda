package mapped

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modeltier/modeltier/tier"
)

func touchAll(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("weights"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFind_Folder_TakesWeightsOrElseEverythingRegular(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []string
		want  []string
	}{
		{"weights only", []string{"b.gguf", "a.safetensors"}, []string{"a.safetensors", "b.gguf"}},
		{"weights beside other files", []string{"README.md", "config.json", "m.GGUF", ".hidden.gguf"}, []string{"m.GGUF"}},
		{"no known format", []string{"w.bin", "v.bin", ".hidden"}, []string{"v.bin", "w.bin"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			touchAll(t, dir, tt.files...)
			if err := os.MkdirAll(filepath.Join(dir, "sub", "x.gguf"), 0o755); err != nil {
				t.Fatal(err)
			}
			got, err := findShards("m", dir)
			if err != nil {
				t.Fatal(err)
			}
			for i := range got {
				got[i] = filepath.Base(got[i])
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFind_Links_AreFollowed(t *testing.T) {
	dir := t.TempDir()
	touchAll(t, dir, "blob")
	snapshot := filepath.Join(dir, "snapshot")
	if err := os.Mkdir(snapshot, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(snapshot, "model.safetensors")
	if err := os.Symlink("../blob", link); err != nil {
		t.Skip(err)
	}
	w, err := openWeights(newSystem(), &tier.Model{Name: "m", Path: snapshot})
	if err != nil {
		t.Fatal(err)
	}
	if w.size != int64(len("weights")) {
		t.Errorf("%d bytes", w.size)
	}
	w.close()
	if err := os.Remove(filepath.Join(dir, "blob")); err != nil {
		t.Fatal(err)
	}
	if _, err := openWeights(newSystem(), &tier.Model{Name: "m", Path: snapshot}); !errors.Is(err, tier.ErrInvalid) || !strings.Contains(fmt.Sprint(err), "must exist") {
		t.Errorf("a link to nothing: %v", err)
	}
}

func TestOpen_BadPath_SaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	touchAll(t, dir, "good")
	for _, sub := range []string{"empty folder", "many", "hollow"} {
		if err := os.Mkdir(at(sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range maxShards + 1 {
		touchAll(t, at("many"), fmt.Sprintf("%d.gguf", i))
	}
	for _, name := range []string{at("empty"), at("hollow/a.gguf"), at("hollow/b.gguf")} {
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		path string
		size tier.Bytes
		says string
	}{
		{"", 0, "must name a file"},
		{at("missing"), 0, "must exist"},
		{at("good/below"), 0, "must"},
		{at("empty"), 0, "must not be empty"},
		{at("hollow"), 0, "must not be empty"},
		{at("empty folder"), 0, "must hold at least one regular file"},
		{at("many"), 0, "must hold 1025 files of weights at most, has 1026"},
		{at("good"), 6, "6 bytes must not be less than what"},
		{at("good"), 6, "has, 7 bytes"},
		{at(strings.Repeat("x", 10_000)), 0, "must"},
	} {
		w, err := openWeights(newSystem(), &tier.Model{Name: "m", Path: tt.path, Size: tt.size})
		if w != nil || !errors.Is(err, tier.ErrInvalid) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("open(%.40q) = %v, %v, want an error that says %q", tt.path, w, err, tt.says)
		}
		if len(fmt.Sprint(err)) > 1000 {
			t.Errorf("the error about %.40q is %d bytes long", tt.path, len(err.Error()))
		}
		if len(tier.Suggestions(err)) == 0 {
			t.Errorf("the error about %.40q suggests nothing", tt.path)
		}
	}
}

// Among good shards, one that holds no weights is an error that names it and
// says what to do, in a folder of known format and in another.
func TestOpen_BadShard_IsNamedWithAWayOut(t *testing.T) {
	for _, ext := range []string{".gguf", ".bin"} {
		for _, tt := range []struct {
			kind string
			make func(path string) error
			says string
		}{
			{"empty", func(path string) error { return os.WriteFile(path, nil, 0o644) }, "must not be empty"},
			{"link to an empty file", func(path string) error {
				return errors.Join(os.WriteFile(path+".d", nil, 0o644), os.Rename(path+".d", filepath.Join(filepath.Dir(path), ".blob")), os.Symlink(".blob", path))
			}, "must not be empty"},
			{"dangling link", func(path string) error { return os.Symlink("nowhere", path) }, `must exist, is a link to "nowhere"`},
			{"device", func(path string) error { return os.Symlink(os.DevNull, path) }, "is a device"},
			{"folder", func(path string) error { return os.Mkdir(path, 0o755) }, "is a folder"},
			{"link to itself", func(path string) error { return os.Symlink(path, path) }, "must be readable"},
			{"unreadable", func(path string) error { return os.WriteFile(path, []byte("weights"), 0) }, "must be readable: permission denied"},
		} {
			t.Run(tt.kind+ext, func(t *testing.T) {
				dir := t.TempDir()
				touchAll(t, dir, "m-00001-of-00003"+ext, "m-00003-of-00003"+ext)
				bad := filepath.Join(dir, "m-00002-of-00003"+ext)
				switch err := tt.make(bad); {
				case err != nil:
					t.Skip(err)
				case tt.kind == "folder" && ext == ".bin":
					t.Skip("folders beside files of unknown format do not count")
				case tt.kind == "unreadable" && os.Geteuid() <= 0:
					t.Skip("root reads everything")
				}
				_, err := openWeights(newSystem(), &tier.Model{Name: "m", Path: dir})
				ie, ok := errors.AsType[*tier.InvalidError](err)
				if !ok || ie.Field != "path" || !strings.Contains(err.Error(), filepath.Base(bad)) || !strings.Contains(err.Error(), tt.says) || len(ie.Help) == 0 {
					t.Errorf("open = %v, want an error about %s that says %q and has a way out", err, filepath.Base(bad), tt.says)
				}
			})
		}
	}
}

func TestCheckModel_NoPath_IsInvalidAndSaysWhatToDo(t *testing.T) {
	m := newTestMover(t, newSystem(), Options{})
	err := m.CheckModel(&tier.Model{Name: "m", Size: 1})
	ie, ok := errors.AsType[*tier.InvalidError](err)
	if !ok || ie.Model != "m" || ie.Field != "path" || !strings.Contains(ie.Rule, "must name a file or a folder") || len(ie.Help) == 0 {
		t.Errorf("CheckModel = %v", err)
	}
	if err := m.CheckModel(&tier.Model{Name: "m", Path: "not there yet"}); err != nil {
		t.Errorf("CheckModel does I/O: %v", err)
	}
}

func TestOpen_DeclaredTooLarge_IsTaken(t *testing.T) {
	dir := t.TempDir()
	touchAll(t, dir, "m.gguf")
	w, err := openWeights(newSystem(), &tier.Model{Name: "m", Path: dir, Size: tier.GiB})
	if err != nil {
		t.Fatal(err)
	}
	w.close()
}

// spoil are the ways in which a mapped file can change.
var spoil = []struct {
	how string
	do  func(t *testing.T, path string)
}{
	{"truncated", func(t *testing.T, path string) { must(t, os.Truncate(path, 1<<20)) }},
	{"grown", func(t *testing.T, path string) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteString("more")
		must(t, errors.Join(err, f.Close()))
	}},
	{"rewritten", func(t *testing.T, path string) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt([]byte("other"), 0)
		must(t, errors.Join(err, f.Close()))
		later := time.Now().Add(time.Hour) // the clock of the filesystem may stand still that long
		must(t, os.Chtimes(path, later, later))
	}},
	{"replaced", func(t *testing.T, path string) {
		b, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path+".new", b, 0o644))
		must(t, os.Rename(path+".new", path))
	}},
	{"gone", func(t *testing.T, path string) { must(t, os.Remove(path)) }},
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestChanged_FileUnderAMapping_IsToldByEveryUse(t *testing.T) {
	for _, s := range spoil {
		t.Run(s.how, func(t *testing.T) {
			mod := model(t, "m", 2*tier.MiB+odd)
			m := newTestMover(t, newSystem(), Options{})
			mustMove(t, m, mod, tier.RAM, 0)
			r, err := m.Weights("m")
			must(t, err)
			s.do(t, mod.Path)
			_, byBytes := m.Bytes("m")
			_, byReader := r.ReadAt(make([]byte, 10), 0)
			byMove := m.Move(t.Context(), tier.Move{Model: mod, From: tier.RAM, To: tier.Swap}, nil)
			for name, err := range map[string]error{"Bytes": byBytes, "ReadAt": byReader, "Move": byMove} {
				ce, ok := errors.AsType[*ChangedError](err)
				if !ok || ce.How != s.how || !errors.Is(err, tier.ErrInvalid) || len(tier.Suggestions(err)) == 0 {
					t.Errorf("%s = %v, want a ChangedError that says %s", name, err, s.how)
				}
			}
			if me, ok := errors.AsType[*tier.MoveError](byMove); !ok || !me.Lost || me.From != tier.RAM || me.To != tier.Swap {
				t.Errorf("Move = %#v, want a MoveError that says Lost", byMove)
			}
			if n := len(m.Status().Models); n != 0 {
				t.Errorf("%d models are mapped afterwards", n)
			}
			if s.how == "gone" {
				return
			}
			mod.Size = 3 * tier.MiB // as declared again
			mustMove(t, m, mod, tier.RAM, 0)
			sameWeights(t, m, mod)
		})
	}
}

func TestChanged_ToStorage_IsLetGo(t *testing.T) {
	for _, s := range spoil {
		t.Run(s.how, func(t *testing.T) {
			mod := model(t, "m", 2*tier.MiB)
			m := newTestMover(t, newSystem(), Options{})
			mustMove(t, m, mod, tier.RAM, 0)
			s.do(t, mod.Path)
			mustMove(t, m, mod, tier.Storage, 0)
			if n := len(m.Status().Models); n != 0 && s.how != "rewritten" { // whose new pages are dirty
				t.Errorf("%d models are mapped", n)
			}
		})
	}
}

func TestChanged_PathOfTheModel_IsAChange(t *testing.T) {
	mod, other := model(t, "m", tier.MiB), model(t, "n", tier.MiB)
	m := newTestMover(t, newSystem(), Options{})
	mustMove(t, m, mod, tier.Swap, 0)
	mod.Path = other.Path
	err := m.Move(t.Context(), tier.Move{Model: mod, To: tier.RAM}, nil)
	if me, ok := errors.AsType[*tier.MoveError](err); !ok || !me.Lost {
		t.Errorf("Move = %v, want Lost", err)
	}
	mustMove(t, m, mod, tier.RAM, 0)
	sameWeights(t, m, mod)
}

func TestChanged_TruncatedDuringALoad_IsAnErrorAndUndone(t *testing.T) {
	for _, sys := range []func(*system){func(*system) {}, func(s *system) { s.populate = nil }} {
		mod := model(t, "m", 24*tier.MiB)
		s := newSystem()
		sys(s)
		m := newTestMover(t, s, Options{})
		cut := false
		err := m.Move(t.Context(), tier.Move{Model: mod, To: tier.RAM}, func(tier.Bytes) {
			if !cut {
				cut = true
				must(t, os.Truncate(mod.Path, int64(4*tier.MiB)))
			}
		})
		if ce, ok := errors.AsType[*ChangedError](err); !ok || ce.How != "truncated" || ce.Was != 24*tier.MiB || ce.Is != 4*tier.MiB {
			t.Errorf("Move = %v", err)
		}
		if n := len(m.Status().Models); n != 0 {
			t.Errorf("%d models are mapped", n)
		}
	}
}

// No read fails, but the file that was loaded is not the one at the path now.
func TestChanged_ReplacedDuringALoad_IsAnErrorAndUndone(t *testing.T) {
	mod := model(t, "m", 8*tier.MiB)
	m := newTestMover(t, newSystem(), Options{})
	once := false
	err := m.Move(t.Context(), tier.Move{Model: mod, To: tier.RAM}, func(tier.Bytes) {
		if !once {
			once = true
			must(t, os.WriteFile(mod.Path+".new", content(8<<20), 0o644))
			must(t, os.Rename(mod.Path+".new", mod.Path))
		}
	})
	if ce, ok := errors.AsType[*ChangedError](err); !ok || ce.How != "replaced" {
		t.Errorf("Move = %v", err)
	}
	if _, err := m.Bytes("m"); err == nil {
		t.Error("the model is mapped")
	}
}

func TestFind_Parts_CountBesideTheEntryAndInsteadOfAFolder(t *testing.T) {
	dir := t.TempDir()
	touchAll(t, dir, "a.gguf", "b.gguf", "c.gguf", "blob")
	at := func(names ...string) (paths []string) {
		for _, n := range names {
			paths = append(paths, filepath.Join(dir, n))
		}
		return paths
	}
	for _, tt := range []struct {
		path        string
		parts, want []string
	}{
		{"a.gguf", at("c.gguf", "blob"), at("a.gguf", "c.gguf", "blob")},
		{"a.gguf", at("b.gguf", "a.gguf", "b.gguf"), at("a.gguf", "b.gguf")},
		{"", at("blob", "c.gguf"), at("blob", "c.gguf")},
		{"", nil, at("a.gguf", "b.gguf", "c.gguf")},
	} {
		got, err := findShards("m", filepath.Join(dir, tt.path), tt.parts...)
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("%q with %q: %v\n%s", tt.path, tt.parts, err, diff)
		}
	}
	if _, err := findShards("m", dir, make([]string, maxShards+1)...); err != nil {
		t.Errorf("one file named often: %v", err)
	}
}

func TestOpen_PartIsMissing_ErrorNamesIt(t *testing.T) {
	dir := t.TempDir()
	touchAll(t, dir, "a.gguf")
	_, err := openWeights(newSystem(), &tier.Model{Name: "m", Path: filepath.Join(dir, "a.gguf"), Parts: []string{filepath.Join(dir, "b.gguf")}})
	if !errors.Is(err, tier.ErrInvalid) || !strings.Contains(err.Error(), "b.gguf") {
		t.Errorf("%v", err)
	}
}

func TestChanged_OtherParts_IsAnErrorUntilItWasUnmapped(t *testing.T) {
	mod, part := model(t, "m", tier.MiB), model(t, "part", tier.MiB)
	mod.Parts, mod.Size = []string{part.Path}, 2*tier.MiB
	m := newTestMover(t, newSystem(), Options{})
	must(t, m.Move(t.Context(), tier.Move{Model: mod, To: tier.RAM}, nil))
	fewer := mod
	fewer.Parts = nil
	err := m.Move(t.Context(), tier.Move{Model: fewer, From: tier.RAM, To: tier.Swap}, nil)
	if ce, ok := errors.AsType[*ChangedError](err); !ok || ce.How != "replaced" {
		t.Errorf("Move = %v", err)
	}
	must(t, m.Move(t.Context(), tier.Move{Model: fewer, From: tier.RAM, To: tier.Storage}, nil))
	must(t, m.Move(t.Context(), tier.Move{Model: fewer, To: tier.RAM}, nil))
}
