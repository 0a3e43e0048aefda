package core

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutation is a fault to be planted in a copy of the package. Its file in
// testdata/mutations has a description, "run: " with the tests that have to catch
// it, and replacements in source files:
//
//	-- plan.go --
//	what stands there once
//	-- with --
//	what is to stand there
type mutation struct {
	run      string
	replaces []replacement
}

type replacement struct{ file, old, now string }

func readMutation(t *testing.T, path string) (m mutation) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var into *string
	for line := range strings.Lines(string(text)) {
		name, isName := strings.CutPrefix(strings.TrimSuffix(line, " --\n"), "-- ")
		switch {
		case isName && name == "with" && len(m.replaces) > 0:
			into = &m.replaces[len(m.replaces)-1].now
		case isName:
			m.replaces = append(m.replaces, replacement{file: name})
			into = &m.replaces[len(m.replaces)-1].old
		case into != nil:
			*into += line
		case strings.HasPrefix(line, "run: "):
			m.run = strings.TrimSpace(line[len("run: "):])
		}
	}
	if m.run == "" || len(m.replaces) == 0 {
		t.Fatalf("%s: want the tests to run and a replacement", path)
	}
	return m
}

// plant writes the changed files and returns the flags by which the go command
// builds with them.
func (m mutation) plant(t *testing.T) []string {
	t.Helper()
	dir, replaced := t.TempDir(), map[string]string{}
	for _, r := range m.replaces {
		source, err := filepath.Abs(r.file)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		old := []byte(strings.TrimSuffix(r.old, "\n"))
		if n := bytes.Count(text, old); n != 1 || len(old) == 0 {
			t.Fatalf("%s contains the text to be replaced %d times, want once: the mutation has to follow the code\n%s", r.file, n, old)
		}
		replaced[source] = filepath.Join(dir, r.file)
		text = bytes.Replace(text, old, []byte(strings.TrimSuffix(r.now, "\n")), 1)
		if err := os.WriteFile(replaced[source], text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"-overlay", path}
}

// output runs a command that may fail.
func output(t *testing.T, name string, args ...string) (said string, succeeded bool) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		t.Fatal(err)
	}
	return string(out), err == nil
}

// A suite that passes whatever the code does proves nothing. Each fault here breaks
// a promise: memory that is not there, a move under a lease, a request without an
// answer.
func TestMutations_EachPlantedFault_IsCaught(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the package once for each fault")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob("testdata/mutations/*.txt")
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d mutations, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			m := readMutation(t, path)
			if said, passed := output(t, self, "-test.short", "-test.v", "-test.run="+m.run); !passed || !strings.Contains(said, "--- PASS: Test") {
				t.Fatalf("without the fault, the tests %q fail or do not exist:\n%s", m.run, said)
			}
			args := append([]string{"test", "-short", "-timeout=1m", "-run=" + m.run}, m.plant(t)...)
			switch said, passed := output(t, "go", append(args, ".")...); {
			case passed:
				t.Errorf("the tests %q do not catch it", m.run)
			case !strings.Contains(said, "--- FAIL: Test"):
				t.Errorf("it does not build, or no test failed:\n%s", said)
			}
		})
	}
}
