package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// at is the instance of a model whose engine takes requests at a URL.
type at string

func (a at) URL() (string, bool) { return string(a), true }

// enginesAt returns a Mover whose engines all are at one URL.
func enginesAt(url string) tier.Mover {
	return tier.MoverFrom(tier.Loader[at]{
		Load:   func(context.Context, tier.Model, func(tier.Bytes)) (at, error) { return at(url), nil },
		Unload: func(context.Context, tier.Model, at) error { return nil },
	})
}

// BenchmarkHot compares what the gateway adds to a request whose model is ready with what
// a bare httputil.ReverseProxy adds, in the same run: the median over ten runs in turn of
// the median and of the 99th percentile, less those of the engine asked directly.
func BenchmarkHot(b *testing.B) {
	answer := bytes.Repeat([]byte(`{"id":"x"}`), 40)
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Write(answer)
	}))
	defer engine.Close()
	to, err := url.Parse(engine.URL)
	if err != nil {
		b.Fatal(err)
	}
	bare := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	})
	defer bare.Close()
	m, err := modeltier.New(modeltier.Config{
		Models: []tier.Model{{Name: "m", Path: "m", Size: tier.MiB}}, Mover: enginesAt(engine.URL),
		Probe: tiertest.NewProbe(tier.Memory{Total: 8 * tier.GiB, Available: 8 * tier.GiB}),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	ours := httptest.NewServer(gateway.New(m, gateway.Config{}))
	defer ours.Close()
	targets := []string{engine.URL, bare.URL, ours.URL}
	body := []byte(`{"model":"m","stream":false,"messages":[{"role":"user","content":"` + string(bytes.Repeat([]byte("water "), 150)) + `"}]}`)
	for _, clients := range []int{1, 8} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			for b.Loop() {
				var p50, p99 []float64
				for range 10 {
					var at [3][2]time.Duration
					for i, target := range targets {
						at[i][0], at[i][1] = percentiles(b, target+"/v1/chat/completions", body, clients, 1500)
					}
					for i, to := range []*[]float64{&p50, &p99} {
						*to = append(*to, float64(at[2][i]-at[0][i])/float64(at[1][i]-at[0][i]))
					}
				}
				slices.Sort(p50)
				slices.Sort(p99)
				b.ReportMetric(p50[5], "p50-x")
				b.ReportMetric(p99[5], "p99-x")
			}
		})
	}
}

// percentiles returns the median and the 99th percentile of n requests of that many
// clients.
func percentiles(b *testing.B, url string, body []byte, clients, n int) (p50, p99 time.Duration) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	defer client.CloseIdleConnections()
	took := make([]time.Duration, n)
	var all sync.WaitGroup
	for c := range clients {
		all.Go(func() {
			for i := c; i < n; i += clients {
				began := time.Now()
				res, err := client.Post(url, "application/json", bytes.NewReader(body))
				if err != nil {
					b.Error(err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if took[i] = time.Since(began); res.StatusCode != http.StatusOK {
					b.Error(res.Status)
					return
				}
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	return took[n/2], took[n*99/100]
}
