package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// Variables of the environment.
const (
	serverVariable = "MODELTIER_SERVER"
	keyVariable    = "MODELTIER_TOKEN"
)

const defaultServer = "http://127.0.0.1:8080"

const (
	// maxAnswer bounds what is read of an answer: /status of a hundred thousand models
	// has about half of it.
	maxAnswer = 128 << 20
	// answerTime is how long an answer may take that waits for nothing.
	answerTime = 30 * time.Second
	dialTime   = 5 * time.Second
	maxKey     = 64 << 10
)

// client asks one server.
type client struct {
	base *url.URL
	name string // of the server, in messages
	key  string
	http *http.Client
}

func newClient(server, key string) (*client, error) {
	dialer := &net.Dialer{Timeout: dialTime}
	dial := dialer.DialContext
	// What listens on a socket of the file system is asked as the server of this machine.
	socket, isSocket := strings.CutPrefix(server, "unix:")
	name := server
	if isSocket {
		server = "http://localhost"
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}
	}
	base, err := parseServer(server)
	if err != nil {
		return nil, err
	}
	if !isSocket {
		name = base.String()
	}
	return &client{base, name, key, &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment, // which leaves loopback alone
			DialContext:         dial,
			TLSHandshakeTimeout: dialTime,
			IdleConnTimeout:     time.Minute,
		},
		// A redirect is told and not followed: the key is not for where it leads.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// parseServer reads the address of a server but for a socket: a URL, or HOST, HOST:PORT, :PORT.
func parseServer(server string) (*url.URL, error) {
	wrong := func(why string) (*url.URL, error) {
		return nil, usagef("the server %q of --server or %s %s; an address is such as %s", server, serverVariable, why, defaultServer)
	}
	text := server
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return wrong("is no address")
	case u.Scheme != "http" && u.Scheme != "https":
		return wrong("is neither http nor https")
	case u.User != nil: // the command line and the environment of others can be read
		return nil, usagef("the address of --server or %s has a key in it: name that in %s or --key-file instead", serverVariable, keyVariable)
	case u.RawQuery != "" || u.Fragment != "":
		return wrong("has more than a path")
	}
	host, port := u.Hostname(), u.Port()
	if host == "" && port == "" {
		return wrong("names no host")
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // what a server listens on
	}
	if port == "" && !strings.Contains(server, "://") {
		port = "8080"
	}
	// As clients of OpenAI's API are told it.
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/v1")
	if u.Host = host; port != "" {
		u.Host = net.JoinHostPort(host, port)
	} else if strings.Contains(host, ":") {
		u.Host = "[" + host + "]"
	}
	return u, nil
}

// readKey reads a key from a file: its first line.
func readKey(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", usagef("--key-file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return "", usagef("--key-file: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSpace(line); line == "" {
		return "", usagef("--key-file %s: its first line has no key", path)
	}
	return line, nil
}

// checkKey returns why a key could not be sent in a header.
func checkKey(key string) error {
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return usagef("the key of %s or --key-file must be printable ASCII without blanks", keyVariable)
	}
	return nil
}

// send sends a request; the body of the answer is for the caller to close.
func (c *client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var text io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		text = bytes.NewReader(b)
	}
	// path is escaped as it has to be; the base may have one of its own.
	r, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, text)
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Accept", "application/json")
	if c.key != "" {
		r.Header.Set("Authorization", "Bearer "+c.key)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	return answer, nil
}

// get returns what is at a path.
func (c *client) get(ctx context.Context, path string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, errSlow)
	defer cancel()
	return c.receive(ctx, http.MethodGet, path, nil)
}

// ask carries out a request of the JSON contract that waits for nothing.
func (c *client) ask(ctx context.Context, request any) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, errSlow)
	defer cancel()
	return c.receive(ctx, http.MethodPost, "/", request)
}

var errSlow = failure(exitNoServer, "no_answer", fmt.Sprintf("The server took the request and has not answered within %v", answerTime),
	"Look at what it is doing, or whether it is what you think: curl -s SERVER/healthz")

