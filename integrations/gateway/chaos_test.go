package gateway_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway"
	"github.com/modeltier/modeltier/integrations/gateway/access"
	"github.com/modeltier/modeltier/integrations/gateway/gatewaytest"
	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
	"github.com/modeltier/modeltier/tier"
)

// standIn is an engine in this process.
type standIn struct{ *httptest.Server }

// URL is what a front end asks the instance of a lease.
func (s standIn) URL() (string, bool) { return s.Server.URL, true }

// standIns loads an engine for each model. Those named "old…" lack the paths that are
// translated.
func standIns() tier.Mover {
	return tier.MoverFrom(tier.Loader[standIn]{
		Load: func(_ context.Context, m tier.Model, _ func(tier.Bytes)) (standIn, error) {
			engine := gatewaytest.Engine{Name: m.Name}
			if strings.HasPrefix(m.Name, "old") {
				engine.Without = []string{"/v1/messages", "/v1/responses"}
			}
			return standIn{httptest.NewServer(engine.Handler())}, nil
		},
		Unload: func(_ context.Context, _ tier.Model, s standIn) error {
			s.CloseClientConnections()
			s.Close()
			return nil
		},
	})
}

// chaos is the gateway as it is served, over more models than fit, and what its clients
// have in common.
type chaos struct {
	t      *testing.T
	url    string
	m      *modeltier.Manager
	models []string

	mu   sync.Mutex // guards seen
	seen map[string]int
}

func newChaos(t *testing.T, fit int, models ...string) *chaos {
	t.Helper()
	before := runtime.NumGoroutine()
	c := &chaos{t: t, models: models, seen: make(map[string]int)}
	cfg := modeltier.Config{
		Mover: standIns(), Limits: tier.Limits{RAM: tier.Bytes(fit) * tier.GiB},
		Probe:    enginetest.Plenty(),
		Fairness: 100 * time.Millisecond, Grace: time.Millisecond,
	}
	for _, name := range models {
		cfg.Models = append(cfg.Models, tier.Model{Name: name, Size: tier.GiB, Capabilities: []string{"text-generation"}})
	}
	var err error
	if c.m, err = modeltier.New(cfg); err != nil {
		t.Fatal(err)
	}
	lns, err := access.Listen([]string{"127.0.0.1:0"}, false)
	if err != nil {
		t.Fatal(err)
	}
	guard, err := access.New(access.Options{Loopback: access.Local(lns), ScopeOf: gateway.ScopeOf, Deny: gateway.Deny})
	if err != nil {
		t.Fatal(err)
	}
	c.url = "http://" + lns[0].Addr().String()
	server, served := access.Server(guard.Handler(gateway.New(c.m, gateway.Config{})), slog.New(slog.DiscardHandler)), make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(lns[0])
	}()
	t.Cleanup(func() {
		server.Close()
		<-served
		if err := c.m.Close(); err != nil {
			t.Error(err)
		}
		eventually(t, "only the goroutines of before are left", func() bool { return runtime.NumGoroutine() <= before })
	})
	return c
}

// eventually waits for what follows from what has happened, and shows where all goroutines
// are if it does not come.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); runtime.Gosched() {
		if time.Now().After(end) {
			var all bytes.Buffer
			pprof.Lookup("goroutine").WriteTo(&all, 1)
			t.Fatalf("not after 20 s: %s\n%s", what, &all)
		}
	}
}

// idle waits until no lease is held.
func (c *chaos) idle() {
	c.t.Helper()
	eventually(c.t, "no lease is held", func() bool {
		leases := 0
		for s := range c.m.Models() {
			leases += s.Leases
		}
		return leases == 0
	})
}

func (c *chaos) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[what]++
}

// visit is one request of a client, with a word that is in no other.
type visit struct {
	*chaos
	token, model, fault string
	path                string
	stream              bool
	told                bool // how far its model is, before the answer
}

// paths are those that say what they were told.
var paths = map[string]string{
	"/v1/chat/completions": `{"model":%q,"stream":%t,"messages":[{"role":"user","content":"this is %s again"}]}`,
	"/v1/completions":      `{"model":%q,"stream":%t,"prompt":"this is %s again"}`,
	"/v1/responses":        `{"model":%q,"stream":%t,"input":"this is %s again"}`,
	"/v1/messages":         `{"model":%q,"stream":%t,"max_tokens":100000,"messages":[{"role":"user","content":"this is %s again"}]}`,
}

