package config

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]tier.Bytes{
		"0": 0, "0GB": 0, "17B": 17, "1k": tier.KiB, "1.5KiB": 1536, "320MiB": 320 * tier.MiB, "320mb": 320 * tier.MiB, "5GB": 5 * tier.GiB,
		"5 GiB": 5 * tier.GiB, "0.5G": tier.GiB / 2, ".5g": tier.GiB / 2, "2TB": 2048 * tier.GiB,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GB", "5", "-1GB", "+1GB", "1e3GB", "0x5GB", "inf", "1,5GB", "1.2.3GB", "5XB", "5GBGB", "1_000MB", "9e999TB", strings.Repeat("9", 400) + "GB"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, seed := range []string{"5GB", "0.5 G", "320MiB", "0", "-1GB", "..GB"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if b, err := ParseSize(text); err == nil && b < 0 {
			t.Errorf("%q is %d", text, b)
		}
	})
}

func TestSplitWords_AsAShellDoes(t *testing.T) {
	sh, err := exec.LookPath("sh")
	for command, want := range map[string][]string{
		"llama-server -m {path} --port {port}":     {"llama-server", "-m", "{path}", "--port", "{port}"},
		"  a\tb  c  ":                              {"a", "b", "c"},
		`'/my models/server' -x`:                   {"/my models/server", "-x"},
		`"/my models/server" "" ''`:                {"/my models/server", "", ""},
		`a\ b 'c'"d"e`:                             {"a b", "cde"},
		`"a\"b" "a\\b" "a\nb" "a\$b" 'a\'`:         {`a"b`, `a\b`, `a\nb`, `a$b`, `a\`},
		"a \\\n-b \"c\\\nd\"":                      {"a", "-b", "cd"},
		`--json '{"a": "$x|y"}' a~ a#b x=1`:        {"--json", `{"a": "$x|y"}`, "a~", "a#b", "x=1"},
		`-ot '.*=CPU' \* "?" '[' "it's" 'say "x"'`: {"-ot", ".*=CPU", "*", "?", "[", "it's", `say "x"`},
	} {
		got, fault := splitWords(command)
		if fault != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v, want %q", command, got, fault, want)
		}
		if err != nil {
			continue
		}
		out, err := exec.CommandContext(t.Context(), sh, "-c", `printf '%s\037' `+strings.TrimSpace(command)).Output()
		if words := strings.Split(strings.TrimSuffix(string(out), "\037"), "\037"); err != nil || !slices.Equal(words, want) {
			t.Errorf("%s: the shell says %q, %v", command, words, err)
		}
	}
}

func TestSplitWords_WhatOnlyAShellCouldDo_IsAnError(t *testing.T) {
	for command, says := range map[string]string{
		"":           "empty",
		"  ":         "empty",
		`a 'b`:       "' is not closed",
		`a "b`:       `" is not closed`,
		`a "b\`:      `after its last \`,
		`a \`:        `after its last \`,
		"a $HOME":    "'$'",
		`a "$HOME"`:  "'$'",
		"a `b`":      "'`'",
		"a | b":      "'|'",
		"a && b":     "'&'",
		"a > log":    "'>'",
		"a *.gguf":   "'*'",
		"~/bin/x -m": "'~'",
		"a # b":      "'#'",
	} {
		if got, err := splitWords(command); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %q, %v, want an error that says %q", command, got, err, says)
		}
	}
}

func FuzzSplitWords(f *testing.F) {
	f.Add(`a 'b' "c\"" \d`)
	f.Fuzz(func(t *testing.T, text string) {
		splitWords(text)
		quoted := "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
		if got, err := splitWords("x " + quoted); err != nil || !slices.Equal(got, []string{"x", text}) {
			t.Errorf("%q, quoted, is %q, %v", text, got, err)
		}
	})
}
