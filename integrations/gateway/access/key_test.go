package access

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestNew_FaultyKeys_EveryFaultIsToldAndNoSecret(t *testing.T) {
	good := Key{Name: "good", Secret: "a-good-secret", Scopes: all}
	for _, c := range []struct {
		name string
		keys []Key
		want []string
	}{
		{"no secret", []Key{{Name: "a", Scopes: all}}, []string{"keys[0].secret", "empty"}},
		{"line break at the end, as of a file", []Key{{Name: "a", Secret: "hush-hush\n", Scopes: all}}, []string{"keys[0].secret", "byte 9"}},
		{"NUL", []Key{{Name: "a", Secret: "hush\x00hush", Scopes: all}}, []string{"keys[0].secret", "byte 4"}},
		{"space", []Key{{Name: "a", Secret: "hush hush", Scopes: all}}, []string{"keys[0].secret", "byte 4"}},
		{"byte order mark", []Key{{Name: "a", Secret: "\ufeffhush", Scopes: all}}, []string{"keys[0].secret", "byte 0"}},
		{"no UTF-8", []Key{{Name: "a", Secret: "hush\xff", Scopes: all}}, []string{"keys[0].secret", "byte 4"}},
		{"DEL", []Key{{Name: "a", Secret: "hush\x7f", Scopes: all}}, []string{"keys[0].secret", "byte 4"}},
		{"no name", []Key{{Secret: "hush-hush", Scopes: all}}, []string{"keys[0].name"}},
		{"line break in a name", []Key{{Name: "a\nb", Secret: "hush-hush", Scopes: all}}, []string{"keys[0].name"}},
		{"blank name", []Key{{Name: "  ", Secret: "hush-hush", Scopes: all}}, []string{"keys[0].name"}},
		{"long name", []Key{{Name: strings.Repeat("n", 65), Secret: "hush-hush", Scopes: all}}, []string{"keys[0].name", "64"}},
		{"name that is a secret", []Key{good, {Name: "a-good-secret", Secret: "hush-hush", Scopes: all}}, []string{"keys[1].name", "logs"}},
		{"name twice", []Key{good, {Name: "good", Secret: "hush-hush", Scopes: all}}, []string{"keys[1].name", "keys[0]"}},
		{"secret twice", []Key{good, {Name: "b", Secret: "a-good-secret", Scopes: all}}, []string{"keys[0].secret", "keys[1]"}},
		{"no scope", []Key{{Name: "a", Secret: "hush-hush"}}, []string{"keys[0].scopes"}},
		{"zero scope", []Key{{Name: "a", Secret: "hush-hush", Scopes: []Scope{0}}}, []string{"keys[0].scopes"}},
		{"unknown scope", []Key{{Name: "a", Secret: "hush-hush", Scopes: []Scope{Use, 64}}}, []string{"keys[0].scopes"}},
		{"all at once", []Key{{}, {Name: "a", Secret: "hush-hush\r", Scopes: all}}, []string{"keys[0].name", "keys[0].secret", "keys[0].scopes", "keys[1].secret"}},
	} {
		_, err := New((&site{}).with(Options{Keys: c.keys}))
		if err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not say %s", c.name, err, want)
			}
		}
		for _, secret := range []string{"hush", "a-good-secret"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %v shows a secret", c.name, err)
			}
		}
	}
}

func TestSecret_Printed_IsHidden(t *testing.T) {
	keys := []Key{{Name: "n", Secret: "hush-hush", Scopes: all}}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%10s"} {
		fmt.Fprintf(&out, verb+verb+verb, keys, keys[0], keys[0].Secret)
		fmt.Fprintf(&out, verb, Options{Keys: keys})
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "keys", keys, "key", keys[0], "secret", keys[0].Secret)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "keys", keys, "key", keys[0], "secret", keys[0].Secret)
	if err := json.NewEncoder(&out).Encode(keys); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"hush", fmt.Sprintf("%x", "hush"), "104 117"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%q is in %s", secret, out.String())
		}
	}
	if !strings.Contains(out.String(), hidden) {
		t.Error("nothing was printed")
	}
}

func TestParseScope_KnownWords(t *testing.T) {
	for _, s := range all {
		if got, err := ParseScope(s.String()); err != nil || got != s {
			t.Errorf("%v: %v, %v", s, got, err)
		}
	}
	for _, word := range []string{"", "USE", "use, manage", "admin"} {
		if _, err := ParseScope(word); err == nil || !strings.Contains(err.Error(), "use, manage or watch") {
			t.Errorf("%q: %v", word, err)
		}
	}
	if s := (Use | Watch).String(); s != "use, watch" {
		t.Errorf("a set is %q", s)
	}
}

func FuzzAuthorization(f *testing.F) {
	for _, s := range []string{
		"", " ", "Bearer", "Bearer ", "Bearer x", "bearer  x", "BEARER x y", "Basic", "Basic Og==", "Basic dTpw", "basic dTpwOnE=", "Basic dQ==", "Basic !!", "Basic dTpw\r\n",
		"Digest username=x", "x-api-key", "Bearer\tx", "\x00", "Basic " + strings.Repeat("QUFB", 1000),
	} {
		f.Add(s)
	}
	ring, err := newKeyring(three)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, value string) {
		secret, isBasic := parseAuthorization(value)
		switch {
		case isBasic && secret != "":
			_, encoded, _ := strings.Cut(value, " ")
			pair, err := base64.StdEncoding.DecodeString(strings.TrimLeft(encoded, " "))
			if err != nil || !strings.HasSuffix(string(pair), ":"+secret) {
				t.Errorf("%q: password %q", value, secret)
			}
		case secret != "":
			if !strings.HasSuffix(value, secret) || !strings.EqualFold(value[:6], "bearer") || strings.Trim(value[6:len(value)-len(secret)], " ") != "" {
				t.Errorf("%q: token %q", value, secret)
			}
		}
		if c := ring.find(secret); c != nil {
			for _, k := range three {
				if k.Name == c.Name && string(k.Secret) != secret {
					t.Errorf("%q is %s", secret, c.Name)
				}
			}
		}
	})
}
