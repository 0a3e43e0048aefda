package enginetest

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
)

// Post asks a server, with headers that are given as names and values in turn. The answer's
// body is closed when the test ends.
func Post(t *testing.T, ctx context.Context, s *httptest.Server, path, body string, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// Whole reads an answer to its end.
func Whole(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Idle waits until no lease of m is held.
func Idle(t *testing.T, m *modeltier.Manager) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		leases := 0
		for s := range m.Models() {
			leases += s.Leases
		}
		if leases == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d leases are still held", leases)
		case <-time.After(time.Millisecond):
		}
	}
}
