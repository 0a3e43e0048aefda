package serve

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenFolder_LinkToAnotherDrive_FollowedWhereAllowedAndElseTold(t *testing.T) {
	dir, drive := t.TempDir(), t.TempDir()
	file := filepath.Join(drive, "far.safetensors")
	header := `{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`
	if err := os.WriteFile(file, []byte(string(rune(len(header)))+"\x00\x00\x00\x00\x00\x00\x00"+header+"w"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, filepath.Join(dir, "far.safetensors")); err != nil {
		t.Skipf("needs symbolic links: %v", err)
	}
	for _, follow := range [][]string{nil, {drive}} {
		var said strings.Builder
		lib, err := openLibrary(t.Context(), &options{models: dir, follow: follow, stated: true}, &said)
		if err != nil {
			t.Fatal(err)
		}
		r := &reloader{}
		if _, err := startFiles(lib, r, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		now := r.manager.Status()
		r.manager.Close()
		lib.tellLeftOut(&said, now)
		if models, left := len(now.Models), len(now.LeftOut); models != len(follow) || left != 1-len(follow) || strings.Contains(said.String(), "leads out") != (left == 1) {
			t.Errorf("-follow %q: %d models, %d left out, it said %q", follow, models, left, said.String())
		}
	}
}

func TestParse_FollowWithoutModels_IsRefused(t *testing.T) {
	if _, err := parse([]string{"serve", "--follow", "/x"}, noEnv, io.Discard); err == nil {
		t.Error("-follow without -models is taken")
	}
}
