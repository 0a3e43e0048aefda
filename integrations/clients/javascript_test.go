package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The JavaScript clients of OpenAI and Anthropic are fetched by npm, in the versions of
// testdata's lock file, and run by node.
func TestJavaScript(t *testing.T) {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("the JavaScript clients cannot be run: ", err)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "openai.mjs", "anthropic.mjs"} {
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
		t.Skipf("the JavaScript clients cannot be fetched: %v: %s", err, out)
	}
	run := func(t *testing.T, env ...string) {
		for _, name := range []string{"openai.mjs", "anthropic.mjs"} {
			cmd := exec.CommandContext(t.Context(), "node", "--test-reporter=spec", name)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v: %s", name, err, out)
			} else if !strings.Contains(string(out), "fail 0") {
				t.Errorf("%s tells no tests: %s", name, out)
			}
		}
	}
	for way, without := range map[string][]string{"native": nil, "translated": {"/v1/responses", "/v1/messages"}} {
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
