package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

func TestParse_EveryOperation_IsRead(t *testing.T) {
	for request, want := range map[string]any{
		` { } `:                  &Select{},
		`{"auto_select": true}`:  &Select{},
		`{"\u006dodel": "a\tb"}`: &Select{tier.Request{Model: "a	b"}},
		`{"model": "a", "background": true, "explain": false}`: &Select{tier.Request{Model: "a", Background: true}},
		`{"capabilities": ["a", "b"], "priority": "quality", "preferences": [], "policy": "p", "deadline_ms": 1.5}`: &Select{tier.Request{
			Capabilities: []string{"a", "b"}, Priority: tier.Quality, Preferences: []string{}, Policy: "p", Deadline: 1500 * time.Microsecond,
		}},
		`{"preferred_model": "a", "fallback": "auto"}`: &Select{tier.Request{Preferred: "a", Fallback: true}},
		`{"fallback": "auto"}`:                         &Select{},
		`{"hot_load": {"model_config": {"labels": {"k": "v"}, "pinned": true, "quality": 0.5, "path": "p", "parts": ["q", "r"], "digests": {"q": "00ff"}, "capabilities": ["c"], "tier": "swap", "runtime_gb": 0.25, "size_gb": 1.5}, "model_name": "x"}}`: &HotLoad{tier.Model{
			Name: "x", Size: 3 * tier.GiB / 2, Runtime: tier.GiB / 4, Home: tier.Swap, Capabilities: []string{"c"}, Path: "p", Parts: []string{"q", "r"}, Digests: map[string]tier.Digest{"q": {SHA256: "00ff"}}, Quality: 0.5, Pinned: true, Labels: map[string]string{"k": "v"},
		}},
		`{"hot_load": {"model_name": "x", "model_config": {"path": "p", "tier": "ram", "capabilities": []}}}`: &HotLoad{tier.Model{
			Name: "x", Home: tier.RAM, Capabilities: []string{}, Path: "p",
		}},
		`{"move_tier": {"target_tier": "storage", "model_name": "x"}}`: &MoveTier{"x", tier.Storage},
		`{"remove": "x"}`:                                                    &Remove{"x"},
		`{"unload": {"model_name": "x"}}`:                                    &Unload{"x", false},
		`{"unload": {"when_idle": true, "model_name": "x"}}`:                 &Unload{"x", true},
		`{"pin": {"model_name": "x", "pinned": false}}`:                      &Pin{"x", false},
		`{"rollback": {"model_name": "x"}}`:                                  &Rollback{"x", ""},
		`{"rollback": {"model_name": "x", "version": "abcdef"}}`:             &Rollback{"x", "abcdef"},
		`{"alias": {"name": "a", "model_name": "x"}}`:                        &Alias{"a", "x"},
		`{"alias": {"model_name": null, "name": "a"}}`:                       &Alias{"a", ""},
		`{"update_limits": {"ram_max_gb": 2, "ram_reserved_gb": 0}}`:         &UpdateLimits{tier.Limits{RAM: 2 * tier.GiB, Reserved: 1}},
		`{"hint": {"model_name": "x"}}`:                                      &Hint{"x", 1, time.Minute},
		`{"hint": {"model_name": "x", "probability": 0.5, "within_s": 0.5}}`: &Hint{"x", 0.5, time.Second / 2},
		`{"reserve": {"gb": 1.5}}`:                                           &Reserve{Bytes: 3 * tier.GiB / 2, For: 10 * time.Minute},
		`{"reserve": {"for_s": 0.5, "reason": "a game", "gb": 4}}`:           &Reserve{Bytes: 4 * tier.GiB, Reason: "a game", For: time.Second / 2},
		`{"reserve": {"for_s": 1e-300, "gb": 4}}`:                            &Reserve{Bytes: 4 * tier.GiB, For: 1},
		`{"release": "r-1"}`:                                                 &Release{"r-1"},
		`{"load_status": "x"}`:                                               &JobRef{"x", true},
		`{"tier_job_status": "x"}`:                                           &JobRef{"x", false},
		`{"tier_status": true}`:                                              TierStatus,
		`{"auto_optimize": true}`:                                            AutoOptimize,
		`{"list_models": true}`:                                              ListModels,
	} {
		got, err := Parse([]byte(request), 1000)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", request, got, err, want)
		}
	}
}

