package serve

import (
	"net"
	"strings"
	"testing"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/engines"
)

func TestIntroduce_EveryAddress_IsShownAsOneThatCanBeAsked(t *testing.T) {
	var out strings.Builder
	lib := &library{engines: map[string]engines.Config{"e": {Command: []string{"srv", "{port}"}}, "f": {Command: []string{"other", "{port}"}}}}
	lib.introduce(&out, modeltier.Status{}, &net.TCPAddr{IP: net.IPv6unspecified, Port: 81}, true)
	for _, want := range []string{
		"\nlistening on http://127.0.0.1:81\n", "every other address", "engine: srv {port}\n",
		`"capabilities": ["text-generation"], "engine": "e"}}}`,
		"curl -sN -H \"Authorization: Bearer $MODELTIER_TOKEN\" http://127.0.0.1:81/v1/chat/completions -d '{\"model\": \"NAME\"",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q: %s", want, &out)
		}
	}
}
