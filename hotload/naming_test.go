package hotload

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

func TestNames_TakenOrTooLong_StillUniqueAndValid(t *testing.T) {
	n := make(names)
	seen := make(map[string]bool)
	long := strings.Repeat("模", 83) // 249 bytes
	for range 20 {
		for _, name := range []string{"a", long, strings.Repeat("x", tier.MaxNameLength)} {
			got := n.claim(name, filepath.Join("/models", strings.Repeat("d", 200)))
			if err := tier.CheckName("name", got); err != nil || seen[got] {
				t.Fatalf("claim(%.20q…) = %q, %v, seen before: %v", name, got, err, seen[got])
			}
			seen[got] = true
		}
	}
	if got := n.claim("b", "/models/x"); got != "b" {
		t.Errorf("a free name became %q", got)
	}
	if got := n.claim("b", "/models/x"); got != "x/b" {
		t.Errorf("a taken name became %q, want that with its folder", got)
	}
}

func TestFolderName_CacheOfAModelHub_IsTheRepository(t *testing.T) {
	for dir, want := range map[string]string{
		"/hub/models--org--some-name/snapshots/0123abcd": "org/some-name",
		"/hub/models--one/snapshots/0123abcd":            "one",
		"/hub/snapshots/0123abcd":                        "0123abcd",
		"/models/llama":                                  "llama",
	} {
		if got := folderName(filepath.FromSlash(dir)); got != want {
			t.Errorf("folderName(%q) = %q, want %q", dir, got, want)
		}
	}
}
