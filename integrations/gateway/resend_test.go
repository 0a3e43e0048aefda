package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/modeltier/modeltier/integrations/gateway/gatewaytest"
)

// A request that an engine takes and then drops is sent again once, however many
// connections are kept: a prompt that ends engines must not end them one by one.
func TestForward_EngineTakesAndDropsARequest_SentTwiceAtMost(t *testing.T) {
	const kept = 8
	var (
		together sync.WaitGroup // of the requests that have a connection each
		drops    atomic.Int32
	)
	together.Add(kept)
	engine := gatewaytest.Engine{}.Handler()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(gatewaytest.Fault) != "" {
			drops.Add(1)
		} else {
			together.Done()
			together.Wait()
		}
		engine.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	h := servedAt(t, s.URL)
	ask := func(fault string) int {
		r := httptest.NewRequest("POST", "/v1/completions", strings.NewReader(`{"model":"m","prompt":"x"}`))
		r.Header.Set(gatewaytest.Fault, fault)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	var all sync.WaitGroup
	for range kept {
		all.Go(func() {
			if code := ask(""); code != http.StatusOK {
				t.Errorf("%d", code)
			}
		})
	}
	all.Wait()
	if code := ask(gatewaytest.CloseBeforeAnswer); code != http.StatusBadGateway {
		t.Errorf("%d", code)
	}
	if n := drops.Load(); n > 2 {
		t.Errorf("the engine was sent it %d times", n)
	}
}
