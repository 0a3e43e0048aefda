package main

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
)

// llamacpp is the -engine that is made here: a small one over llama.cpp, from the
// module integrations/llamacpp of a checkout.
const llamacpp = "llamacpp"

// makeLlamacpp builds the engine, has it fetch llama.cpp, and returns it.
func makeLlamacpp(ctx context.Context, stderr io.Writer) (engineConfig, error) {
	const other = "name a command instead, such as -engine 'llama-server -m {path} --port {port}'"
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return engineConfig{}, fmt.Errorf("it runs on linux/amd64 and linux/arm64 only: %s", other)
	}
	for program, why := range map[string]string{"go": "the engine is built with it", "npm": "llama.cpp is fetched with it"} {
		if _, err := exec.LookPath(program); err != nil {
			return engineConfig{}, fmt.Errorf("%w (%s): install it, or %s", err, why, other)
		}
	}
	here, err := os.Getwd()
	if err != nil {
		return engineConfig{}, err
	}
	source, ok := checkout(here)
	if !ok {
		return engineConfig{}, fmt.Errorf("it is built from integrations/llamacpp of a checkout of modeltier, and there is none at or above %s: start the server in one, or %s", here, other)
	}
	cache, err := cacheFolder(llamacpp)
	if err != nil {
		return engineConfig{}, err
	}
	program, err := buildEngine(ctx, source, cache, stderr)
	if err != nil {
		return engineConfig{}, err
	}
	libs, err := output(ctx, stderr, cache, program, "-fetch")
	if err != nil {
		return engineConfig{}, fmt.Errorf("llama.cpp cannot be fetched: %w", err)
	}
	return engineConfig{
		Command: []string{program, "-m", "{path}", "-port", "{port}", "-libs", libs, "-c", "{context}", "-t", "{threads}"},
		Context: 512,
		// With more than one thread llama.cpp waits in a spin for each to have done its
		// share, which takes long where others want the processors too.
		Threads: 1,
	}, nil
}

// checkout returns the folder of the engine's module in the checkout that a folder
// lies in.
func checkout(dir string) (source string, ok bool) {
	for {
		source = filepath.Join(dir, "integrations", llamacpp)
		if b, err := os.ReadFile(filepath.Join(source, "go.mod")); err == nil && bytes.HasPrefix(b, []byte("module github.com/modeltier/modeltier/integrations/llamacpp\n")) {
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
	return program, os.Rename(built, program)
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
