package mapped

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// A pipe without a writer must not make anybody wait.
func TestOpen_SpecialFile_IsRefusedAtOnce(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "m.gguf")
	if err := syscall.Mkfifo(pipe, 0o644); err != nil {
		t.Skip(err)
	}
	other := filepath.Join(t.TempDir(), "m.bin") // of no known format
	must(t, syscall.Mkfifo(other, 0o644))
	for path, says := range map[string]string{pipe: "a pipe", filepath.Dir(pipe): "a pipe", filepath.Dir(other): "a pipe", os.DevNull: "a device"} {
		if _, err := open(newSystem(), &tier.Model{Name: "m", Path: path}); !errors.Is(err, tier.ErrInvalid) || !strings.Contains(err.Error(), says) || len(tier.Suggestions(err)) == 0 {
			t.Errorf("%s: %v, want an error about %s and a way out", path, err, says)
		}
	}
}

func TestOpen_MappingFails_ClosesEverything(t *testing.T) {
	mod := sharded(t, "m", 100, 200, 300)
	sys := newSystem()
	mapFile := sys.mapFile
	n := 0
	sys.mapFile = func(f *os.File, size int) ([]byte, error) {
		if n++; n == 3 {
			return nil, syscall.ENOMEM
		}
		return mapFile(f, size)
	}
	before := holdings(t)
	if _, err := open(sys, &mod); !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("open = %v", err)
	}
	if now := holdings(t); now != before {
		t.Errorf("holds %v, held %v", now, before)
	}
}