func (v *visit) body() string { return fmt.Sprintf(paths[v.path], v.model, v.stream, v.token) }

// harmless are faults that are none: the answer comes whole.
var harmless = []string{"", gatewaytest.OneXX, gatewaytest.Trailers, gatewaytest.Gzip, gatewaytest.SlowHeaders, gatewaytest.HTTP10, gatewaytest.CloseAfter, gatewaytest.ExtraBytes}

// hangs are faults that last until the client leaves.
var hangs = []string{gatewaytest.Stall, gatewaytest.StallMidStream, gatewaytest.Endless}

var tokens = regexp.MustCompile(`visit-\d+-\d+-\d+-`)

// check holds what a client got against what it asked. err is how reading it ended.
func (v *visit) check(way string, res *http.Response, body []byte, err error) {
	where := fmt.Sprintf("%s, %s to %s of %s with the fault %q, stream %t, told %t", v.token, way, v.path, v.model, v.fault, v.stream, v.told)
	for _, token := range tokens.FindAllString(string(body), -1) {
		if token != v.token {
			v.t.Errorf("%s: the answer has another's token: %.500s", where, body)
			return
		}
	}
	if bytes.Contains(body, []byte(gatewaytest.Smuggled)) {
		v.t.Errorf("%s: the answer is one that was never asked for: %.500s", where, body)
	}
	if !slices.Contains(harmless, v.fault) {
		return
	}
	if err != nil || res == nil || res.StatusCode != http.StatusOK || !bytes.Contains(body, []byte(v.token)) {
		status := 0
		if res != nil {
			status = res.StatusCode
		}
		v.t.Errorf("%s: %d %.500s, %v; want the whole answer", where, status, body, err)
		return
	}
	if by := res.Header.Get("X-Model"); by != v.model && !v.told {
		v.t.Errorf("%s: it was answered by %q", where, by)
	}
	v.count("whole answers")
}

// patience bounds an answer that has to come: a fault's, and those before it in the queue.
const patience = time.Minute

func (v *visit) context() (context.Context, context.CancelFunc) {
	if slices.Contains(hangs, v.fault) {
		return context.WithTimeout(context.Background(), 100*time.Millisecond)
	}
	return context.WithTimeout(context.Background(), patience)
}

func (v *visit) request(ctx context.Context, body io.Reader) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.url+v.path, body)
	if err != nil {
		panic(err) // of constants
	}
	req.Header.Set("Content-Type", "application/json")
	if v.fault != "" {
		req.Header.Set(gatewaytest.Fault, v.fault)
	}
	if v.told {
		req.Header.Set("X-Load-Progress", "1")
	}
	return req
}

// do asks, and reads all.
func (v *visit) do(way string, client *http.Client, req *http.Request) {
	res, err := client.Do(req)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(res.Body)
		res.Body.Close()
	}
	if errors.Is(err, context.DeadlineExceeded) && !slices.Contains(hangs, v.fault) {
		v.t.Errorf("%s, %s with the fault %q: no end within %v", v.token, way, v.fault, patience)
	}
	v.check(way, res, body, err)
}

// dial opens a connection on which anything may be said.
func (c *chaos) dial() net.Conn {
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		c.t.Error(err)
		return nil
	}
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// raw is the request as text.
func (v *visit) raw(proto string, more ...string) string {
	body := v.body()
	if v.fault != "" {
		more = append(more, gatewaytest.Fault+": "+v.fault)
	}
	head := append([]string{"POST " + v.path + " " + proto, "Host: localhost", "Content-Type: application/json", fmt.Sprintf("Content-Length: %d", len(body))}, more...)
	return strings.Join(head, "\r\n") + "\r\n\r\n" + body
}

