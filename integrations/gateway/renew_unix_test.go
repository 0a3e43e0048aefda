//go:build unix

package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
	"github.com/modeltier/modeltier/tier/process"
)

// smallEngine is the engine of the model small.
func (f *front) smallEngine() process.ModelStatus {
	for _, e := range f.engines.Status().Engines {
		if e.Name == "small" {
			return e
		}
	}
	return process.ModelStatus{}
}

func TestProxy_EngineHangs_IsRenewedAndTheNextRequestIsServed(t *testing.T) {
	soon := config.Duration(200 * time.Millisecond)
	for name, set := range map[string]func(*config.Engine){
		"InItsAnswer": func(e *config.Engine) { e.SilenceLimit = soon },
		"Idle":        func(e *config.Engine) { e.IdleCheck = &soon },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFront(t, set)
			const once, endless = `{"model":"small","prompt":"short"}`, `{"model":"small","prompt":"on and on"}`
			enginetest.Whole(t, f.post(t, t.Context(), "/v1/chat/completions", once))
			var answer io.Reader = strings.NewReader("")
			if name == "InItsAnswer" {
				res := f.post(t, t.Context(), "/v1/chat/completions", endless)
				if _, err := res.Body.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				answer = res.Body
			}
			if err := syscall.Kill(f.smallEngine().Pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, answer) // until it is cut
			limit := time.Now().Add(20 * time.Second)
			for f.smallEngine().Renewals == 0 || f.smallEngine().State != process.Stopped {
				if time.Now().After(limit) {
					t.Fatalf("%+v", f.smallEngine())
				}
				time.Sleep(time.Millisecond)
			}
			if e := f.smallEngine(); !strings.Contains(e.Renewed, "answers nobody") {
				t.Errorf("Status says %+v", e)
			}
			// The Manager may not have been told yet: then it says when to come back.
			for {
				res := f.post(t, t.Context(), "/v1/chat/completions", once)
				if res.StatusCode == http.StatusOK {
					break
				}
				if res.StatusCode != http.StatusServiceUnavailable || time.Now().After(limit) {
					t.Fatalf("the next request: %d %s", res.StatusCode, enginetest.Whole(t, res))
				}
			}
		})
	}
}
