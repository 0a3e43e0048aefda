package mapped

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// odd makes a size that ends within a page.
const odd = 1234

func conformance(t *testing.T, make func() tier.Mover) {
	models := []tier.Model{
		model(t, "one file", 9*tier.MiB+odd),
		sharded(t, "three shards", 3<<20+odd, 1, 1<<20),
	}
	tiertest.TestMover(t, tiertest.MoverOptions{
		New: func(testing.TB) tier.Mover { return make() },
		Models: func(t testing.TB) []tier.Model {
			for _, m := range models {
				paths, err := findShards(m.Name, m.Path)
				if err != nil {
					t.Fatal(err)
				}
				for _, path := range paths {
					chillPath(t, path)
				}
			}
			return models
		},
		Bad: func(t testing.TB) []tier.Model {
			dir := onDisk(t)
			empty, folder := filepath.Join(dir, "empty"), filepath.Join(dir, "folder")
			if err := os.WriteFile(empty, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(folder, 0o755); err != nil {
				t.Fatal(err)
			}
			return []tier.Model{
				{Name: "missing", Path: filepath.Join(dir, "missing"), Size: 1},
				{Name: "empty", Path: empty, Size: 1},
				{Name: "empty folder", Path: folder, Size: 1},
				{Name: "no path", Size: 1},
				{Name: "device", Path: os.DevNull, Size: 1},
			}
		},
	})
}

func TestMover_KeepsTheContract(t *testing.T) {
	conformance(t, func() tier.Mover {
		m, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		return m
	})
}

// unseeing is a Mover that offers no Resident, as it is outside Linux.
type unseeing struct {
	tier.Mover
	tier.Divider
	tier.InPlacer
	tier.FileBacker
	tier.Closer
}

func TestMover_CallsMissing_KeepsTheContract(t *testing.T) {
	for _, tt := range []struct {
		name   string
		unseen bool
		take   func(s *system)
	}{
		{"linux 5.10", false, func(s *system) { s.populate, s.cachestat = nil, nil }},
		{"linux 5.15", false, func(s *system) { s.cachestat = nil }},
		{"no pagemap", false, func(s *system) { s.pagemap = nil }},
		{"foreign files", false, func(s *system) { s.mayAskMincore = func(*os.File, fs.FileInfo) bool { return false } }},
		{"foreign files, linux 5.15", false, func(s *system) { s.mincore, s.cachestat = nil, nil }},
		{"foreign files, linux 5.10", false, func(s *system) { s.mincore, s.cachestat, s.populate = nil, nil, nil }},
		{"nothing tells", true, func(s *system) { s.mincore, s.pagemap, s.cachestat = nil, nil, nil }},
		{"nothing may be locked", false, func(s *system) { s.mlock = func([]byte) error { return syscall.EPERM } }},
		{"portable", true, func(s *system) { *s = system{name: "portable", page: s.page, mapFile: s.mapFile, unmap: s.unmap} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conformance(t, func() tier.Mover {
				s := newSystem()
				tt.take(s)
				opts, _ := Options{}.withDefaults()
				m := newMover(s, opts)
				if tt.unseen {
					return unseeing{m, m, m, m, m}
				}
				return m
			})
		})
	}
}
