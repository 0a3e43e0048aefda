package ctl

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestClient_NoServer_SaysHowToStartOne(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	run := at(t, "http://"+ln.Addr().String())
	for _, args := range []string{"ps", "load a", "unload a", "reserve 1GB", "limits"} {
		got := run(strings.Fields(args)...)
		if got.code != exitNoServer || !strings.Contains(got.stderr, "modeltier serve -models FOLDER") {
			t.Errorf("%s: %+v", args, got)
		}
	}
	if f := decode[Failure](t, run("ps", "--json")); f.Code != "no_server" {
		t.Errorf("%+v", f)
	}
}

func TestClient_AnotherProgramAtThePort_IsTold(t *testing.T) {
	for name, url := range map[string]string{
		"a page":          answering(t, http.StatusOK, "text/html", "<html>hello</html>"),
		"a missing page":  answering(t, http.StatusNotFound, "text/html", "<html>404</html>"),
		"a list":          answering(t, http.StatusOK, "application/json", "[1]"),
		"half an object":  answering(t, http.StatusOK, "application/json", `{"models": [`),
		"an engine":       answering(t, http.StatusNotFound, "application/json", `{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}`),
		"an empty object": answering(t, http.StatusInternalServerError, "application/json", `{}`),
	} {
		run := at(t, url)
		for _, args := range []string{"ps", "load a", "reserve 1GB"} {
			got := run(strings.Fields(args)...)
			if got.code != exitNoServer || !strings.Contains(got.stderr, "is not a modeltier server") || strings.Contains(got.stderr, "<html>") {
				t.Errorf("%s, %s: %+v", name, args, got)
			}
		}
	}
}

func TestClient_ProxyWithoutServer_IsTold(t *testing.T) {
	run := at(t, answering(t, http.StatusGatewayTimeout, "text/html", "<html>504</html>"))
	for _, args := range []string{"ps", "load a"} {
		if got := run(strings.Fields(args)...); got.code != exitNoServer || !strings.Contains(got.stderr, "a proxy") {
			t.Errorf("%s: %+v", args, got)
		}
	}
}

func TestClient_ServerThatDiesMeanwhile_IsTold(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer server.Close()
	run := at(t, server.URL)
	for _, args := range []string{"ps", "load a", "reserve 1GB"} {
		if got := run(strings.Fields(args)...); got.code != exitNoServer || !strings.Contains(got.stderr, "(connection_lost)") {
			t.Errorf("%s: %+v", args, got)
		}
	}
}

func TestClient_NotHTTP_IsTold(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("SSH-2.0-OpenSSH_9.6\r\n"))
			c.Close()
		}
	}()
	if got := at(t, "http://"+ln.Addr().String())("ps"); got.code != exitNoServer {
		t.Errorf("%+v", got)
	}
}

func TestClient_AnswerWithoutEnd_IsBounded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		block := []byte(strings.Repeat(" ", 1<<20))
		for r.Context().Err() == nil {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	if got := at(t, server.URL)("ps"); got.code != exitNoServer || !strings.Contains(got.stderr, "more than 128 MiB") {
		t.Errorf("%+v", got)
	}
}

