package modeltier_test

import (
	"context"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
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

// An operator who meets an error code has to find it in the operator's page.
func TestOperatorsPage_EveryCode_StandsInIt(t *testing.T) {
	page, err := os.ReadFile("docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		modeltier.ErrClosed, modeltier.ErrNotFound, modeltier.ErrExists, modeltier.ErrNoCapableModel, modeltier.ErrTooLarge,
		modeltier.ErrNoCapacity, modeltier.ErrBusy, modeltier.ErrInUse, modeltier.ErrLimits, modeltier.ErrStuck,
		modeltier.ErrInvalid, modeltier.ErrMove, modeltier.ErrPanic, context.Canceled, context.DeadlineExceeded,
	} {
		if row := "\n| `" + tier.Code(err) + "` |"; !strings.Contains(string(page), row) {
			t.Errorf("no row for the code %s", tier.Code(err))
		}
	}
}

// Status has the keys that the page names.
func TestOperatorsPage_KeysOfStatus_Exist(t *testing.T) {
	page, err := os.ReadFile("docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	table, _, _ := strings.Cut(string(page), "## The codes")
	keys := make(map[string]bool)
	for _, of := range []any{modeltier.Status{}, modeltier.TierStatus{}, modeltier.ModelStatus{}, tier.Memory{}, tier.Pressure{}} {
		for f := range reflect.TypeOf(of).Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			keys[name] = true
		}
	}
	seen := 0
	for _, row := range regexp.MustCompile("(?m)^\\| (`.*?) \\|").FindAllStringSubmatch(table, -1) {
		for _, key := range regexp.MustCompile("[a-z_]+").FindAllString(row[1], -1) {
			if seen++; !keys[key] {
				t.Errorf("Status has no key %q", key)
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d keys were found in the page", seen)
	}
}
