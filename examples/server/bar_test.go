package main

import (
	"strings"
	"testing"

	"github.com/modeltier/modeltier/examples/server/demo"
	"github.com/modeltier/modeltier/tier"
)

func TestBar_NoTerminal_ALineForEachFile(t *testing.T) {
	var out strings.Builder
	b := newBar(&out, "making it")
	for _, p := range []demo.Progress{
		{File: "a", Done: tier.MiB, Total: 8 * tier.MiB}, {File: "a", Done: 4 * tier.MiB, Total: 8 * tier.MiB}, {File: "b", Done: 8 * tier.MiB, Total: 8 * tier.MiB},
	} {
		b.show(p)
	}
	b.end()
	const want = "making it: 8.0 MiB, once\nwriting a (1.0 MiB of 8.0 MiB done)\nwriting b (8.0 MiB of 8.0 MiB done)\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestBar_Terminal_OneLineThatFits(t *testing.T) {
	var out strings.Builder
	b := newBar(&out, "making it")
	b.terminal = true
	b.show(demo.Progress{File: "gpt2-medium.gguf", Done: 0, Total: 1023 * tier.MiB})
	b.show(demo.Progress{File: "gpt2-medium.gguf", Done: 1023 * tier.MiB, Total: 1023 * tier.MiB})
	b.end()
	_, bars, _ := strings.Cut(out.String(), "\n")
	frames := strings.Split(strings.TrimSuffix(bars, "\n"), "\r")[1:]
	if len(frames) != 2 || !strings.HasPrefix(frames[0], "[........................]   0%") || !strings.HasPrefix(frames[1], "[########################] 100%") {
		t.Errorf("got %q", frames)
	}
	for _, f := range frames {
		if len(f) >= 80 {
			t.Errorf("%d columns: %q", len(f), f)
		}
	}
}

func TestBar_NothingToMake_SaysNothing(t *testing.T) {
	var out strings.Builder
	b := newBar(&out, "making it")
	b.terminal = true
	b.end()
	if out.Len() > 0 {
		t.Errorf("got %q", out.String())
	}
}
