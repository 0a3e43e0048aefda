package gatewaytest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// post returns an answer's status and body.
func post(t *testing.T, url, body string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func serve(t *testing.T, e Engine) string {
	t.Helper()
	s := httptest.NewServer(e.Handler())
	t.Cleanup(s.Close)
	return s.URL
}

func TestEngine_EveryPath_SaysWhatItWasTold(t *testing.T) {
	url := serve(t, Engine{Name: "m"})
	const chat = `"messages":[{"role":"user","content":[{"type":"text","text":"tell me this"},{"type":"image_url","image_url":{"url":"data:,"}}]}]`
	const tools = `,"tools":[{"type":"function","name":"look","function":{"name":"look"}}]`
	for _, c := range []struct{ path, body, want string }{
		{"/v1/chat/completions", `{` + chat + `}`, `"content":"tell me this (images: 1)"`},
		{"/v1/chat/completions", `{` + chat + `,"max_tokens":2}`, `"content":"tell me"`},
		{"/v1/chat/completions", `{` + chat + `,"stream":true}`, `"delta":{"content":" me"}`},
		{"/v1/chat/completions", `{` + chat + `,"stream":true,"stream_options":{"include_usage":true}}`, `"prompt_tokens":3`},
		{"/v1/chat/completions", `{` + chat + tools + `}`, `"arguments":"{\"text\":\"tell me this (images: 1)\"}"`},
		{"/v1/chat/completions", `{"messages":[{"role":"tool","content":"found"}]` + tools + `}`, `"content":"found"`},
		{"/v1/completions", `{"prompt":"tell me this"}`, `"text":"tell me this"`},
		{"/completion", `{"prompt":"tell me this","n_predict":1}`, `"content":"tell"`},
		{"/infill", `{"input_prefix":"a","input_suffix":"c","prompt":"b"}`, `"content":"a b c"`},
		{"/v1/responses", `{"input":"tell me this"}`, `"text":"tell me this"`},
		{"/v1/responses", `{"input":[{"role":"user","content":[{"type":"input_text","text":"tell me this"}]}],"stream":true}`, "event: response.completed\n"},
		{"/v1/responses", `{"input":"x"` + tools + `}`, `"call_id":"call_standin0001"`},
		{"/v1/messages", `{"max_tokens":9,` + chat + `}`, `"stop_reason":"end_turn"`},
		{"/v1/messages", `{"max_tokens":9,` + chat + `,"stream":true}`, "event: message_stop\n"},
		{"/v1/messages", `{"max_tokens":9,` + chat + tools + `}`, `"input":{"text":"tell me this (images: 1)"}`},
		{"/v1/messages/count_tokens", `{` + chat + `}`, `{"input_tokens":3}`},
		{"/v1/embeddings", `{"input":["a","b"]}`, `"index":1`},
		{"/v1/embeddings", `{"input":"a","encoding_format":"base64"}`, `"embedding":"`},
		{"/v1/rerank", `{"query":"a bear","documents":["hi","a bear"],"top_n":1}`, `"results":[{"index":1,"relevance_score":2}]`},
		{"/tokenize", `{"content":"é!"}`, `{"tokens":[233,33]}`},
		{"/detokenize", `{"tokens":[233,33]}`, `{"content":"é!"}`},
		{"/apply-template", `{"messages":[{"role":"user","content":"hi"}]}`, "hi"},
		{"/v1/audio/speech", `{"input":"hello"}`, "sound of: hello"},
		{"/v1/images/generations", `{"prompt":"a cat"}`, `"b64_json":"cGljdHVyZSBvZjogYSBjYXQ="`},
		{"/v1/chat/completions", `{"Messages":[]}`, `"type":"invalid_request_error"`}, // keys count in their exact case
		{"/v1/nothing", `{}`, `"type":"not_found_error"`},
	} {
		if _, got := post(t, url+c.path, c.body); !strings.Contains(got, c.want) {
			t.Errorf("%s %s:\n got %s\nwant %s", c.path, c.body, got, c.want)
		}
	}
}

func TestEngine_Forms_SayWhatTheFileHolds(t *testing.T) {
	url := serve(t, Engine{})
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	for _, field := range []string{"file", "image"} {
		f, _ := w.CreateFormFile(field, "x")
		io.WriteString(f, "spoken words")
	}
	w.WriteField("prompt", "brighter")
	w.Close()
	for path, want := range map[string]string{"/v1/audio/transcriptions": `"text":"spoken words"`, "/v1/images/edits": `"b64_json"`} {
		if _, got := post(t, url+path, form.String(), "Content-Type", w.FormDataContentType()); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestEngine_WithoutAPath_AnswersNotFoundThereAndBelow(t *testing.T) {
	url := serve(t, Engine{Without: []string{"/v1/messages"}})
	for _, path := range []string{"/v1/messages", "/v1/messages/count_tokens"} {
		if status, got := post(t, url+path, `{"messages":[]}`); status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, status, got)
		}
	}
	if status, _ := post(t, url+"/v1/chat/completions", `{"messages":[]}`); status != http.StatusOK {
		t.Errorf("its chat: %d", status)
	}
}

// Each fault is one that a plain client sees.
func TestEngine_Faults_AreSeenByAClient(t *testing.T) {
	url := serve(t, Engine{}) + "/v1/completions"
	const body, said = `{"prompt":"tell me this"}`, `"text":"tell me this"`
	ask := func(fault string) (*http.Response, []byte, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(Fault, fault)
		req.Header.Set("Accept-Encoding", "identity")
		client := http.Client{Timeout: 300 * time.Millisecond}
		res, err := client.Do(req)
		if err != nil {
			return nil, nil, err
		}
		defer res.Body.Close()
		if res.StatusCode == http.StatusSwitchingProtocols {
			return res, nil, nil // its body is the connection
		}
		b, err := io.ReadAll(res.Body)
		return res, b, err
	}
	for _, fault := range Faults {
		res, b, err := ask(fault)
		switch fault {
		case CloseBeforeAnswer, ResetBeforeAnswer, Garbage, Stall:
			if res != nil || err == nil {
				t.Errorf("%s: %s, %v; want no answer", fault, b, err)
			}
		case CloseMidStream, StallMidStream, GarbageMidStream, WrongLength, Endless:
			if res == nil || err == nil || len(b) == 0 {
				t.Errorf("%s: %s, %v; want a part of an answer", fault, b, err)
			}
		case Unasked101:
			if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
				t.Errorf("%s: %+v %s, %v", fault, res, b, err)
			}
		case Error500, Error503, HTML500:
			if err != nil || res.StatusCode < 500 {
				t.Errorf("%s: %s, %v; want an error", fault, b, err)
			}
		case Gzip:
			zip, err := gzip.NewReader(bytes.NewReader(b))
			if err != nil {
				t.Errorf("%s: %s, %v", fault, b, err)
				continue
			}
			if b, err = io.ReadAll(zip); err != nil || !bytes.Contains(b, []byte(said)) {
				t.Errorf("%s: %s, %v", fault, b, err)
			}
		default:
			if err != nil || !bytes.Contains(b, []byte(said)) {
				t.Errorf("%s: %s, %v; want the answer", fault, b, err)
			}
			if fault == Trailers && res.Trailer.Get("X-Sum") == "" {
				t.Errorf("no trailer: %v", res.Trailer)
			}
		}
	}
}

