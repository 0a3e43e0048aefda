package main

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier"
)

func TestRun_FileNamed_ItsBytesAreUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weights")
	data := bytes.Repeat([]byte("weights "), 10_000)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := run([]string{path}, &out); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("mine: 78.1 KiB of weights, checksum %08x, served from ram after ", crc32.ChecksumIEEE(data))
	if !strings.HasPrefix(out.String(), want) {
		t.Errorf("got %q, want %q…", out.String(), want)
	}
}

func TestRun_Alone_MakesItsOwnFileAndLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var out strings.Builder
	if err := run(nil, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "mine: 64.0 MiB of weights") {
		t.Errorf("got %q", out.String())
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "weights-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestRun_WhatCannotBeServed_IsAnError(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{filepath.Join(t.TempDir(), "gone")}, {empty}, {t.TempDir()}} {
		if err := run(args, new(bytes.Buffer)); !errors.Is(err, modeltier.ErrInvalid) {
			t.Errorf("%q: got %v", args, err)
		}
	}
	if err := run([]string{"a", "b"}, new(bytes.Buffer)); err == nil {
		t.Error("two files were taken")
	}
}
