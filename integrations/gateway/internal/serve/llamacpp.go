package serve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/integrations/gateway/config"
)

// llamacpp is the -engine that is made here: a small one over llama.cpp, from the
// module integrations/llama of a checkout.
const llamacpp = "llamacpp"

// noEngine is the -engine of a demo that keeps files in memory only.
const noEngine = "none"

// canMake returns why the engine cannot be made here.
func canMake() error {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return errors.New("it runs on linux/amd64 and linux/arm64 only")
	}
	for program, why := range map[string]string{"go": "the engine is built with it", "npm": "llama.cpp is fetched with it"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w (%s): install it", err, why)
		}
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	if _, ok := checkout(here); !ok {
		return fmt.Errorf("it is built from integrations/llama of a checkout of modeltier, and there is none at or above %s: start the server in one", here)
	}
	return nil
}

// makeLlamacpp builds the engine, has it fetch llama.cpp, and returns it. saves: it saves
// its conversations.
func makeLlamacpp(ctx context.Context, saves bool, stderr io.Writer) (config.Engine, error) {
	if err := canMake(); err != nil {
		return config.Engine{}, fmt.Errorf("%w, or name a command instead, such as -engine 'llama-server -m {path} --port {port}'", err)
	}
	here, err := os.Getwd()
	if err != nil {
		return config.Engine{}, err
	}
	source, _ := checkout(here)
	cache, err := cacheFolder("llama")
	if err != nil {
		return config.Engine{}, err
	}
	program, err := buildEngine(ctx, source, cache, stderr)
	if err != nil {
		return config.Engine{}, err
	}
	libs, err := output(ctx, stderr, cache, program, "-fetch")
	if err != nil {
		return config.Engine{}, fmt.Errorf("llama.cpp cannot be fetched: %w", err)
	}
	e := config.Engine{
		// Copies of weights, which llama.cpp makes on some processors, cannot be paged out.
		Command: []string{program, "-m", "{path}", "--port", "{port}", "-libs", libs, "-c", "{context}", "-t", "{threads}", "--no-repack"},
		Context: 512,
		Kind:    hotload.LlamaLibrary,
		// With more than one thread llama.cpp waits in a spin for each to have done its
		// share, which takes long where others want the processors too.
		Threads: 1,
	}
	if saves {
		e.Command = append(e.Command, "--slot-save-path", "{state}")
		act := func(action string) *config.Request {
			return &config.Request{Path: "/slots/{slot}?action=" + action, Body: `{"filename":"{file}"}`}
		}
		e.Save, e.Restore = act("save"), act("restore")
	}
	return e, nil
}

// checkout returns the folder of the engine's module in the checkout that a folder
// lies in.
func checkout(dir string) (source string, ok bool) {
	for {
		source = filepath.Join(dir, "integrations", "llama")
		if b, err := os.ReadFile(filepath.Join(source, "go.mod")); err == nil && bytes.HasPrefix(b, []byte("module github.com/modeltier/modeltier/integrations/llama\n")) {
			return source, true
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", false
		}
		dir = up
	}
}

// buildEngine builds the engine into a folder. Go's own cache makes that short
// from the second time on.
func buildEngine(ctx context.Context, source, to string, stderr io.Writer) (program string, err error) {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return "", err
	}
	// Under a name of its own first: another server may run the one that is there.
	temp, err := os.MkdirTemp(to, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	fmt.Fprintf(stderr, "building the engine of %s\n", source)
	built := filepath.Join(temp, "engine")
	if _, err := output(ctx, stderr, source, "go", "build", "-o", built, "./engine"); err != nil {
		return "", fmt.Errorf("the engine cannot be built: %w", err)
	}
	program = filepath.Join(to, "engine")
	// The same program with a new time would be another engine, of which nothing is known
	// and which is given no conversation.
	if sameFile(built, program) {
		return program, nil
	}
	return program, os.Rename(built, program)
}

// sameFile reports whether two files are there with the same content.
func sameFile(a, b string) bool {
	x, errX := os.ReadFile(a)
	y, errY := os.ReadFile(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// output runs a program in a folder and returns what it printed. What it says of
// its progress, or of its failure, goes to stderr.
func output(ctx context.Context, stderr io.Writer, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stderr = dir, stderr
	cmd.Env = append(os.Environ(), "GOWORK=off") // the engine builds by its own go.mod, in any workspace
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s %s: %v; see its output above", filepath.Base(program), strings.Join(args, " "), exit)
	}
	return strings.TrimSpace(string(out)), err
}