func TestEngine_Upgrade_SendsBackWhatComes(t *testing.T) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(serve(t, Engine{}), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nand this")
	got := make([]byte, 0, 200)
	for !bytes.HasSuffix(got, []byte("and this")) {
		b := make([]byte, 100)
		n, err := conn.Read(b)
		if got = append(got, b[:n]...); err != nil {
			t.Fatalf("%s, %v", got, err)
		}
	}
	if !bytes.HasPrefix(got, []byte("HTTP/1.1 101 ")) {
		t.Errorf("%s", got)
	}
}

func TestMain_AsACommand_IsAnEngine(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	argv := Command("/v1/messages")
	for i, word := range argv {
		argv[i] = strings.NewReplacer("{port}", port, "{name}", "model").Replace(word)
	}
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	url := "http://127.0.0.1:" + port
	for end := time.Now().Add(20 * time.Second); ; {
		if res, err := http.Get(url + "/health"); err == nil {
			res.Body.Close()
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	_, got := post(t, url+"/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}]}`)
	var answer struct{ Model string }
	if json.Unmarshal([]byte(got), &answer); answer.Model != "model" {
		t.Errorf("the answer is %s", got)
	}
	if status, _ := post(t, url+"/v1/messages", `{}`); status != http.StatusNotFound {
		t.Errorf("a path that it lacks: %d", status)
	}
}
