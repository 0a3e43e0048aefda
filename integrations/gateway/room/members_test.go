package room

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestMembers_ExactlyTheKeysOfTheObject(t *testing.T) {
	body := ` {"model":"a","Model":"b","mod\u0065l2":{"model":"c","x":[{"model":"d"}]},"s":"},{\"model\":\\","list":["model",{"model":1}],"stream":true,"model":"e","":null} `
	var got []string
	for key, value := range Members([]byte(body)) {
		got = append(got, key+"="+strings.TrimSpace(string(value)))
	}
	want := []string{`model="a"`, `Model="b"`, `model2={"model":"c","x":[{"model":"d"}]}`, `s="},{\"model\":\\"`, `list=["model",{"model":1}]`, `stream=true`, `model="e"`, `=null`}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
	for range Members([]byte(" {} ")) {
		t.Error("an empty object has a member")
	}
	for range Members([]byte(body)) {
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
		for key, value := range Members(b) {
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
