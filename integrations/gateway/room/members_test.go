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

// Only what is the model is another: keys that look like it, the order, numbers that a
// float does not hold, and blanks stay.
func TestRenamed_ExactlyTheModelChanges(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`{"model":"a","Model":"b","MODEL":"c","x":{"model":"d"},"s":"model"}`, `{"model":"new","Model":"b","MODEL":"c","x":{"model":"d"},"s":"model"}`},
		{`{"z":1e400,"mod\u0065l":"a","n":123456789012345678901,"a": [ 1 , 2 ]}`, `{"z":1e400,"model":"new","n":123456789012345678901,"a": [ 1 , 2 ]}`},
		{`{"model":"a","model":"b"}`, `{"model":"new","model":"new"}`},
		{`{"priority":"speed","model":"auto","Priority":1,"capabilities":["x"]}`, `{"model":"new","Priority":1}`},
		{` {"capabilities":[]} `, `{}`},
	} {
		got, err := Renamed([]byte(c.body), "new", "capabilities", "priority")
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v, want %s", c.body, got, err, c.want)
		}
	}
	if got, err := Renamed([]byte(`{"model":"a","priority":1}`), `q"<\`); err != nil || string(got) != `{"model":"q\"\u003c\\","priority":1}` {
		t.Errorf("%s, %v", got, err)
	}
}

func FuzzRenamed(f *testing.F) {
	f.Add([]byte(`{"model":"a","Model":"b","x":[{"model":1}],"k":"\"}"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if CheckObject(b) != nil {
			return
		}
		out, err := Renamed(b, "new", "k")
		if err != nil || !json.Valid(out) {
			t.Fatalf("%q: %q, %v", b, out, err)
		}
		var before, after map[string]json.RawMessage
		if json.Unmarshal(b, &before) != nil || json.Unmarshal(out, &after) != nil {
			t.Fatalf("%q: %q", b, out)
		}
		delete(before, "k")
		if _, ok := before["model"]; ok {
			before["model"] = json.RawMessage(`"new"`)
		}
		if len(before) != len(after) {
			t.Fatalf("%q: %q", b, out)
		}
		for key, value := range before {
			if !bytes.Equal(after[key], value) {
				t.Errorf("%q: %q is %q, want %q", b, key, after[key], value)
			}
		}
	})
}
