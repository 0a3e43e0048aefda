package serve

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/tier"
)

// jetsonPage returns the first block of that language of docs/jetson.md.
func jetsonPage(t *testing.T, language string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "docs", "jetson.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(strings.ReplaceAll(string(page), "\r\n", "\n"), "```"+language+"\n")
	block, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatalf("docs/jetson.md has no block of %s", language)
	}
	return block
}

func TestUnit_OfTheDocs_IsTheFileAndOneOfSystemd(t *testing.T) {
	b, err := os.ReadFile("../../modeltier.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := strings.ReplaceAll(string(b), "\r\n", "\n")
	if jetsonPage(t, "ini") != unit {
		t.Error("docs/jetson.md shows another unit than modeltier.service")
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd here: ", err)
	}
	path := filepath.Join(t.TempDir(), "modeltier.service")
	if err := os.WriteFile(path, []byte(strings.Replace(unit, "/opt/modeltier/modeltier", os.Args[0], 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	// What is wrong with it is a warning, and it may find faults with other units.
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", path).CombinedOutput()
	if err != nil || strings.Contains(string(out), path) {
		t.Errorf("%v: %s", err, out)
	}
}

func TestConfig_OfTheDocs_FitsTheirBoard(t *testing.T) {
	f, warnings, err := config.Parse("the configuration of docs/jetson.md", []byte(jetsonPage(t, "json")), t.TempDir())
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	if l := f.Limits.OrElse(tier.Limits{}); len(f.Models) != 3 || l.RAM != 5*tier.GiB || l.Swap != 10*tier.GiB || l.Reserved != tier.GiB {
		t.Errorf("it has %d models and the limits %+v", len(f.Models), l)
	}
}
