package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the files that are made from the types")

// current compares a file with what is made from the types.
func current(t *testing.T, path string, made []byte, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, made, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), made) {
		t.Errorf("%s is not what the types say: go test ./config -run Current -update", path)
	}
}

func TestSchema_IsCurrent(t *testing.T) {
	made, err := Schema()
	current(t, "schema.json", made, err)
}

func TestReference_IsCurrent(t *testing.T) {
	made, err := Reference()
	current(t, filepath.Join("..", "..", "..", "docs", "configuration.md"), made, err)
}

func TestTypes_EveryKeyIsDescribed(t *testing.T) {
	docs, err := readComments()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range structures() {
		if docs[s.Name()] == "" {
			t.Errorf("%s has no comment", s.Name())
		}
		for _, f := range fieldsOf(s) {
			if docs[s.Name()+"."+f.Name] == "" {
				t.Errorf("%s.%s has no comment", s.Name(), f.Name)
			}
			// What need says is what the schema reads off the tag.
			if omitted := strings.Contains(f.Tag.Get("json"), ",omit"); omitted == f.need {
				t.Errorf("%s.%s is needed and may be left out, or neither", s.Name(), f.Name)
			}
		}
	}
}

func TestSchema_PatternsAreThoseOfParse(t *testing.T) {
	size, time := regexp.MustCompile(sizePattern), regexp.MustCompile(timePattern)
	for _, text := range []string{"5GiB", "0.5 G", ".5k", "17B", "1e3GB", "5", "GB", "5XB", "-1G", "1.2.3GB"} {
		_, err := ParseSize(text)
		if size.MatchString(text) != (err == nil) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"90s", "1h30m", "1.5h", "2d", "100ms", "5", "d", "1d2h", "-1s", "soon"} {
		var d Duration
		if err := d.set(text, false); time.MatchString(text) != (err == nil) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSchema_ReferencesAreThere(t *testing.T) {
	made, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Properties map[string]any
		Defs       map[string]struct {
			Properties map[string]any
			Required   []string
		} `json:"$defs"`
	}
	if err := json.Unmarshal(made, &s); err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`"#/\$defs/(\w+)"`).FindAllSubmatch(made, -1) {
		if _, ok := s.Defs[string(m[1])]; !ok {
			t.Errorf("%s is not there", m[1])
		}
	}
	if len(s.Properties) != len(fieldsOf(reflect.TypeFor[File]())) {
		t.Errorf("%d properties", len(s.Properties))
	}
	if e := s.Defs["Engine"]; e.Properties["start_timeout_s"] == nil || !reflect.DeepEqual(e.Required, []string{"command"}) {
		t.Errorf("%+v", e)
	}
}

// The example is what a person starts from: nothing in it is wrong, and what is commented out
// is right too.
func TestExample_IsRight(t *testing.T) {
	path := filepath.Join("..", "modeltier.example.yaml")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^# ((?:  |[a-z_]+:|- ).*)$`).ReplaceAll(b, []byte("$1"))
	if bytes.Count(all, []byte("\n#")) == bytes.Count(b, []byte("\n#")) {
		t.Error("nothing is commented out")
	}
	for what, b := range map[string][]byte{"as it is": b, "all of it": all} {
		f, warnings, err := Parse(path, b, "..")
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, %v", what, warnings, err)
			continue
		}
		if len(f.Models) != 3 || len(f.Engines) != 2 {
			t.Errorf("%s: %+v", what, f)
		}
		if what == "all of it" && (len(f.Keys) != 2 || len(f.Folders) != 1 || len(f.Hosts) != 1 || f.StandbyFor == 0) {
			t.Errorf("%s: %+v", what, f)
		}
	}
}
