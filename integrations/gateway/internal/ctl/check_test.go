package ctl

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheck_Faults_HaveTheirPlace(t *testing.T) {
	run := at(t, "http://127.0.0.1:1")
	dir := t.TempDir()
	file := filepath.Join(dir, "modeltier.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("limts: {}\nlimits:\n  ram: 5\n  swap: 1 parsec\n")
	got := run("check", file)
	for _, words := range []string{file + ":1:", "limts", "(warning)", file + ":3:8: limits.ram", file + ":4:9: limits.swap"} {
		if !strings.Contains(got.out, words) {
			t.Errorf("it lacks %q", words)
		}
	}
	if got.code != exitFailed || got.stderr != "modeltier: 2 faults\n" {
		t.Errorf("%+v", got)
	}
	told := run("check", "-json", file)
	answer := decode[struct {
		File             string
		Faults, Warnings []finding
	}](t, told)
	if told.code != exitFailed || answer.File != file || len(answer.Faults) != 2 || answer.Faults[1].Line != 4 || answer.Faults[1].Rule == "" || len(answer.Warnings) != 1 {
		t.Errorf("%+v", told)
	}

	write("folders: [" + dir + "]\nengines: {a: {command: [" + filepath.Join(dir, "absent") + ", '{port}', '{path}']}}\n")
	if got := run("check", file); got.code != exitFailed || !strings.Contains(got.out, filepath.Join(dir, "absent")) {
		t.Errorf("a program that is not there: %+v", got)
	}
	write("limits: {ram: 5GiB}\nlimts: {}\n")
	if got := run("check", file); got.code != exitDone || !strings.Contains(got.out, "is in order") {
		t.Errorf("a warning alone: %+v", got)
	}
	absent := filepath.Join(dir, "absent.yaml")
	if got := run("check", absent); got.code != exitFailed || !strings.Contains(got.out, absent) {
		t.Errorf("%+v", got)
	}
	if got := run("check"); got.code != exitUsage {
		t.Errorf("%+v", got)
	}
	if got := fmt.Sprint(findings("x", nil)); got != "[]" {
		t.Error(got)
	}
}
