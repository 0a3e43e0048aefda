package serve

import (
	"net"
	"strings"
	"testing"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/config"
)

// addressed is a listener that has an address only.
type addressed struct {
	net.Listener
	addr net.Addr
}

func (a addressed) Addr() net.Addr { return a.addr }

func TestIntroduce_EveryAddress_IsShownAsOneThatCanBeAsked(t *testing.T) {
	lib := &library{engines: map[string]config.Engine{"e": {Command: []string{"srv", "{port}"}}, "f": {Command: []string{"other", "{port}"}}}}
	every, socket := addressed{addr: &net.TCPAddr{IP: net.IPv6unspecified, Port: 81}}, addressed{addr: &net.UnixAddr{Name: "/run/m.sock", Net: "unix"}}
	for _, c := range []struct {
		lns  []net.Listener
		want []string
	}{
		{[]net.Listener{every, socket}, []string{
			"\nlistening on http://127.0.0.1:81\nand on every other address of this machine\nlistening on unix:/run/m.sock\n", "engine: srv {port}\n",
			`"capabilities": ["text-generation"], "engine": "e"}}}`,
			"curl -sN -H \"Authorization: Bearer $MODELTIER_TOKEN\" http://127.0.0.1:81/v1/chat/completions -d '{\"model\": \"NAME\"",
		}},
		{[]net.Listener{socket, every}, []string{
			"\nlistening on unix:/run/m.sock\nlistening on http://127.0.0.1:81\nand on every other address of this machine\n",
			"curl -s --unix-socket /run/m.sock -H \"Authorization: Bearer $MODELTIER_TOKEN\" http://localhost/status\n",
		}},
	} {
		var out strings.Builder
		lib.introduce(&out, modeltier.Status{}, c.lns, true)
		for _, want := range c.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("it does not say %q: %s", want, &out)
			}
		}
	}
}
