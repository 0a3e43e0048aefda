package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// OpenAI's JavaScript client is fetched by npm, in the version of testdata's lock file, and
// run by node.
func TestJavaScript(t *testing.T) {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("OpenAI's JavaScript client cannot be run: ", err)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "client.mjs"} {
		b, err := os.ReadFile(filepath.Join("testdata", "javascript", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fetch := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	fetch.Dir = dir
	if out, err := fetch.CombinedOutput(); err != nil {
		t.Skipf("OpenAI's JavaScript client cannot be fetched: %v: %s", err, out)
	}
	run := func(t *testing.T, env ...string) {
		cmd := exec.CommandContext(t.Context(), "node", "--test-reporter=spec", "client.mjs")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		} else if !strings.Contains(string(out), "fail 0") {
			t.Errorf("it tells no tests: %s", out)
		}
	}
	for way, without := range natively("/v1/responses") {
		t.Run("stand-in/"+way, func(t *testing.T) {
			url := faces(t, without...)
			run(t, "URL="+url, "TALKER="+talker, "EMBEDDER="+embedder, "STAND_IN=1")
			idle(t, url)
		})
	}
	t.Run("llama.cpp", func(t *testing.T) {
		url := engines["llama.cpp"](t)
		run(t, "URL="+url, "TALKER="+small, "EMBEDDER=bert-large")
		idle(t, url)
	})
}
