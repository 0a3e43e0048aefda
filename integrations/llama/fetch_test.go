package llama

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestReleased_EachPlatform_ItsOwnPackageOrAnError(t *testing.T) {
	x64, hash, err := released("linux/amd64")
	arm, other, err2 := released("linux/arm64")
	if errors.Join(err, err2) != nil || x64 == arm || hash[:8] == other[:8] { // of the hash, that is the folder's name
		t.Errorf("%s %s %v, %s %s %v", x64, hash, err, arm, other, err2)
	}
	for _, platform := range []string{"linux/386", "darwin/arm64", "windows/amd64"} {
		if release, _, err := released(platform); !errors.Is(err, errElsewhere) {
			t.Errorf("%s: %s %v", platform, release, err)
		}
	}
}

// packed returns a package of files.
func packed(t *testing.T, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(name)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUnpack_LibrariesAlone_WithTheNamesThatTheBindingOpens(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "libs")
	err := unpack(packed(t, "package/bins/libllama.v0.5.0.so", "package/bins/libggml.v0.5.0.so", "package/bins/libggml-base.so", "package/README.md", "../../evil.so"), dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"evil.so", "libggml-base.so", "libggml.so", "libggml.v0.5.0.so", "libllama.so", "libllama.v0.5.0.so"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%v, %v", names, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "libllama.so")); err != nil || string(b) != "package/bins/libllama.v0.5.0.so" {
		t.Errorf("libllama.so is %q, %v", b, err)
	}
	if err := unpack(packed(t, "package/README.md"), filepath.Join(t.TempDir(), "libs")); err == nil {
		t.Error("a package without libraries is taken")
	}
}
