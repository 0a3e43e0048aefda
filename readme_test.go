package modeltier_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The README's Go snippet is the body of Example, which runs.
func TestREADME_GoSnippet_IsTheExampleThatRuns(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) != 1 {
		t.Fatalf("%d Go snippets in the README, want 1", len(blocks))
	}
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	if !strings.Contains(squeeze(string(example)), squeeze(blocks[0][1])) {
		t.Error("the README's snippet does not stand in example_test.go")
	}
}
