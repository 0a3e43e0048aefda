//go:build unix

package config

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// To open a FIFO would block, and to read a device would have effects.
func TestRead_WhatIsNoRegularFile_IsRefusedUnopened(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, dir, os.DevNull} {
		if _, _, err := Read(path); err == nil || !strings.Contains(err.Error(), "must be a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, _, err := Read(filepath.Join(dir, "none")); !os.IsNotExist(err) {
		t.Error(err)
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(large); err == nil || !strings.Contains(err.Error(), "must not be longer") {
		t.Error(err)
	}
	k := Key{KeyFile: fifo}
	if _, err := k.Secret(nil); err == nil {
		t.Error("a key is read from a FIFO")
	}
}
