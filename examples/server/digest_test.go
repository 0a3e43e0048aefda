package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

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
	if status != http.StatusNotFound || a["code"] != "not_found" || len(a["suggestions"].([]any)) == 0 {
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
	if status < 500 || a["status"] != "error" || len(a["suggestions"].([]any)) == 0 {
		t.Errorf("%d %v", status, a)
	}
	if status, a := s.object(t, "GET", "/v1/models/"+s.lib.models[1].Name+"/digest", ""); status != http.StatusOK {
		t.Errorf("the next model: %d %v", status, a)
	}
}

func TestSHA256Of_ClientGone_StopsEarly(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	reads := 0
	_, err := sha256Of(ctx, readerFunc(func(p []byte, _ int64) (int, error) {
		if reads++; reads == 2 {
			cancel(gone)
		}
		return len(p), nil
	}), 1<<30)
	if !errors.Is(err, gone) || reads != 2 {
		t.Errorf("%d reads, %v", reads, err)
	}
}

type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }
