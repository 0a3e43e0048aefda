package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// A gateway in one's own program: its Manager's engines answer what its clients ask.
func ExampleNew() {
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"choices":[{"message":{"role":"assistant","content":"wet"}}]}`)
	}))
	defer engine.Close()
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "small", Path: "small.gguf", Size: tier.GiB, Capabilities: []string{"text-generation"}}},
		Mover:  enginesAt(engine.URL), // in a program of one's own: process.New
		Probe:  tiertest.NewProbe(tier.Memory{Total: 8 * tier.GiB, Available: 8 * tier.GiB}),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	server := httptest.NewServer(gateway.New(m, gateway.Config{}))
	defer server.Close()

	res, err := http.Post(server.URL+"/v1/chat/completions", "application/json",
		strings.NewReader(`{"model": "auto", "messages": [{"role": "user", "content": "What is water?"}]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	answer, _ := io.ReadAll(res.Body)
	fmt.Println(res.Header.Get("X-Model"), string(answer))
	// Output: small {"choices":[{"message":{"role":"assistant","content":"wet"}}]}
}
