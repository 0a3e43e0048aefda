package serve

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/examples/demo"
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
	"github.com/modeltier/modeltier/tier"
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
	enginetest.Main()
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

// newSite serves a copy of the demo library, and the models that are given.
func newSite(t *testing.T, token string, models ...tier.Model) *site {
	t.Helper()
	d := demo.Library{Dir: t.TempDir(), Scale: made.Scale}
	if err := os.CopyFS(d.Dir, os.DirFS(made.Dir)); err != nil {
		t.Fatal(err)
	}
	lib := &library{file: &config.File{}, dir: d.Dir, models: append(d.Models(), models...), limits: d.Limits(), spare: d.Spare()}
	lib.probe = enginetest.Plenty()
	r := &reloader{}
	h, err := startFiles(lib, r, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	m := r.manager
	s := &site{httptest.NewServer(guarded(t, token, h)), m, lib, token}
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

// problemIn returns the error of an answer as OpenAI's clients read it.
func problemIn(answer map[string]any) map[string]any {
	p, _ := answer["error"].(map[string]any)
	return p
}

func TestServer_DigestByAlias_IsTheModels(t *testing.T) {
	s := newSite(t, "")
	name := s.lib.models[0].Name
	if status, a := s.object(t, "POST", "/", `{"alias": {"name": "nickname", "model_name": "`+name+`"}}`); status != http.StatusOK {
		t.Fatal(a)
	}
	if status, a := s.object(t, "GET", "/v1/models/nickname/digest", ""); status != http.StatusOK || a["model"] != name {
		t.Errorf("%d %v", status, a)
	}
}

// Each request that a new user is told to try does what it says.
func TestServer_WhatItSaysToTry_Works(t *testing.T) {
	s := newSite(t, "")
	keys := map[string]string{ // a key of the answer, by the request's first
		"list_models": "total_models", "model": "selection_reason", "auto_select": "selection_reason",
		"capabilities": "selection_reason", "preferred_model": "selection_reason", "hot_load": "estimated_time",
		"load_status": "progress", "move_tier": "source_tier", "tier_job_status": "target_tier",
		"tier_status": "tiers", "update_limits": "new_limits", "auto_optimize": "optimizations",
		"alias": "model_name", "pin": "pinned", "unload": "job_id", "reserve": "granted_gb", "release": "reservation", "remove": "job_id",
	}
	// Served, it has come home: a move that runs is not to be overtaken.
	if status, a := s.object(t, "GET", "/v1/models/"+s.lib.models[0].Name+"/digest", ""); status != http.StatusOK {
		t.Fatal(a)
	}
	job, reservation := "", ""
	for _, request := range s.lib.requests(s.lib.models[0].Name, s.lib.models[len(s.lib.models)-1].Name, s.lib.limits) {
		request = strings.ReplaceAll(strings.ReplaceAll(request, "JOB", job), "RESERVATION", reservation)
		status, answer := s.object(t, "POST", "/", request)
		for range 100 { // a model that moves in the background cannot be removed yet
			if answer["code"] != "in_use" {
				break
			}
			time.Sleep(50 * time.Millisecond)
			status, answer = s.object(t, "POST", "/", request)
		}
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
		reservation, _ = answer["reservation"].(string)
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
		{"GET", "/v1/models/gpt2-small", 200, "id"},
		{"GET", "/v1/models/gpt2-smal", 404, "error"},
		{"GET", "/v1/models/", 404, "error"},
		{"GET", "/v1/models/digest", 404, "error"},
		{"GET", "/v1/models//digest", 404, "error"},
		{"POST", "/v1/models/gpt2-small/digest", 405, "error"},
		{"GET", "/", 200, "status"},
		{"GET", "/nothing", 404, "reason"},
		{"POST", "/", 200, "reason"}, // no JSON: an error of the contract
	} {
		status, answer := s.object(t, c.method, c.path, "")
		if status != c.status || answer[c.key] == nil {
			t.Errorf("%s %s: %d %v, want %d with %s", c.method, c.path, status, answer, c.status, c.key)
		}
	}
}

func TestServer_WithoutEngine_ClientsOfOpenAIAreToldSo(t *testing.T) {
	s := newSite(t, "")
	for _, path := range []string{"/v1/chat/completions", "/v1/completions", "/v1/embeddings"} {
		status, answer := s.object(t, "POST", path, `{"model": "gpt2-small"}`)
		problem := problemIn(answer)
		if message, _ := problem["message"].(string); status != http.StatusNotImplemented || problem["code"] != "no_engine" || !strings.Contains(message, "no engine") || problem["suggestions"] == nil {
			t.Errorf("%s: %d %v", path, status, answer)
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

func sumOfFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Whatever tier a model is in, and however often it moves, its weights are those
// of the file.
func TestDigest_FromEveryTier_IsThatOfTheFile(t *testing.T) {
	s := newSite(t, "")
	for _, m := range s.lib.models {
		want := sumOfFile(t, m.Path)
		for _, to := range []tier.Tier{tier.Storage, tier.Swap, tier.RAM} {
			job, err := s.manager.MoveTier(t.Context(), m.Name, to)
			if err == nil {
				err = job.Wait(t.Context())
			}
			if err != nil {
				t.Logf("%s stays where it is: %v", m.Name, err) // it is there, or it is too large
			}
			status, a := s.object(t, "GET", "/v1/models/"+m.Name+"/digest", "")
			if status != http.StatusOK || a["sha256"] != want || a["model"] != m.Name || a["bytes"] != float64(m.Size) {
				t.Errorf("%s in %v: %d %v, want sha256 %s", m.Name, to, status, a, want)
				continue
			}
			if a["tier"] != "ram" && a["tier"] != "swap" || a["gb_per_second"].(float64) <= 0 || a["waited_seconds"].(float64) < 0 {
				t.Errorf("%s in %v: %v", m.Name, to, a)
			}
		}
	}
}

func TestDigest_ModelInStorage_SaysThatItWaitedForALoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weights")
	if err := os.WriteFile(path, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, "", tier.Model{Name: "cold", Path: path, Capabilities: []string{"x"}}) // at home in storage
	if _, first := s.object(t, "GET", "/v1/models/cold/digest", ""); first["moved"] != true || first["waited_seconds"].(float64) <= 0 {
		t.Errorf("%v", first)
	}
}

func TestDigest_NamesWithSlashesAndOddSigns(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ name, path string }{
		{"org/model", "/v1/models/org/model/digest"},
		{"org/model", "/v1/models/org%2Fmodel/digest"},
		{"a/digest", "/v1/models/a/digest/digest"},
		{"a//b", "/v1/models/a%2F%2Fb/digest"},
		{"..", "/v1/models/%2E%2E/digest"},
		{"50% größer?#", "/v1/models/50%25%20gr%C3%B6%C3%9Fer%3F%23/digest"},
	} {
		t.Run(c.path, func(t *testing.T) {
			path := filepath.Join(dir, "weights")
			if err := os.WriteFile(path, []byte(c.name), 0o600); err != nil {
				t.Fatal(err)
			}
			s := newSite(t, "", tier.Model{Name: c.name, Path: path, Capabilities: []string{"x"}})
			status, a := s.object(t, "GET", c.path, "")
			if status != http.StatusOK || a["model"] != c.name || a["sha256"] != sumOfFile(t, path) {
				t.Errorf("%d %v", status, a)
			}
		})
	}
}

func TestDigest_SeveralFiles_IsThatOfOneBehindTheOther(t *testing.T) {
	dir := t.TempDir()
	sum := sha256.New()
	for i := range 3 {
		part := []byte(fmt.Sprintf("part %d of the weights", i))
		sum.Write(part)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.bin", i)), part, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := newSite(t, "", tier.Model{Name: "parts", Path: dir, Capabilities: []string{"x"}})
	if _, a := s.object(t, "GET", "/v1/models/parts/digest", ""); a["sha256"] != hex.EncodeToString(sum.Sum(nil)) {
		t.Errorf("%v", a)
	}
}

func TestDigest_UnknownModel_IsNotFound(t *testing.T) {
	s := newSite(t, "")
	status, a := s.object(t, "GET", "/v1/models/gpt2-smal/digest", "")
	if p := problemIn(a); status != http.StatusNotFound || p["code"] != "not_found" || len(p["suggestions"].([]any)) == 0 {
		t.Errorf("%d %v", status, a)
	}
}

// A file that is cut short while it is mapped would end a process that touches
// the mapping.
func TestDigest_FileCutShortWhileResident_IsAnErrorAndTheServerGoesOn(t *testing.T) {
	s := newSite(t, "")
	m := s.lib.models[0]
	if status, a := s.object(t, "GET", "/v1/models/"+m.Name+"/digest", ""); status != http.StatusOK {
		t.Fatal(a)
	}
	if err := os.Truncate(m.Path, 1000); err != nil {
		t.Fatal(err)
	}
	status, a := s.object(t, "GET", "/v1/models/"+m.Name+"/digest", "")
	if p := problemIn(a); status < 500 || p["type"] != "server_error" || len(p["suggestions"].([]any)) == 0 {
		t.Errorf("%d %v", status, a)
	}
	if status, a := s.object(t, "GET", "/v1/models/"+s.lib.models[1].Name+"/digest", ""); status != http.StatusOK {
		t.Errorf("the next model: %d %v", status, a)
	}
}