// manners are what a client may do. each gets a random visit of its own.
var manners = map[string]func(v *visit, client *http.Client, r *rand.Rand){
	"asks": func(v *visit, client *http.Client, _ *rand.Rand) {
		ctx, cancel := v.context()
		defer cancel()
		v.do("whole", client, v.request(ctx, strings.NewReader(v.body())))
	},
	"leaves": func(v *visit, client *http.Client, r *rand.Rand) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(20000))*time.Microsecond)
		defer cancel()
		res, err := client.Do(v.request(ctx, strings.NewReader(v.body())))
		if err != nil {
			return
		}
		io.CopyN(io.Discard, res.Body, int64(r.IntN(500)))
		res.Body.Close()
	},
	"stalls": func(v *visit, _ *http.Client, r *rand.Rand) { // and takes nothing of an answer without end
		v.fault, v.stream = gatewaytest.Endless, true
		if conn := v.dial(); conn != nil {
			defer conn.Close()
			io.WriteString(conn, v.raw("HTTP/1.1"))
			time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
		}
	},
	"sends garbage": func(v *visit, _ *http.Client, r *rand.Rand) {
		conn := v.dial()
		if conn == nil {
			return
		}
		defer conn.Close()
		garbage := []string{
			"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", // TLS
			"GET", "POST " + v.path + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"model\":",
			"POST " + v.path + " HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
			"POST " + v.path + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}{}{}",
			"POST " + v.path + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
			v.raw("HTTP/1.1", "X-Long: "+strings.Repeat("x", 2<<20)),
		}
		io.WriteString(conn, garbage[r.IntN(len(garbage))])
		if r.IntN(2) == 0 {
			conn.(*net.TCPConn).CloseWrite()
			body, _ := io.ReadAll(conn)
			if bytes.Contains(body, []byte(" 200 OK\r\n")) {
				v.t.Errorf("garbage was answered by %.300s", body)
			}
		}
	},
	"pipelines": func(v *visit, _ *http.Client, r *rand.Rand) {
		conn := v.dial()
		if conn == nil {
			return
		}
		defer conn.Close()
		var all []*visit
		var text strings.Builder
		for i := range 3 {
			next := *v
			next.token = strings.Replace(v.token, "visit-", fmt.Sprintf("visit-%d", 7+i), 1)
			next.model, next.fault = v.models[r.IntN(len(v.models))], harmless[r.IntN(len(harmless))]
			all = append(all, &next)
			text.WriteString(next.raw("HTTP/1.1"))
		}
		go io.WriteString(conn, text.String())
		answers := bufio.NewReader(conn)
		for _, next := range all {
			res, body, err := answerOf(answers)
			next.check("pipelined", res, body, err)
			if err != nil {
				return
			}
		}
	},
	"upgrades": func(v *visit, _ *http.Client, r *rand.Rand) {
		conn := v.dial()
		if conn == nil {
			return
		}
		defer conn.Close()
		asks := "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
		v.fault = ""
		text := v.raw("HTTP/1.1", asks)
		if get := r.IntN(2) == 0; get {
			text = "GET /v1/realtime?model=" + v.model + " HTTP/1.1\r\nHost: localhost\r\n" + asks + "\r\n\r\n"
			io.WriteString(conn, text)
			if res, body, err := answerOf(bufio.NewReader(conn)); err != nil || res.StatusCode < 400 {
				v.t.Errorf("a socket was asked for: %+v %s, %v", res, body, err)
			}
			return
		}
		io.WriteString(conn, text)
		res, body, err := answerOf(bufio.NewReader(conn))
		v.check("with an upgrade", res, body, err)
	},
	"sends slowly": func(v *visit, client *http.Client, r *rand.Rand) {
		ctx, cancel := v.context()
		defer cancel()
		body, leave, pause := v.body(), r.IntN(2) == 0, time.Duration(r.IntN(1000))*time.Microsecond
		from, to := io.Pipe()
		go func() {
			for i := range body {
				if leave && i > len(body)/2 {
					to.CloseWithError(io.ErrClosedPipe)
					return
				}
				if _, err := io.WriteString(to, body[i:i+1]); err != nil {
					return
				}
				time.Sleep(pause)
			}
			to.Close()
		}()
		if !leave {
			v.do("slowly", client, v.request(ctx, from))
		} else if res, err := client.Do(v.request(ctx, from)); err == nil {
			res.Body.Close()
		}
		from.Close()
	},
	"speaks HTTP/1.0": func(v *visit, _ *http.Client, _ *rand.Rand) {
		if slices.Contains(hangs, v.fault) || v.fault == gatewaytest.OneXX {
			v.fault = ""
		}
		if conn := v.dial(); conn != nil {
			defer conn.Close()
			io.WriteString(conn, v.raw("HTTP/1.0"))
			res, body, err := answerOf(bufio.NewReader(conn))
			v.check("HTTP/1.0", res, body, err)
		}
	},
	"asks for 100": func(v *visit, client *http.Client, _ *rand.Rand) {
		ctx, cancel := v.context()
		defer cancel()
		req := v.request(ctx, strings.NewReader(v.body()))
		req.Header.Set("Expect", "100-continue")
		v.do("with Expect", client, req)
	},
	"says much": func(v *visit, client *http.Client, _ *rand.Rand) {
		v.path, v.stream = "/v1/completions", false
		ctx, cancel := v.context()
		defer cancel()
		body := strings.Replace(v.body(), "again", strings.Repeat(v.token+" ", 8<<10), 1)
		v.do("much", client, v.request(ctx, strings.NewReader(body)))
	},
	"is wrong": func(v *visit, client *http.Client, r *rand.Rand) {
		v.fault = ""
		wrong := []string{"{", "[]", `{"messages":[]}`, `{"model":"nobody"}`, `{"Model":"` + v.model + `"}`, `{"model":7}`, ""}
		ctx, cancel := v.context()
		defer cancel()
		res, err := client.Do(v.request(ctx, strings.NewReader(wrong[r.IntN(len(wrong))])))
		if err != nil {
			v.t.Errorf("what is wrong: %v", err)
			return
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode < 400 || res.StatusCode > 499 || !bytes.Contains(body, []byte(`"error"`)) {
			v.t.Errorf("what is wrong: %d %s, %v", res.StatusCode, body, err)
		}
	},
}

