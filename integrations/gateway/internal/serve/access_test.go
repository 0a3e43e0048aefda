package serve

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/integrations/gateway/access"
	"github.com/modeltier/modeltier/integrations/gateway/config"
)

// guarded is h as this machine may ask it; with a token, as its holder may.
func guarded(t *testing.T, token string, h http.Handler) http.Handler {
	t.Helper()
	admitted, err := accessOf(token, &config.File{}, true, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	guard, err := access.New(admitted)
	if err != nil {
		t.Fatal(err)
	}
	return guard.Handler(h)
}

func TestRun_PublicAddressWithoutToken_EndsBeforeItMakesAnything(t *testing.T) {
	cache := t.TempDir()
	for _, name := range []string{"XDG_CACHE_HOME", "HOME", "LocalAppData"} {
		t.Setenv(name, cache)
	}
	for _, addr := range []string{"0.0.0.0:0", "127.0.0.1:0,0.0.0.0:0"} {
		err := run(t.Context(), t.Context(), nil, &options{demo: true, addr: addr, scale: 4096}, noEnv, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tokenVariable) || !strings.Contains(err.Error(), "-addr") {
			t.Errorf("%s: got %v", addr, err)
		}
	}
	if there, err := os.ReadDir(cache); err != nil || len(there) > 0 {
		t.Errorf("it made %v, %v", there, err)
	}
}

func TestRun_TokenOfTheEnvironment_IsNotLeftThereForEngines(t *testing.T) {
	t.Setenv(tokenVariable, "secret")
	if err := run(t.Context(), t.Context(), nil, &options{demo: true, addr: "nowhere", scale: 4096}, os.LookupEnv, io.Discard, io.Discard); err == nil {
		t.Fatal("it ran")
	}
	if _, left := os.LookupEnv(tokenVariable); left {
		t.Error("it is there")
	}
}

func TestToken_IsGoodForEverything(t *testing.T) {
	s := newSite(t, "the-secret")
	for _, want := range []int{200, 401} {
		for _, path := range []string{"/", "/status", "/v1/models", "/v1/models/gpt2-small/digest"} {
			if status, body := s.do(t, "GET", path, nil); status != want {
				t.Errorf("GET %s with %q: %d %s", path, s.token, status, body)
			}
		}
		if status, a := s.object(t, "POST", "/", `{"move_tier": {"model_name": "gpt2-small", "target_tier": "storage"}}`); status != want || want == 401 && a["code"] != "unauthorized" {
			t.Errorf("POST / with %q: %d %v", s.token, status, a)
		}
		s.token = "wrong"
	}
	if status, a := s.object(t, "POST", "/v1/chat/completions", "{}"); status != 401 || a["error"].(map[string]any)["code"] != "unauthorized" {
		t.Errorf("chat: %d %v", status, a)
	}
}
