package ctl

import (
	"net/http"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/tier"
	"github.com/spf13/cobra"
)

func TestCommand_Wrong_IsUsage(t *testing.T) {
	run := at(t, "http://127.0.0.1:1")
	for args, words := range map[string]string{
		"lod small":             "did you mean load?",
		"lod --timeout 3s":      "did you mean load?",
		"--server :1 lod --foo": "did you mean load?",
		"list":                  "did you mean ls?",
		"stop a":                "did you mean unload?",
		"run a":                 "did you mean load?",
		"frobnicate":            `no command "frobnicate"`,
		"ps extra":              `ps takes no arguments`,
		"load":                  "load needs MODEL",
		"load a b":              `load takes MODEL and no more: "b"`,
		"load a -timeot 3":      "unknown flag: --timeot; did you mean --timeout?",
		"--nonsense ps":         "unknown flag: --nonsense",
		"load a --timeout":      "needs an argument",
		"load --timeout x a":    "invalid argument",
		"version x":             "no arguments",
		"ps --server ftp://x":   "neither http nor https",
	} {
		got := run(strings.Fields(args)...)
		if got.code != exitUsage || !strings.Contains(got.stderr, words) || !strings.Contains(got.stderr, "--help says what there is") {
			t.Errorf("%s: %+v", args, got)
		}
	}
}

func TestCommand_FlagsStandBeforeOrAfter_WithOneDashOrTwo(t *testing.T) {
	url := serveModels(t).url
	run := at(t, "http://127.0.0.1:1")
	for _, args := range []string{
		"--server " + url + " --json ls", "-server " + url + " -json ls", "ls -json -server=" + url, "ls --server " + url + " --json",
	} {
		if got := decode[map[string]any](t, run(strings.Fields(args)...)); got["models"] == nil {
			t.Errorf("%s: %v", args, got)
		}
	}
}

func TestTwoDashes_TouchLongFlagsOnly(t *testing.T) {
	root := &cobra.Command{Use: "x"}
	AddTo(root)
	sub := &cobra.Command{Use: "s"}
	sub.Flags().BoolP("v", "v", false, "")
	root.AddCommand(sub)
	in := strings.Fields("-server u -h -v -vh -5 -nonsense -json=true --json - -ram reserve 1GB -- game -json")
	want := strings.Fields("--server u -h -v -vh -5 --nonsense --json=true --json - --ram reserve 1GB -- game -json")
	if got := twoDashes(root, in); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%q", got)
	}
}

func TestVersion_NeedsNoServer(t *testing.T) {
	run := at(t, "http://127.0.0.1:1")
	if got := run("version"); got.code != 0 || !strings.HasPrefix(got.out, "modeltier ") || !strings.Contains(got.out, "go1.") {
		t.Errorf("%+v", got)
	}
	for _, flag := range []string{"--version", "-version"} {
		if got := run(flag); got != run("version") {
			t.Errorf("%s: %+v", flag, got)
		}
	}
	if got := decode[build](t, run("version", "--json")); got.Go == "" || got.Version == "" {
		t.Errorf("%+v", got)
	}
}

func TestCompletion_NamesComeFromTheServer(t *testing.T) {
	l := serveModels(t)
	if err := l.SetAlias(t.Context(), "special", "large"); err != nil {
		t.Fatal(err)
	}
	run := at(t, l.url)
	for args, want := range map[string]string{
		"load s":            "small\tin storage\nspecial\tin storage\n:4\n",
		"load small ":       ":4\n",
		"unload small s":    "special\tin storage\n:4\n",
		"move small r":      "ram\nswap\nstorage\n:4\n",
		"ps ":               ":4\n",
		"reserve ":          ":4\n",
		"reserve 1GB -- a ": ":0\n",
	} {
		if got := run(append([]string{"__complete"}, strings.Split(args, " ")...)...); got.out != want {
			t.Errorf("%q: %q, want %q", args, got.out, want)
		}
	}
	// Into a command line nothing is said of a server that is not there.
	for _, url := range []string{"http://127.0.0.1:1", answering(t, http.StatusOK, "text/html", "<html>"), "ftp://x"} {
		if got := at(t, url)("__complete", "load", "s"); got.code != 0 || got.out != ":4\n" {
			t.Errorf("%s: %+v", url, got)
		}
	}
}

func TestClean_WhatSteersATerminal_Goes(t *testing.T) {
	if got := clean("a\x1b[2J\rb\u202e\n"); strings.ContainsAny(got, "\x1b\r\n\u202e") {
		t.Errorf("%q", got)
	}
}

func TestParseSize_WithAndWithoutUnits(t *testing.T) {
	for text, want := range map[string]tier.Bytes{"5GB": 5 * gib, "320 MiB": 320 * tier.MiB, "0.5g": gib / 2, "0": 0, "none": 0} {
		s := size{}
		if err := s.Set(text); err != nil || s.bytes != want || !s.said {
			t.Errorf("%s: %+v, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "GB", "5", "5XB", "-1GB", "1e99GB", "1.2.3GB"} {
		if err := (&size{}).Set(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
