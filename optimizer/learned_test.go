package optimizer_test

import (
	"os"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
)

var development = []string{"azure19_a50", "edge8_azure_a", "edge8_gentd_nov", "edge8_servegen", "gentd26_early", "gentd26_nov", "servegen_w1"}

func TestReplay(t *testing.T) {
	if os.Getenv("MODELTIER_LONG") == "" {
		t.Skip("takes minutes: MODELTIER_LONG=1 runs it")
	}
	for _, name := range development {
		if f := os.Getenv("TR"); !strings.Contains(name, f) {
			continue
		}
		tr := readTrace(t, name, true)
		for _, p := range []tier.Placement{optimizer.New()} {
			t.Logf("%s %T %+v", name, p, replay(t, tr, 5, 10, p, silent))
		}
	}
}
