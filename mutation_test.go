package modeltier_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestMutations_FiveBugsPlanted_EachIsCaught builds the tests with faults that can
// be planted (internal/core/mutation.go), runs the property test with each of
// them, and wants it to fail in the way that the fault shows. Without a fault it
// passes.
func TestMutations_FiveBugsPlanted_EachIsCaught(t *testing.T) {
	if os.Getenv("MODELTIER_LONG") == "" {
		t.Skip("takes minutes of a quiet machine: MODELTIER_LONG=1 runs it")
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skipf("the faults are built in by the go tool: %v", err)
	}
	if testing.Short() {
		t.Skip("builds the tests anew, which takes a while")
	}
	tests := filepath.Join(t.TempDir(), "mutated.test")
	build := exec.CommandContext(t.Context(), tool, "test", "-c", "-tags", "mutation", "-o", tests, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for mutation, shows := range map[string]string{
		"":                     "PASS",
		"missed refund":        "moves and plans hold",
		"late refund":          "moves and plans hold",
		"double commit":        "the entries charge",
		"eviction under lease": `under \d+ leases|is leased from swap without|leases in storage`,
		"lost waiter":          "had no answer within|remembered:",
	} {
		t.Run(mutation, func(t *testing.T) {
			child := exec.CommandContext(t.Context(), tests, "-test.run=^TestManager_AnythingAtAnyTime_KeepsTheInvariants$",
				"-test.timeout=2m", "-rapid.nofailfile", "-rapid.shrinktime=1s", "-rapid.steps=100")
			child.Env = append(os.Environ(), "MODELTIER_MUTATION="+mutation, "MODELTIER_STEPS=20000")
			out, err := child.CombinedOutput()
			if caught := err != nil; caught != (mutation != "") || !regexp.MustCompile(shows).Match(out) {
				t.Errorf("error %v, want the tests to say %q, they say:\n%s", err, shows, out)
			}
		})
	}
}
