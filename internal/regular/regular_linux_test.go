package regular

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpen_AnyKind_OnlyRegularFilesAreOpened(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	l, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(
		os.WriteFile(at("file"), []byte("abc"), 0o600), os.Symlink("file", at("link")), os.Mkdir(at("folder"), 0o700),
		unix.Mkfifo(at("pipe"), 0o600), os.Symlink("/dev/zero", at("device")),
	); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, want := range map[string]string{"file": "", "link": "", "folder": "a folder", "pipe": "a pipe", "socket": "a socket", "device": "a device", "gone": ""} {
		for _, within := range []bool{false, true} {
			f, info, err := Open(at(name))
			if within {
				if f != nil {
					f.Close()
				}
				f, info, err = OpenIn(root, name)
			}
			other, special := errors.AsType[*Error](err)
			switch {
			case want != "":
				// The root refuses the device as a link that leads out.
				if name == "device" && within {
					if err == nil {
						t.Error("a link was followed out of the root")
					}
				} else if !special || other.Kind != want || !strings.Contains(err.Error(), name) {
					t.Errorf("%s: %v, want %q", name, err, want)
				}
			case name == "gone":
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("gone: %v", err)
				}
			case err != nil || info.Size() != 3:
				t.Errorf("%s: %v, %v", name, info, err)
			default:
				f.Close()
			}
		}
	}
}

func TestOpen_ReplacedByAPipeAfterTheLook_RefusedWithoutWaiting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, _, err := open(path, func(path string) (fs.FileInfo, error) {
		info, err := os.Stat(path)
		return info, errors.Join(err, os.Remove(path), unix.Mkfifo(path, 0o600))
	}, os.OpenFile)
	if _, special := errors.AsType[*Error](err); !special {
		t.Errorf("%v, %v", f, err)
	}
}

func TestList_ManyFiles_ByNameUpToTheLimit(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.GGUF", "c.safetensors", "a.txt", ".gguf"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := List(dir, 10)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name()+"="+Weights(e.Name()))
	}
	if want := ".gguf=gguf a.txt= b.GGUF=gguf c.safetensors=safetensors"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	if entries, err := List(dir, 3); err != nil || len(entries) != 3 {
		t.Errorf("%d entries, %v, want 3", len(entries), err)
	}
	if _, err := List(filepath.Join(dir, "gone"), 3); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("gone: %v", err)
	}
}
