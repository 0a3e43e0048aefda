package hotload

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Work that grows with the square of the folder takes a minute here;
// the bound is a hundred times what linear work takes.
func TestWatch_ManyFilesMoving_WorkIsNearLinear(t *testing.T) {
	const n = 8_000
	var known []tier.Model
	var all []found
	var skipped []Skipped
	moving := make(map[string]bool)
	for i := range n {
		path := filepath.Join("/m", fmt.Sprint("d", i), "m.gguf")
		m := tier.Model{Name: fmt.Sprint("m", i), Path: path, Size: 1}
		known = append(known, m)
		all = append(all, found{model: m, files: []file{}})
		skipped = append(skipped, Skipped{Path: filepath.Join("/gone", fmt.Sprint(i)), unread: true})
		moving[filepath.Join("/m", fmt.Sprint("e", i), "m.gguf")] = true
	}
	w := newWatcher("/m", known)
	began := time.Now()
	c := w.settle(all, skipped, moving)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("settling %d models took %v", n, took)
	}
	if len(c.Skipped) != n || len(c.Added)+len(c.Changed)+len(c.Removed) > 0 {
		t.Errorf("added %d, changed %d, removed %d, skipped %d", len(c.Added), len(c.Changed), len(c.Removed), len(c.Skipped))
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
