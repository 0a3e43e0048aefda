package process

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// A stranger takes the port between its choice and the engine's bind, and its health
// page says ready.
func TestMove_StrangerAnswersForTheEngine_EngineGetsAnotherPort(t *testing.T) {
	file := filepath.Join(t.TempDir(), "port")
	r := newRig(t, newSystem(), Options{Engine: fake{Yields: file}.engine()})
	asked := make(chan struct{}, 1000)
	stranger := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked <- struct{}{} }))
	defer stranger.Close()
	taken := make(chan string, 1)
	go func() {
		defer close(taken)
		url := ""
		for ; url == "" && t.Context().Err() == nil; url = r.engine("m").URL {
			time.Sleep(time.Millisecond)
		}
		l, err := net.Listen("tcp4", strings.TrimPrefix(url, "http://"))
		if err == nil {
			err = os.WriteFile(file, []byte(strings.TrimPrefix(url, "http://127.0.0.1:")), 0o600)
		}
		if err != nil {
			t.Error(err)
			return
		}
		stranger.Listener.Close()
		stranger.Listener = l
		stranger.Start()
		taken <- url
	}()
	m := modelOf(t, "m", 1<<20)
	r.move(m, tier.Storage, tier.RAM)
	if url, _ := r.URL("m"); url == <-taken {
		t.Error("the stranger is taken for the engine")
	}
	if len(asked) == 0 {
		t.Error("the stranger was never asked, and nothing was tested")
	}
	if sum := r.get("m", "/sum"); sum == "" {
		t.Error("no engine answers")
	}
}

func TestMove_StrangerOnEveryPort_BoundedStartsAndAnErrorThatSaysSo(t *testing.T) {
	sys, starts := newSystem(), 0
	sys.listener = func(int, int, []int) (int, error) { starts++; return 4711, nil }
	r := newRig(t, sys, Options{Engine: fake{}.engine()})
	err := r.try(modelOf(t, "m", 1<<20), tier.Storage, tier.RAM)
	e, ok := errors.AsType[*EngineError](err)
	if !ok || e.Fault != PortTaken || !strings.Contains(err.Error(), "4711") || len(e.Suggestions()) == 0 {
		t.Errorf("the error is %v", err)
	}
	if starts != maxStarts {
		t.Errorf("it was started %d times", starts)
	}
}

func TestMove_ListenerCannotBeSeen_EngineIsBelievedAndStatusSaysSo(t *testing.T) {
	for name, listener := range map[string]func(int, int, []int) (int, error){
		"Missing":   nil,
		"Forbidden": func(int, int, []int) (int, error) { return 0, fs.ErrPermission },
	} {
		t.Run(name, func(t *testing.T) {
			sys := newSystem()
			sys.listener = listener
			r := newRig(t, sys, Options{Engine: fake{}.engine()})
			r.move(modelOf(t, "m", 1<<20), tier.Storage, tier.RAM)
			if why := r.Status().Lacks[lackListener]; why == "" {
				t.Error("Status does not tell")
			}
		})
	}
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine()})
	r.move(modelOf(t, "m", 1<<20), tier.Storage, tier.RAM)
	if why := r.Status().Lacks[lackListener]; why != "" {
		t.Errorf("it should be seen here: %s", why)
	}
}

func TestListener_WhoseSocket(t *testing.T) {
	own, p := os.Getpid(), proc("/proc")
	port := func(t *testing.T, network, address string) int {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { l.Close() })
		return l.Addr().(*net.TCPAddr).Port
	}
	for name, on := range map[string][2]string{
		"Loopback": {"tcp4", "127.0.0.1:0"}, "All4": {"tcp4", "0.0.0.0:0"}, "All6": {"tcp", "[::]:0"}, "Mapped": {"tcp6", "[::ffff:127.0.0.1]:0"},
	} {
		t.Run(name, func(t *testing.T) {
			at := port(t, on[0], on[1])
			if pid, err := p.listener(at, own, []int{own}); pid != 0 || err != nil {
				t.Errorf("for its own process: %d, %v", pid, err)
			}
			if pid, err := p.listener(at, os.Getppid(), nil); pid != 0 || err != nil {
				t.Errorf("for one that has started it: %d, %v", pid, err)
			}
			if pid, err := p.listener(at, 1<<30, nil); pid != own || err != nil {
				t.Errorf("for another process: %d, %v", pid, err)
			}
		})
	}
	elsewhere := port(t, "tcp6", "[::1]:0")
	if _, err := p.listener(elsewhere, own, []int{own}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what does not listen on 127.0.0.1: %v", err)
	}
}

func FuzzParseListener(f *testing.F) {
	for _, line := range []string{
		"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
		"   0: 0100007F:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1579 1 0000000021593506 100 0 0 10 0",
		"   1: 020200C0:B52A 507100CB:01BB 01 00000000:00000000 02:0000030F 00000000 65534        0 3379979 2 00000000407d691b 20 4 26 88 146",
		"   0: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 42 1 0 100 0 0 10 0",
		"   0: 0100007:07E8 00000000:0000 0A 0 0 0 0 0 x",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		address, _, ok := parseListener(line)
		if ok && (!address.IsValid() || address.Addr().Is4In6()) {
			t.Errorf("%q is %v", line, address)
		}
	})
}
