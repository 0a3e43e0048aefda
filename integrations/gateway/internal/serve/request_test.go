package serve

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestMembers_ExactlyTheKeysOfTheObject(t *testing.T) {
	body := ` {"model":"a","Model":"b","mod\u0065l2":{"model":"c","x":[{"model":"d"}]},"s":"},{\"model\":\\","list":["model",{"model":1}],"stream":true,"model":"e","":null} `
	var got []string
	for key, value := range members([]byte(body)) {
		got = append(got, key+"="+strings.TrimSpace(string(value)))
	}
	want := []string{`model="a"`, `Model="b"`, `model2={"model":"c","x":[{"model":"d"}]}`, `s="},{\"model\":\\"`, `list=["model",{"model":1}]`, `stream=true`, `model="e"`, `=null`}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
	for range members([]byte(" {} ")) {
		t.Error("an empty object has a member")
	}
	for range members([]byte(body)) {
		break
	}
}

func FuzzMembers(f *testing.F) {
	for _, seed := range []string{`{"a":1,"b":{"c":[1,2,"}"]}}`, `{}`, `{"a":"\\\"","A":null}`, `{"a" : [ ] , "a" : {}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if json.Unmarshal(b, new(struct{})) != nil {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		got := map[string]json.RawMessage{}
		for key, value := range members(b) {
			got[key] = value
		}
		for key, value := range want {
			if !bytes.Equal(bytes.TrimSpace(got[key]), value) {
				t.Errorf("%q: %q is %q, want %q", b, key, got[key], value)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%q: %d keys, want %d", b, len(got), len(want))
		}
	})
}

// The engine is given the model that the body names, and not what only looks like it.
func TestProxy_KeysOfAnotherCase_AreNotTheModel(t *testing.T) {
	f := newFront(t)
	res := f.post(t, t.Context(), "/v1/completions", `{"model":"small","Model":"large","STREAM":true}`)
	if got := res.Header.Get("X-Model"); got != "small" || res.StatusCode != http.StatusOK {
		t.Errorf("%d from %q", res.StatusCode, got)
	}
	res = f.post(t, t.Context(), "/v1/completions", `{"MODEL":"small"}`)
	if got := whole(t, res); res.StatusCode != http.StatusBadRequest || !strings.Contains(got, "names no model") {
		t.Errorf("%d %s", res.StatusCode, got)
	}
	res = f.post(t, t.Context(), "/v1/completions", `{"model":7}`)
	if got := whole(t, res); res.StatusCode != http.StatusBadRequest || !strings.Contains(got, "model: ") {
		t.Errorf("%d %s", res.StatusCode, got)
	}
}
