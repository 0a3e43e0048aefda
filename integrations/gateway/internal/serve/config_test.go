package serve

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/tier"
)

// Without a folder nothing can be saved, which the server says before it starts.
func TestConfig_SaveWithoutAState_IsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.json")
	text := `{"engines":{"e":{"command":["sh","{port}"],"save":{"path":"/s/{file}"},"restore":{"path":"/r/{file}"}}}%s}`
	for state, wants := range map[string]bool{"": true, `,"state":"x"`: false} {
		if err := os.WriteFile(path, fmt.Appendf(nil, text, state), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openConfig(t.Context(), &options{env: noEnv, config: path}, io.Discard); (err != nil) != wants || wants && !strings.Contains(err.Error(), `engines.e.save needs a folder`) {
			t.Errorf("%q: %v", state, err)
		}
	}
	if _, err := openConfig(t.Context(), &options{env: noEnv, config: path, stated: true}, io.Discard); err == nil {
		t.Error("-state none does not count")
	}
}

func TestConfig_FlagsGoBeforeTheFile_AndWarningsAreTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("limits: {ram: 3GiB, swap: 7GiB}\nstats: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	lib, err := openConfig(t.Context(), &options{env: noEnv, config: path, limits: tier.Limits{RAM: 2 * tier.GiB}}, &told)
	if err != nil || lib.limits.RAM != 2*tier.GiB || lib.limits.Swap != 7*tier.GiB || lib.limits.Reserved != config.MachineLimits(machine(t.Context())).Reserved {
		t.Errorf("%+v, %v", lib, err)
	}
	if got := told.String(); got != "warning: "+path+":2:1: unknown key 'stats' (did you mean 'state'?)\n" {
		t.Errorf("%q", got)
	}
}