func TestClient_Key_IsSentToTheServerOnly(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer elsewhere.Close()
	var sent string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header.Get("Authorization")
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	run := at(t, server.URL)
	t.Setenv(keyVariable, "from-env")
	for _, args := range []string{"ps", "load a", "reserve 1GB"} {
		if got := run(strings.Fields(args)...); got.code != exitNoServer || !strings.Contains(got.stderr, "redirect") || sent != "Bearer from-env" {
			t.Errorf("%s: %+v, sent %q", args, got, sent)
		}
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("from-file\nsecond line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if run("ps", "-key-file", file); sent != "Bearer from-file" {
		t.Errorf("sent %q", sent)
	}
	for _, bad := range []string{"", "two words", "ümlaut"} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := run("ps", "--key-file", file); got.code != exitUsage || bad != "" && strings.Contains(got.stderr, bad) {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func TestClient_Unauthorized_SaysHowToGiveAKey(t *testing.T) {
	contract := `{"status":"error","reason":"The token is missing or wrong","code":"unauthorized","suggestions":["Send the header Authorization: Bearer TOKEN."]}`
	openai := `{"error":{"message":"The key is missing","type":"x","code":"unauthorized"}}`
	for _, body := range []string{contract, openai, "who are you?"} {
		run := at(t, answering(t, http.StatusUnauthorized, "text/plain", body))
		got := run("ps")
		if got.code != exitFailed || !strings.Contains(got.stderr, "(unauthorized)") || !strings.Contains(got.stderr, "MODELTIER_TOKEN") || !strings.Contains(got.stderr, "--key-file") {
			t.Errorf("%s: %+v", body, got)
		}
		t.Setenv(keyVariable, "wrong")
		if got := run("ps"); !strings.Contains(got.stderr, "the one that was sent does not do") || strings.Contains(got.stderr, "wrong,") && strings.Contains(got.stderr, "Bearer") {
			t.Errorf("%+v", got)
		}
	}
}

// An error of the paths that are OpenAI's has their shape.
func TestClient_OpenAIError_IsARefusal(t *testing.T) {
	run := at(t, answering(t, http.StatusForbidden, "application/json", `{"error":{"message":"Not for this key","type":"x","code":"forbidden","suggestions":["Ask for another."]}}`))
	if got := run("ps"); got.code != exitFailed || got.stderr != "modeltier: Not for this key (forbidden)\n  Ask for another.\n" {
		t.Errorf("%+v", got)
	}
}

func TestClient_ProxyOfTheEnvironment_IsNotForLoopback(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the proxy was asked") }))
	defer proxy.Close()
	l := serveModels(t)
	run := at(t, l.url)
	t.Setenv("http_proxy", proxy.URL)
	t.Setenv("HTTP_PROXY", proxy.URL)
	if got := run("ls"); got.code != exitDone {
		t.Errorf("%+v", got)
	}
}

func TestClient_UnixSocket_IsAsked(t *testing.T) {
	dir, err := os.MkdirTemp("", "ctl") // a short path, as sockets want
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Skip(err)
	}
	var host string
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host = r.Host
		w.Write([]byte(`{"models": []}`))
	})}
	go server.Serve(ln)
	t.Cleanup(func() { server.Close() })
	if got := at(t, "unix:"+path)("ls"); got.code != exitDone || host != "localhost" {
		t.Errorf("%+v, asked for %q", got, host)
	}
	if got := at(t, "unix:"+path+"x")("ls"); got.code != exitNoServer || !strings.Contains(got.stderr, "No server answers at unix:"+path) {
		t.Errorf("%+v", got)
	}
}

func TestParseServer_FormsThatPeopleWrite(t *testing.T) {
	for server, want := range map[string]string{
		"http://127.0.0.1:8080":  "http://127.0.0.1:8080",
		"http://127.0.0.1:8080/": "http://127.0.0.1:8080",
		"http://jetson/v1/":      "http://jetson",
		"127.0.0.1:9":            "http://127.0.0.1:9",
		":9":                     "http://127.0.0.1:9",
		"jetson":                 "http://jetson:8080",
		"0.0.0.0:9":              "http://127.0.0.1:9",
		"http://[::]:9":          "http://127.0.0.1:9",
		"https://models.example": "https://models.example",
		"https://a.example/tier": "https://a.example/tier",
		"http://[::1]":           "http://[::1]",
	} {
		u, err := parseServer(server)
		if err != nil || u.String() != want {
			t.Errorf("%s: %v, %v, want %s", server, u, err, want)
		}
	}
	for _, server := range []string{"ftp://a", "http://key:secret@a", "http://a?x=1", "http://", "http://a b", "http://a:port"} {
		u, err := parseServer(server)
		if err == nil || !isUsage(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, %v", server, u, err)
		}
	}
}

func TestExitCode_OfEachKind(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0}, {errors.New("x"), 1}, {failure(exitFailed, "x", "y"), 1}, {usagef("x"), 2}, {failure(exitNoServer, "x", "y"), 3},
		{interrupted{os.Interrupt}, 130}, {silent(77), 77},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}
