package process

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Sleeper is a sleep that an engine has of its own: it gives its weights back and
// stays alive.
//
// Sleep and Wake are called during moves, with no lock held, never both at once
// for one model, with the base URL of the engine ("http://127.0.0.1:port") and
// its model's name. Sleep returns when the memory has been given back, Wake when
// the health page can be trusted again: ready is only what answers 2xx there.
// Both return soon after ctx ends. An engine whose Sleep or Wake fails is
// stopped.
type Sleeper interface {
	Sleep(ctx context.Context, url, model string) error
	Wake(ctx context.Context, url, model string) error
}

// Request is one HTTP request to an engine. In Body {name} is replaced by the
// model's name as the inside of a JSON string.
type Request struct {
	Method string // "": POST
	Path   string // with a query, if any: "/sleep?level=1"
	Body   string // sent as JSON; "": none
}

// HTTPSleeper is a Sleeper of requests, each of which has to be answered with
// 2xx; they are sent in order. For vLLM (started with --enable-sleep-mode and in
// its development mode), level 1 keeps the weights in memory of the CPU, and so
// is of use only where a GPU has its own:
//
//	HTTPSleeper{
//		ToSleep: []Request{{Path: "/sleep?level=1"}},
//		ToWake:  []Request{{Path: "/wake_up"}},
//	}
//
// For the router of llama.cpp, whose load is answered before it is done, so that
// the first request waits for the rest:
//
//	HTTPSleeper{
//		ToSleep: []Request{{Path: "/models/unload", Body: `{"model":"{name}"}`}},
//		ToWake:  []Request{{Path: "/models/load", Body: `{"model":"{name}"}`}},
//	}
type HTTPSleeper struct {
	ToSleep, ToWake []Request
}

// Sleep implements Sleeper.
func (s HTTPSleeper) Sleep(ctx context.Context, url, model string) error {
	return sendAll(ctx, url, model, s.ToSleep)
}

// Wake implements Sleeper.
func (s HTTPSleeper) Wake(ctx context.Context, url, model string) error {
	return sendAll(ctx, url, model, s.ToWake)
}

// newClient returns a client that keeps no connection, asks no proxy and follows
// nobody.
func newClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func sendAll(ctx context.Context, url, model string, requests []Request) error {
	client := newClient()
	defer client.CloseIdleConnections()
	for _, r := range requests {
		if err := r.send(ctx, client, url, model); err != nil {
			return err
		}
	}
	return nil
}

func (r Request) send(ctx context.Context, client *http.Client, url, model string) error {
	method := r.Method
	if method == "" {
		method = http.MethodPost
	}
	body := strings.ReplaceAll(r.Body, "{name}", inJSON(model))
	req, err := http.NewRequestWithContext(ctx, method, url+r.Path, strings.NewReader(body))
	if err != nil {
		return err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := client.Do(req)
	if err != nil {
		return causeOf(ctx, err)
	}
	defer res.Body.Close()
	excerpt, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s was answered with %d: %s", method, r.Path, res.StatusCode, quote(string(excerpt)))
	}
	return nil
}
