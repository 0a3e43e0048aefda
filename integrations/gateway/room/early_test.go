package room

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// An engine may answer before a long request has been sent, which goes on beside the answer.
func TestServe_EngineAnswersBeforeItReads_AnswerPasses(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
				io.Copy(io.Discard, c)
			}()
		}
	}()
	room := newRoom(t, "http://"+ln.Addr().String(), Options{})
	body := `{"model":"m","x":"` + strings.Repeat("x", 1<<20) + `"}`
	for range 50 {
		w := httptest.NewRecorder()
		room.Serve(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)), plain{}, named)
		if w.Code != http.StatusOK || w.Body.String() != "ok" {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
}
