package mapped

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// spoil are the ways in which a file changes under us.
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
			r, err := m.Reader("m")
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

// Nothing fails to be read, but what was loaded is not what lies there now.
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
