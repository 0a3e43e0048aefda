package serve

import (
	"net"
	"strings"
	"testing"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/tier"
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
			"  modeltier --server 127.0.0.1:81 ps\n",
			"curl -sN -H \"Authorization: Bearer $MODELTIER_TOKEN\" http://127.0.0.1:81/v1/chat/completions -d '{\"model\": \"NAME\"",
		}},
		{[]net.Listener{socket, every}, []string{
			"\nlistening on unix:/run/m.sock\nlistening on http://127.0.0.1:81\nand on every other address of this machine\n",
			"  modeltier --server unix:/run/m.sock ps\n",
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

func TestIntroduce_WhatToTry_AsksModelsThatAreAbleTo(t *testing.T) {
	lib := &library{engines: map[string]config.Engine{"e": {Command: []string{"srv", "{port}"}}}}
	status := func(models ...tier.Model) (now modeltier.Status) {
		for _, m := range models {
			now.Models = append(now.Models, modeltier.ModelStatus{Name: m.Name, Capabilities: m.Capabilities})
		}
		return now
	}
	talker := tier.Model{Name: "talker", Capabilities: []string{"text-generation"}}
	embedder, ranker := tier.Model{Name: "embedder", Capabilities: []string{"embeddings"}}, tier.Model{Name: "ranker", Capabilities: []string{"rerank"}}
	for _, c := range []struct {
		now         modeltier.Status
		talk, embed string
	}{
		{status(embedder, talker, ranker), "talker", "embedder"},
		{status(talker, ranker), "talker", ""},
		{status(tier.Model{Name: "silent"}, embedder), "silent", "embedder"},
	} {
		var out strings.Builder
		lib.introduce(&out, c.now, []net.Listener{addressed{addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 81}}}, false)
		for path, model := range map[string]string{"/v1/chat/completions": c.talk, "/v1/embeddings": c.embed} {
			if asked := strings.Contains(out.String(), path+` -d '{"model": "`+model+`"`); asked != (model != "") || model == "" && strings.Contains(out.String(), path) {
				t.Errorf("%s is not asked of %q: %s", path, model, &out)
			}
		}
	}
}
