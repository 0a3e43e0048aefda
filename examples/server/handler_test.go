package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/examples/server/demo"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/mapped"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// site is a server in this process.
type site struct {
	*httptest.Server
	manager *modeltier.Manager
	lib     *library
	token   string
}

// made is a demo library that is 1/4096 of the real one. To flush it to disk
// takes a while, so it is made once, and copied.
var made = demo.Library{Scale: demo.MaxScale}

func TestMain(m *testing.M) {
	if port := os.Getenv(fakePort); port != "" {
		fmt.Fprintln(os.Stderr, fakeEngine(port))
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "demo")
	if err == nil {
		made.Dir = dir
		err = made.Make(context.Background(), nil)
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// plenty is a machine that has memory, whatever else this one is doing.
func plenty() tier.MemoryProbe {
	return tiertest.NewProbe(tier.Memory{Total: 8 * tier.GiB, Available: 8 * tier.GiB})
}

// newSite serves a copy of the demo library, and the models that are given.
func newSite(t *testing.T, token string, models ...tier.Model) *site {
	t.Helper()
	d := demo.Library{Dir: t.TempDir(), Scale: made.Scale}
	if err := os.CopyFS(d.Dir, os.DirFS(made.Dir)); err != nil {
		t.Fatal(err)
	}
	lib := &library{dir: d.Dir, models: append(d.Models(), models...), limits: d.Limits(), spare: d.Spare()}
	weights, err := mapped.New(mapped.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := modeltier.New(modeltier.Config{Models: lib.models, Limits: lib.limits, ModelDir: lib.dir, Mover: weights, Probe: plenty()})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{httptest.NewServer(guard(token, handler(m, weights))), m, lib, token}
	t.Cleanup(func() {
		s.Close()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// do sends a request and returns the answer's status and body.
func (s *site) do(t *testing.T, method, path string, body []byte) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if s.token != "" {
		req.Header.Set("Authorization", "Bearer "+s.token)
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, out
}

// object sends a request and returns the JSON object that it is answered with.
func (s *site) object(t *testing.T, method, path string, body string) (int, map[string]any) {
	t.Helper()
	status, raw := s.do(t, method, path, []byte(body))
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%s %s: %d %q: %v", method, path, status, raw, err)
	}
	return status, v
}

// Each request that a new user is told to try does what it says.
func TestServer_WhatItSaysToTry_Works(t *testing.T) {
	s := newSite(t, "")
	keys := map[string]string{ // a key of the answer, by the request's first
		"list_models": "total_models", "model": "selection_reason", "auto_select": "selection_reason",
		"capabilities": "selection_reason", "preferred_model": "selection_reason", "hot_load": "estimated_time",
		"load_status": "progress", "move_tier": "source_tier", "tier_job_status": "target_tier",
		"tier_status": "tiers", "update_limits": "new_limits", "auto_optimize": "optimizations",
	}
	// Served, it has come home: a move that runs is not to be overtaken.
	if status, a := s.object(t, "GET", "/v1/models/"+s.lib.models[0].Name+"/digest", ""); status != http.StatusOK {
		t.Fatal(a)
	}
	job := ""
	for _, request := range s.lib.requests(s.lib.limits) {
		request = strings.ReplaceAll(request, "JOB", job)
		status, answer := s.object(t, "POST", "/", request)
		if status != http.StatusOK || answer["status"] == "error" || answer["status"] == "failed" {
			t.Errorf("%s: %d %v", request, status, answer)
			continue
		}
		var asked map[string]json.RawMessage
		if err := json.Unmarshal([]byte(request), &asked); err != nil {
			t.Fatal(err)
		}
		for key := range asked {
			if want, ok := keys[key]; ok && answer[want] == nil {
				t.Errorf("%s: no %s in %v", request, want, answer)
			}
			delete(keys, key)
		}
		if id, ok := answer["job_id"].(string); ok {
			job = id
			if j, ok := s.manager.Job(id); !ok || j.Wait(t.Context()) != nil {
				t.Errorf("%s: job %s: %v", request, id, j.Err())
			}
		}
	}
	if len(keys) > 0 {
		t.Errorf("of these requests there is no example: %v", keys)
	}
}

func TestServer_EveryPath_AnswersJSON(t *testing.T) {
	s := newSite(t, "")
	for _, c := range []struct {
		method, path string
		status       int
		key          string
	}{
		{"GET", "/v1/models", 200, "data"},
		{"GET", "/healthz", 200, "status"},
		{"GET", "/readyz", 200, "status"},
		{"GET", "/status", 200, "limits"},
		{"GET", "/v1/models/gpt2-small/digest", 200, "sha256"},
		{"GET", "/v1/models/gpt2-small", 404, "reason"},
		{"GET", "/v1/models/", 404, "reason"},
		{"GET", "/v1/models/digest", 404, "reason"},
		{"GET", "/v1/models//digest", 404, "reason"},
		{"POST", "/v1/models/gpt2-small/digest", 404, "reason"},
		{"GET", "/", 405, "reason"},
		{"GET", "/nothing", 404, "reason"},
		{"POST", "/", 200, "reason"}, // no JSON: an error of the contract
	} {
		status, answer := s.object(t, c.method, c.path, "")
		if status != c.status || answer[c.key] == nil {
			t.Errorf("%s %s: %d %v, want %d with %s", c.method, c.path, status, answer, c.status, c.key)
		}
	}
}

func TestServer_HotLoadFromOutsideTheFolder_IsRefused(t *testing.T) {
	s := newSite(t, "")
	other := filepath.Join(t.TempDir(), "other.gguf")
	for _, path := range []string{"../other.gguf", other, "/etc/passwd", "no-such.gguf"} {
		_, answer := s.object(t, "POST", "/", fmt.Sprintf(`{"hot_load": {"model_name": "other", "model_config": {"path": %q, "tier": "ram", "capabilities": ["x"]}}}`, path))
		if answer["status"] != "error" || answer["code"] != "invalid_request" {
			t.Errorf("%s: %v", path, answer)
		}
	}
}

func TestServer_BodyTooLarge_IsRefused(t *testing.T) {
	s := newSite(t, "")
	status, body := s.do(t, "POST", "/", bytes.Repeat([]byte(" "), 1<<20+1))
	if status != http.StatusRequestEntityTooLarge || !bytes.Contains(body, []byte(`"error"`)) {
		t.Errorf("%d %s", status, body)
	}
}
