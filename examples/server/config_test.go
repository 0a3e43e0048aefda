package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestConfig_Faults_AllAreNamed(t *testing.T) {
	_, err := parseConfig([]byte(`{"engines":{"e":{"standby":"nap","start_timeout_s":-3}},"limits":{"ram_gb":-1},
		"models":[{"name":"a","engine":"f"},{"name":"a"},{"name":"auto","size_gb":-2}]}`), "/")
	if err == nil {
		t.Fatal("it is taken")
	}
	for _, want := range []string{`"nap"`, "start_timeout_s -3", "-1", `no engine "f"`, "twice", `"auto"`, "-2"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in %q", want, err)
		}
	}
	for bad, says := range map[string]string{
		"{\n\"models\": [\n{\"name\": 7}]}":   "line 3: ",
		"{\n\"models\": [\n\n{\"name\": x}]}": "line 4: ",
	} {
		if _, err := parseConfig([]byte(bad), "/"); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want an error that says %q", bad, err, says)
		}
	}
	for _, bad := range []string{"", "[]", `{"engine":{}}`, `{} {}`} {
		if _, err := parseConfig([]byte(bad), "/"); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestConfig_Example_IsValid(t *testing.T) {
	lib, err := readConfig("config.example.json")
	if err != nil {
		t.Fatal(err)
	}
	known := &registry{}
	known.admit(lib.engines)
	if len(lib.models) != 2 {
		t.Errorf("%+v", lib.models)
	}
	if engine, err := known.engineOf(&lib.models[0]); err != nil || engine.Context != 4096 {
		t.Errorf("%+v, %v", engine, err)
	}
}

func TestConfig_StartTimeout_IsTheEngines(t *testing.T) {
	c, err := parseConfig([]byte(`{"engines":{"e":{"command":["e","{port}"],"start_timeout_s":1.5}}}`), "/")
	if err != nil {
		t.Fatal(err)
	}
	e := c.Engines["e"]
	if got := e.engine().StartTimeout; got != 1500*time.Millisecond {
		t.Error(got)
	}
}

func FuzzParseConfig(f *testing.F) {
	b, err := os.ReadFile("config.example.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseConfig(b, "/"); err == nil {
			c.library("/")
		}
	})
}