// answerOf reads an answer and its body, without those before it that only inform. Like
// any client it takes a body that is gzipped.
func answerOf(from *bufio.Reader) (*http.Response, []byte, error) {
	for {
		res, err := http.ReadResponse(from, nil)
		if err != nil {
			return nil, nil, err
		}
		body, err := io.ReadAll(res.Body)
		if res.Header.Get("Content-Encoding") == "gzip" && err == nil {
			zip, wrong := gzip.NewReader(bytes.NewReader(body))
			if wrong != nil {
				return res, body, wrong
			}
			body, err = io.ReadAll(zip)
		}
		if res.StatusCode >= http.StatusOK || res.StatusCode == http.StatusSwitchingProtocols {
			return res, body, err
		}
	}
}

func TestGateway_ClientsAndEnginesMisbehave_NothingIsMixedUpOrKept(t *testing.T) {
	const clients, visits, long = 64, 5, 6 * time.Second
	c := newChaos(t, 5, "new-a", "new-b", "new-c", "old-a", "old-b", "old-c")
	names := slices.Sorted(maps.Keys(manners))
	paths := slices.Sorted(maps.Keys(paths))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var all sync.WaitGroup
	began := time.Now()
	for i := range clients {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			for n := range visits {
				if time.Since(began) > long { // a machine that is busy with something else
					return
				}
				v := &visit{
					chaos: c, token: fmt.Sprintf("visit-%d-%d-0-", i, n), model: c.models[r.IntN(len(c.models))],
					path: paths[r.IntN(len(paths))], stream: r.IntN(2) == 0,
				}
				v.told = v.stream && r.IntN(2) == 0
				if r.IntN(2) == 0 {
					v.fault = gatewaytest.Faults[r.IntN(len(gatewaytest.Faults))]
				}
				name := names[r.IntN(len(names))]
				c.count("a client that " + name)
				manners[name](v, &http.Client{Transport: transport}, r)
			}
		})
	}
	all.Wait()
	c.idle()
	t.Logf("%v, %d models gave way", c.seen, c.m.Status().Evictions)
	if c.seen["whole answers"] < clients {
		t.Error("there were hardly any whole answers")
	}
}

// More at once than the socket of an engine would hold: each has its answer, none gets 502.
func TestGateway_BurstAtOneEngine_EachIsAnswered(t *testing.T) {
	c := newChaos(t, 1, "new-a")
	var all sync.WaitGroup
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for i := range 256 {
		all.Go(func() {
			v := &visit{chaos: c, token: fmt.Sprintf("visit-%d-0-0-", i), model: "new-a", path: "/v1/completions"}
			manners["asks"](v, &http.Client{Transport: transport}, nil)
		})
	}
	all.Wait()
	c.idle()
}
