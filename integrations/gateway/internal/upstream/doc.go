// Package upstream asks engines, which are on this machine, in HTTP/1: a [Transport] is an
// http.RoundTripper that costs a stream no goroutine and one small buffer, where
// http.Transport takes two of each.
//
// It does no more than a gateway needs: no TLS, no proxies, no compression, no other
// protocols, no client traces, and interim answers (1xx) are skipped.
package upstream
