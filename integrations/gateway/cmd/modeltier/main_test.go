package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var manDir = flag.String("man", "", "write the manual pages into this `FOLDER`")

// built is the command as people have it: without cgo.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "modeltier-test")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "modeltier")
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return binary, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if binary, err := built(); err == nil {
		os.RemoveAll(filepath.Dir(binary))
	}
	os.Exit(code)
}

// modeltier runs the command to its end.
func modeltier(t *testing.T, env []string, args ...string) (code int, out, stderr string) {
	t.Helper()
	binary, err := built()
	if err != nil {
		t.Fatal(err)
	}
	var o, e bytes.Buffer
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
}

func TestModeltier_ExitCodes_AreAsStated(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close() // where nothing listens
	env := []string{"MODELTIER_SERVER=" + ln.Addr().String(), "MODELTIER_TOKEN="}
	for args, want := range map[string]struct {
		code  int
		words string
	}{
		"":                       {0, "modeltier demo"},
		"help":                   {0, "Exit codes: 0 done"},
		"version":                {0, "modeltier "},
		"completion bash":        {0, "bash completion"},
		"ps":                     {3, "modeltier serve -models FOLDER"},
		"lod x":                  {2, "did you mean load?"},
		"load":                   {2, "needs MODEL"},
		"serve":                  {2, "-models"},
		"serve -nonsense":        {2, "--nonsense"},
		"serve -models a -ram x": {2, "ram"},
		"-server " + ln.Addr().String() + " unload -all": {3, "No server answers"},
	} {
		code, out, stderr := modeltier(t, env, strings.Fields(args)...)
		if code != want.code || !strings.Contains(out+stderr, want.words) || (code == 0) != (stderr == "") {
			t.Errorf("%s: exit %d, %q, %q; want %d and %q", args, code, out, stderr, want.code, want.words)
		}
	}
}

// To install the command takes no C compiler and no library.
func TestModeltier_Links_NoDeviceLibrary(t *testing.T) {
	list := exec.Command("go", "list", "-deps", ".")
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.Lines(string(out)) {
		for _, bad := range []string{"integrations/llama", "/yzma", "jupiterrider/ffi", "ebitengine/purego", "spf13/cobra/doc"} {
			if strings.Contains(pkg, bad) {
				t.Errorf("it links %s", pkg)
			}
		}
	}
}

// TestManual_IsWritten also writes it: go test -run Manual . -man FOLDER.
func TestManual_IsWritten(t *testing.T) {
	dir := *manDir
	if dir == "" {
		dir = t.TempDir()
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root := rootCommand()
	root.DisableAutoGenTag = true // it has a date
	if err := doc.GenManTree(root, &doc.GenManHeader{Title: "MODELTIER", Section: "1", Source: "modeltier", Manual: "modeltier"}, dir); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range append(root.Commands(), root) {
		if !cmd.IsAvailableCommand() && cmd != root {
			continue
		}
		page := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".1"
		if text, err := os.ReadFile(filepath.Join(dir, page)); err != nil || !bytes.Contains(text, []byte(".TH \"MODELTIER")) {
			t.Errorf("%s: %v, %.100s", page, err, text)
		}
	}
}

// What is said of the command line in docs/cli.md is all that there is, and is there.
func TestDocs_NameEachCommandAndFlag(t *testing.T) {
	text, err := os.ReadFile("../../../../docs/cli.md")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the documentation is not there: the module stands alone")
	}
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	known := map[string]bool{"--help": true, "--version": true} // which cobra adds when it runs
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.HasParent() && !cmd.Hidden && !strings.Contains(page, "`"+cmd.CommandPath()[len("modeltier "):]) {
			t.Errorf("docs/cli.md lacks the command %s", cmd.CommandPath())
		}
		for _, use := range []string{cmd.LocalFlags().FlagUsages(), cmd.PersistentFlags().FlagUsages()} {
			for _, name := range regexp.MustCompile(`--[a-z-]+`).FindAllString(use, -1) {
				known[name] = true
				if serves := cmd.Name() == "serve" || cmd.Name() == "demo"; name != "--help" && !serves && !strings.Contains(page, name) {
					t.Errorf("docs/cli.md lacks %s of %s", name, cmd.CommandPath())
				}
			}
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(rootCommand())
	for _, name := range regexp.MustCompile(`(?m)[^-\w](--[a-z][a-z-]*)`).FindAllStringSubmatch(page, -1) {
		if !known[name[1]] {
			t.Errorf("docs/cli.md has %s, which no command has", name[1])
		}
	}
}
