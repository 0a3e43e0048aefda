package gateway_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway"
	"github.com/modeltier/modeltier/modeltiertest"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// What the list of the Manager's own Handler says, this one says too.
func TestModels_SayAllThatTheManagersListSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := modeltiertest.NewManager(t,
			tier.Model{Name: "a", Size: 2 * tier.GiB, Home: tier.Swap, Pinned: true, Capabilities: []string{"code"}, Labels: map[string]string{"context_length": "4096"}, Version: "sha256:" + strings.Repeat("ab", 32)},
			tier.Model{Name: "b", Size: tier.GiB / 2})
		if err := m.SetAlias(t.Context(), "other", "a"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		h := gateway.New(m.Manager, gateway.Config{})
		type list struct{ Data []map[string]any }
		var own, ours list
		read := func(into any, path string, own bool) {
			t.Helper()
			w := httptest.NewRecorder()
			if r := httptest.NewRequest("GET", path, nil); own {
				m.Handler().ServeHTTP(w, r)
			} else {
				h.ServeHTTP(w, r)
			}
			if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
				t.Fatal(err)
			}
		}
		read(&own, "/v1/models", true)
		read(&ours, "/v1/models", false)
		if len(own.Data) != 2 || len(ours.Data) != 2 {
			t.Fatalf("%d and %d models", len(own.Data), len(ours.Data))
		}
		for i, want := range own.Data {
			got := ours.Data[i]
			for key, value := range want {
				if diff := cmp.Diff(value, got[key]); diff != "" {
					t.Errorf("%s of %v: %s", key, got["id"], diff)
				}
			}
			var one map[string]any
			if read(&one, "/v1/models/"+want["id"].(string), false); !cmp.Equal(one, got) {
				t.Errorf("by its name: %v, in the list: %v", one, got)
			}
		}
		if got := ours.Data[0]["context_length"]; got != 4096.0 {
			t.Errorf("the context is %v", got)
		}
	})
}

func TestModels_DigestOfAnEngine_IsNotSupported(t *testing.T) {
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "m", Size: tier.GiB}}, Mover: enginesAt("http://127.0.0.1:1"),
		Probe: tiertest.NewProbe(tier.Memory{Total: 8 * tier.GiB, Available: 8 * tier.GiB}),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	w := httptest.NewRecorder()
	gateway.New(m, gateway.Config{}).ServeHTTP(w, httptest.NewRequest("GET", "/v1/models/m/digest", nil))
	if w.Code != http.StatusNotImplemented || !strings.Contains(w.Body.String(), `"code":"not_supported","suggestions":["A digest is of files`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
