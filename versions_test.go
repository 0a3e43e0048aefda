package modeltier_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// written writes a file of a MiB that is all of one byte, and returns its path.
func written(t testing.TB, path string, content byte) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Repeat(string(rune(content)), 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReconfigure_FileTouchedOrOverwritten_OnlyOtherContentIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := written(t, filepath.Join(t.TempDir(), "a"), '1')
		cfg := onlyRAM(tier.Model{Name: "a", Path: path, Size: tier.GiB})
		r := newRig(t, cfg)
		first := r.model("a").Version
		var list struct {
			Models map[string]struct{ Version string }
		}
		if err := json.Unmarshal(r.HandleRequest(t.Context(), []byte(`{"list_models": true}`)), &list); err != nil || list.Models["a"].Version != first || first == "" {
			t.Errorf("the list says %+v, Status %q, %v", list, first, err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		wantReconfiguration(t, r.reconfigured(cfg.Limits, cfg.Models...), modeltier.Reconfiguration{})
		written(t, path, '2')
		wantReconfiguration(t, r.reconfigured(cfg.Limits, cfg.Models...), modeltier.Reconfiguration{Replaced: []string{"a"}})
		time.Sleep(time.Second)
		if now := r.model("a").Version; now == first || now == "" {
			t.Errorf("version %q, it was %q", now, first)
		}
	})
}
