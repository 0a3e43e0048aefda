package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/process"
)

// The engine that is stopped and started is the server's: of the same words.
func TestRestart_GivesTheEngineWhatTheServerGivesIt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.gguf")
	if err := os.WriteFile(path, []byte("weights"), 0o600); err != nil {
		t.Fatal(err)
	}
	command := func(to string) []string {
		return []string{"sh", "-c", ": {port}; echo {path} {name} {threads} {context} >" + filepath.Join(dir, to) + "; exit 1"}
	}
	m, err := process.New(process.Options{Engine: process.Engine{Command: command("server"), Health: "/health"}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Move(t.Context(), tier.Move{Model: tier.Model{Name: "a", Path: path, Size: 7}, To: tier.RAM}, nil); err == nil {
		t.Error("what ends at once is said to serve")
	}
	r := &restart{command: command("restart")}
	if _, err := r.to(t.Context(), model{"a", path}, runner{}); err == nil {
		t.Error("what ends at once is said to answer")
	}
	var said []string
	for _, name := range []string{"server", "restart"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, strings.TrimSpace(string(b)))
	}
	if said[0] != said[1] {
		t.Errorf("the server starts it with %q, and it is started with %q", said[0], said[1])
	}
}