// Each request is wrong, and the error has to name what is wrong.
func TestParse_BadInput_IsNamed(t *testing.T) {
	deep := strings.Repeat("[", 20_000)
	for request, named := range map[string]string{
		``:                                  "it is empty",
		`{"model": "a"`:                     "unexpected end",
		`{"model": NaN}`:                    "'N'",
		`{} {}`:                             "after top-level value",
		`{"model": "a"}]`:                   "after top-level value",
		`{"model": ` + deep:                 "max depth",
		`{"a": ` + deep:                     "max depth",
		`["model"]`:                         "request",
		`{"MODEL": "a"}`:                    `"MODEL"`,
		`{"Hot_Load": {}}`:                  `"Hot_Load"`,
		`{"model": "a", "Model": "a"}`:      `"Model"`,
		`{"model": "a", "model": "a"}`:      `"model"`,
		`{"model": "a", "mo\u0064el": "a"}`: `"model"`,
		`{"tier_status": true, "list_models": true}`:               "tier_status and list_models",
		`{"tier_status": true, "model": "a"}`:                      "tier_status and a selection",
		`{"move_tier": {"model_name": "a", "Target_Tier": "ram"}}`: `"Target_Tier"`,
		`{"update_limits": {"ram_max_gb": 1e999}}`:                 "ram_max_gb",
		`{"remove": 7}`:                   "remove",
		`{"remove": ""}`:                  "remove",
		`{"unload": "x"}`:                 "unload",
		`{"unload": {"when_idle": true}}`: "model_name",
		`{"unload": {"model_name": "x", "when_idle": "yes"}}`:                    "when_idle",
		`{"unload": {"model_name": "x", "whenidle": true}}`:                      `"whenidle"`,
		`{"pin": {"model_name": "x"}}`:                                           "pinned",
		`{"pin": {"model_name": "x", "pinned": null}}`:                           "pinned",
		`{"pin": {"model_name": 7, "pinned": true}}`:                             "model_name",
		`{"rollback": {"version": "abcdef"}}`:                                    "model_name",
		`{"rollback": {"model_name": "x", "version": null}}`:                     "version",
		`{"rollback": "x"}`:                                                      "rollback",
		`{"alias": {"name": "a"}}`:                                               "model_name",
		`{"alias": {"name": "a", "model_name": ""}}`:                             "model_name",
		`{"alias": {"name": null, "model_name": "x"}}`:                           "name",
		`{"alias": {"alias": "a", "model_name": "x"}}`:                           `"alias"`,
		`{"reserve": {}}`:                                                        "gb",
		`{"reserve": 4}`:                                                         "reserve",
		`{"reserve": {"gb": 0}}`:                                                 "gb",
		`{"reserve": {"gb": "4"}}`:                                               "gb",
		`{"reserve": {"gb": 1e30}}`:                                              "gb",
		`{"reserve": {"gb": 4, "for_s": 0}}`:                                     "for_s",
		`{"reserve": {"gb": 4, "for_s": 2592001}}`:                               "for_s",
		`{"reserve": {"gb": 4, "for_s": null}}`:                                  "for_s",
		`{"reserve": {"gb": 4, "reason": 1}}`:                                    "reason",
		`{"reserve": {"gb": 4, "reason": "` + strings.Repeat("x", 257) + `"}}`:   "reason",
		`{"reserve": {"gb": 4, "hold": true}}`:                                   `"hold"`,
		`{"reserve": {"gb": 4}, "release": "x"}`:                                 "reserve and release",
		`{"release": ""}`:                                                        "release",
		`{"release": ["x"]}`:                                                     "release",
		`{"hot_load": {"model_name": "a", "model_config": {"SIZE_GB": 1}}}`:      `"SIZE_GB"`,
		`{"hot_load": {"model_name": "a", "model_config": {"size_gb": 1e-300}}}`: "size_gb",
		`{"capabilities": [` + strings.Repeat(`"x",`, 10_000) + `"x"]}`:          "capabilities",
		`{"` + strings.Repeat("k", 100_000) + `": 1}`:                            "kkkk",
		`{"model": "` + strings.Repeat("m", 1<<20) + `"}`:                        "larger than",
	} {
		op, err := Parse([]byte(request), 1<<20)
		invalid, ok := errors.AsType[*tier.InvalidError](err)
		switch {
		case !ok || op != nil:
			t.Errorf("%.60s: %v, %v", request, op, err)
		case !strings.Contains(err.Error(), named) || len(err.Error()) > 200 || len(invalid.Suggestions()) == 0:
			t.Errorf("%.60s: %q, %q, want the name %s in a short error", request, err, invalid.Suggestions(), named)
		}
	}
}

