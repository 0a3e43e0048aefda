package config

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// Whatever a file holds, it is read or its faults have places in it, in memory that is in
// proportion to the file, and what was read can be used.
func FuzzParse(f *testing.F) {
	b, err := os.ReadFile(filepath.Join("..", "modeltier.example.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	for _, seed := range []string{
		"{}", "", "\ufeff{\n\t\"models\": [\n\t\t{\"name\": \"a\", \"size_gb\": 1e0}\n\t]\n}", "x-a: &a {command: x {port}}\nengines: {e: *a, f: {<<: *a}}",
		"x-0: &a [1]\nx-1: &b [*a, *a]\npins: *b", "pins: &p [*p]", "aliases: &p {<<: *p}", "keys: [{name: x, key: s}]\nlisten: [:1]\norigins: ['*']",
		"engines: {e: {command: [x, {port}], env: {A: |\n  b\n}, save: {path: /, body: {a: [1, .inf, ~, !!str 5]}}}}", "? a\n: b", "%YAML 1.2\n---\nstate: x\n...\n",
		"limits: {ram: 5GiB, swap: none}\nkeep_alive: -1\nstandby_for: 1h", "models:\n- name: >-\n   a\n   b\n  path: 'x''y'\n  quality: 0x1p-2\n", "folders: [a, {path: b, watch: no}]",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		file, _, err := Parse("c.yaml", b, "/srv")
		runtime.ReadMemStats(&after)
		// The parser takes about 300 bytes for one of a large file.
		if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20+4096*uint64(len(b)) {
			t.Errorf("%d bytes took %d", len(b), used)
		}
		if file != nil {
			file.Check(os.LookupEnv)
		}
		if err == nil {
			for _, m := range file.TierModels() {
				if err := m.Validate(); err != nil {
					t.Error(err)
				}
			}
			for name, e := range file.Engines {
				if err := e.Validate(); err != nil || e.ID() == "" {
					t.Errorf("%s: %v", name, err)
				}
				e.Estimate()
			}
			if err := file.Limits.OrElse(tier.DefaultLimits()).Validate(); err != nil {
				t.Error(err)
			}
			return
		}
		joined, ok := err.(interface{ Unwrap() []error })
		if !ok {
			joined = joinedError{err}
		}
		for _, err := range joined.Unwrap() {
			fault, ok := errors.AsType[*Fault](err)
			if !ok || fault.Line < 1 || fault.Column < 1 || fault.Rule == "" {
				t.Errorf("%q has no place", err)
			}
		}
	})
}