// receive returns a whole answer. A refusal is a *Failure.
func (c *client) receive(ctx context.Context, method, path string, body any) (json.RawMessage, error) {
	answer, err := c.send(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, c.unreachable(ctx, err)
	case len(text) > maxAnswer:
		return nil, c.stranger(fmt.Sprintf("sent an answer of more than %d MiB", maxAnswer>>20))
	}
	return c.judge(answer, text)
}

// judge tells an answer from a refusal, and from what is no answer of modeltier's.
func (c *client) judge(answer *http.Response, text []byte) (json.RawMessage, error) {
	if to := answer.Header.Get("Location"); answer.StatusCode/100 == 3 {
		return nil, c.stranger(fmt.Sprintf("answers with a redirect to %.200q, which is not followed", to))
	}
	kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	var said struct {
		Failure
		Error struct {
			Message     string
			Code        any
			Suggestions []string
		}
	}
	object := json.RawMessage(bytes.TrimSpace(text))
	if !bytes.HasPrefix(object, []byte{'{'}) || !json.Valid(object) {
		if answer.StatusCode == http.StatusUnauthorized {
			return nil, c.unauthorized("The server wants a key")
		}
		what := "answers with " + answer.Status
		if answer.StatusCode >= http.StatusBadGateway {
			return nil, failure(exitNoServer, "no_answer", fmt.Sprintf("What is at %s %s, as a proxy does whose server does not answer", c.name, what),
				"Look whether the server still runs, and how long the proxy lets it wait.")
		}
		if kind != "" {
			what += " and " + kind
		}
		return nil, c.stranger(what)
	}
	f := &said.Failure
	// What does not fit is of an answer that is not a refusal.
	if err := json.Unmarshal(object, &said); err != nil || said.Status != "error" {
		if answer.StatusCode/100 == 2 {
			return object, nil
		}
		f.Reason, f.Suggestions = said.Error.Message, said.Error.Suggestions
		f.Code, _ = said.Error.Code.(string)
	}
	f.Exit, f.Status = exitFailed, "error"
	switch {
	case answer.StatusCode == http.StatusUnauthorized:
		return nil, c.unauthorized(f.Reason)
	case f.Reason == "" || f.Code == "": // ours have both
		return nil, c.stranger(strings.TrimSuffix("answers with "+answer.Status+": "+f.Reason, ": "))
	case f.Suggestions == nil:
		f.Suggestions = []string{}
	}
	return nil, f
}

// unauthorized says how to give a key.
func (c *client) unauthorized(reason string) *Failure {
	help := fmt.Sprintf("Put the key into the environment variable %s, or name a file that holds it with --key-file.", keyVariable)
	if c.key != "" {
		reason += ", and the one that was sent does not do"
	}
	return failure(exitFailed, "unauthorized", reason, help)
}

// stranger is the error of what answers and is no modeltier server.
func (c *client) stranger(does string) *Failure {
	return failure(exitNoServer, "no_server", fmt.Sprintf("What is at %s %s: it is not a modeltier server", c.name, does),
		"Name the address that the server printed as \"listening on\", with --server URL or "+serverVariable+".")
}

// unreachable makes the error of a request that got no answer.
func (c *client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err
	}
	other := "Name another address with --server URL or " + serverVariable + "."
	dialing, ok := errors.AsType[*net.OpError](err)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return failure(exitNoServer, "no_server", fmt.Sprintf("No server answers at %s", c.name),
			"Start one: modeltier serve -models FOLDER, or, to try it, modeltier demo.", other)
	case ok && dialing.Op == "dial":
		return failure(exitNoServer, "no_server", fmt.Sprintf("No server can be reached at %s: %v", c.name, err), other)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET):
		return failure(exitNoServer, "connection_lost", fmt.Sprintf("The server at %s closed the connection before it had answered", c.name),
			"Look whether it still runs: modeltier ps")
	}
	return c.stranger("does not answer as it should (" + err.Error() + ")")
}