// What the error of an unknown key lists is what Parse knows.
func TestParse_KeysThatErrorsList_AreKnown(t *testing.T) {
	for _, key := range strings.Split(requestKeys, ", ") {
		if _, err := Parse([]byte(`{"`+key+`": 7.5}`), 1000); err == nil && key != "deadline_ms" || err != nil && strings.HasPrefix(err.Error(), "Unknown key") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestParseReservation_IsAReserveWithHold(t *testing.T) {
	for request, want := range map[string]*Reserve{
		` {"gb": 4, "hold": true, "for_s": 60} `: {Bytes: 4 * tier.GiB, For: time.Minute, Hold: true},
		`{"gb": 4, "hold": true}`:                {Bytes: 4 * tier.GiB, Hold: true},
		`{"gb": 4, "hold": false}`:               {Bytes: 4 * tier.GiB, For: 10 * time.Minute},
		`{"gb": 4}`:                              {Bytes: 4 * tier.GiB, For: 10 * time.Minute},
	} {
		if got, err := ParseReservation([]byte(request), 100); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", request, got, err, want)
		}
	}
	for request, named := range map[string]string{
		`{"gb": 4, "hold": 1}`: "hold", `{"reserve": {"gb": 4}}`: `"reserve"`, `{"gb": -1}`: "gb", `{`: "unexpected end", `[]`: "request",
		`{"gb": 4, "reason": "` + strings.Repeat("x", 100) + `"}`: "larger than",
	} {
		if got, err := ParseReservation([]byte(request), 100); got != nil || !errors.Is(err, tier.ErrInvalid) || !strings.Contains(err.Error(), named) {
			t.Errorf("%s: %+v, %v, want the name %s", request, got, err, named)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"model": "a"}`, `{"hot_load": {"model_name": "x", "model_config": {"size_gb": 1, "tier": "ram", "capabilities": ["x"]}}}`,
		`{"move_tier": {"model_name": "x", "target_tier": "swap"}}`, `{"update_limits": {"ram_max_gb": 6}}`, `{"load_status": "x"}`,
		`{"hint": {"model_name": "x", "within_s": 1}}`, `{"reserve": {"gb": 1, "for_s": 1, "reason": "x"}}`, `{"constraints": ["context >= 1"]}`, `{"list_models": true}`, `{"a":`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		op, err := Parse(raw, 1<<20)
		if (op == nil) == (err == nil) {
			t.Fatalf("%q: %v, %v", raw, op, err)
		}
		var keys map[string]json.RawMessage
		switch fault := json.Unmarshal(raw, &keys); {
		case err != nil && !errors.Is(err, tier.ErrInvalid):
			t.Fatalf("%q: %v is no ErrInvalid", raw, err)
		case err == nil && (fault != nil || keys == nil):
			t.Fatalf("%q is no object, and is read as %+v", raw, op)
		}
		for key := range keys {
			if !strings.Contains(requestKeys, key) && err == nil {
				t.Fatalf("%q: the unknown key %q is accepted", raw, key)
			}
		}
	})
}

// FuzzEachField holds the walk through an object against encoding/json.
func FuzzEachField(f *testing.F) {
	for _, s := range []string{
		`{}`, ` { } `, `{"a":1}`, `{"a" : [1, {"b": "}"}] , "c":"\"\\" }`, `{"a":-1.5e3,"b":true,"c":null,"d":"\u00e9"}`,
		`{"a":1,"a":2}`, `{"\u0061":1,"a":2}`, "{\"\xff\":1}", `{"a":{"a":{"a":[]}}}`, "{\n\t\"a\"\r: \"b\"}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var want map[string]json.RawMessage
		if json.Unmarshal(raw, &want) != nil || want == nil {
			t.Skip("no object")
		}
		got := map[string][]byte{}
		if eachField("request", raw, func(key string, value []byte) error {
			got[key] = value
			return nil
		}) != nil {
			return // a duplicate key
		}
		if len(got) != len(want) {
			t.Fatalf("%q: %d fields, want %d", raw, len(got), len(want))
		}
		for key, value := range want {
			if !bytes.Equal(got[key], value) {
				t.Fatalf("%q: %q is %q, want %q", raw, key, got[key], value)
			}
			var s *string
			if text, err := text("x", value); (err == nil) != (json.Unmarshal(value, &s) == nil && s != nil) || err == nil && text != *s {
				t.Fatalf("%q as a string is %q, want %v", value, text, s)
			}
			var n *float64
			if number, err := number("x", value); (err == nil) != (json.Unmarshal(value, &n) == nil && n != nil) || err == nil && number != *n {
				t.Fatalf("%q as a number is %v, want %v", value, number, n)
			}
			var list []*string
			if texts, err := texts("x", value); err == nil && (json.Unmarshal(value, &list) != nil || len(list) != len(texts)) {
				t.Fatalf("%q is read as the list %q", value, texts)
			}
		}
	})
}

func TestParse_ValueOfAnotherType_SuggestsWhatToSend(t *testing.T) {
	for _, request := range []string{
		`{"pin": 7}`, `{"pin": {"model_name": "a", "pinned": "yes"}}`, `{"alias": "a"}`, `{"alias": {"name": 7, "model_name": "a"}}`,
		`{"unload": "a"}`, `{"unload": {"model_name": "a", "when_idle": 1}}`,
	} {
		_, err := Parse([]byte(request), 1<<20)
		help := tier.Suggestions(err)
		if len(help) != 2 || !strings.Contains(help[0], "must be") || !strings.HasPrefix(help[1], `Send {"`) {
			t.Errorf("%s: %v, %q", request, err, help)
		}
	}
}
