package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway"
	"github.com/modeltier/modeltier/integrations/gateway/access"
)

func TestScopeOf_Paths(t *testing.T) {
	const use, watch, manage = access.Use, access.Watch, access.Manage
	for _, c := range []struct {
		request string
		want    access.Scope
	}{
		{"POST /", manage},
		{"GET /", use | watch | manage},
		{"HEAD /", use | watch | manage},
		{"DELETE /", manage},
		{"GET /status", watch},
		{"POST /status", manage},
		{"GET /v1/models", use | watch},
		{"HEAD /models", use | watch},
		{"GET /v1/models/org/name", use | watch},
		{"GET /v1/models/org/name/digest", use},
		{"POST /v1/models", manage},
		{"DELETE /v1/models/m", manage},
		{"POST /models/load", manage},
		{"POST /models/unload", manage},
		{"POST /v1/reservations", manage},
		{"DELETE /v1/reservations/1", manage},
		{"GET /v1/reservations/1/../../chat/completions", manage},
		{"POST /v1/chat/completions", use},
		{"POST /v1/anything/else", use},
		{"POST /v/embeddings", use},
		{"POST /chat/completions", use},
		{"POST /completion", use},
		{"POST /audio/transcriptions", use},
		{"GET /props?model=m", use},
		{"GET /unload", manage},
		{"POST /api/models/unload", manage},
		{"GET //status", manage},
		{"POST /anything", manage},
		{"POST /STATUS", manage},
		{"GET /chatter", manage},
	} {
		method, url, _ := strings.Cut(c.request, " ")
		if got := gateway.ScopeOf(httptest.NewRequest(method, "http://h"+url, nil)); got != c.want {
			t.Errorf("%s: %v, want %v", c.request, got, c.want)
		}
	}
}

// guarded is the gateway without a model, behind keys of each scope.
func guarded(t *testing.T) http.Handler {
	t.Helper()
	m, err := modeltier.New(modeltier.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	guard, err := access.New(access.Options{
		Keys: []access.Key{
			{Name: "user", Secret: "secret-use", Scopes: []access.Scope{access.Use}},
			{Name: "watcher", Secret: "secret-watch", Scopes: []access.Scope{access.Watch}},
			{Name: "manager", Secret: "secret-manage", Scopes: []access.Scope{access.Manage}},
		},
		ScopeOf: gateway.ScopeOf, Deny: gateway.Deny,
	})
	if err != nil {
		t.Fatal(err)
	}
	return guard.Handler(gateway.New(m, gateway.Config{}))
}

// What answers requests to models, on whichever path, is not closed to those who may ask.
func TestScopeOf_WhatAsksModels_IsForUse(t *testing.T) {
	h := guarded(t)
	answers := 0
	for _, path := range []string{
		"/chat/completions", "/completions", "/responses", "/embeddings", "/rerank", "/reranking", "/audio/speech", "/audio/transcriptions", "/images/generations",
		"/images/edits", "/messages", "/messages/count_tokens", "/infill", "/completion", "/tokenize", "/detokenize", "/apply-template", "/audio/voices", "/props",
	} {
		for _, request := range []string{"POST ", "GET ", "POST /v1", "GET /v1", "POST /v"} {
			method, before, _ := strings.Cut(request, " ")
			for key, admitted := range map[string]bool{"secret-use": true, "secret-watch": false, "secret-manage": false} {
				r := httptest.NewRequest(method, before+path, strings.NewReader("{}"))
				r.Header.Set("X-Api-Key", key)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code == http.StatusBadRequest {
					answers++
				}
				if (w.Code != http.StatusForbidden) != admitted {
					t.Errorf("%s%s with %s: %d %s", request, path, key, w.Code, w.Body)
				}
			}
		}
	}
	if answers < 20 {
		t.Errorf("only %d of them are there", answers)
	}
}

func TestDeny_InTheShapeOfThePath(t *testing.T) {
	h := guarded(t)
	for path, want := range map[string]string{
		"/v1/chat/completions": `"error":{"message":"The key is missing or wrong","type":"authentication_error"`,
		"/status":              `"status":"error"`,
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != http.StatusUnauthorized || !strings.Contains(w.Body.String(), want) || !strings.Contains(w.Body.String(), "Authorization: Bearer KEY") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestGuarded_Probes_AnswerWithoutAKey(t *testing.T) {
	h := guarded(t)
	for _, path := range []string{"/healthz", "/readyz", "/health"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}
