package hotload

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// other is llama with other weights: the same header and size.
func other() string { return llama()[:len(llama())-1] + "\x01" }

// versionAt returns the version of the model at a path, which Inspect, Scan and Gather
// tell alike.
func versionAt(t *testing.T, path string) string {
	t.Helper()
	info, err := Inspect(path)
	must(t, err)
	out, errs := Gather([]tier.Model{{Name: "m", Path: path, Version: "said"}}, "")
	must(t, errs[0])
	m := info.Model(path)
	if out[0].Version != m.Version || m.Version == "" {
		t.Fatalf("Gather says %q, Inspect %q", out[0].Version, m.Version)
	}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	models, _, err := Scan(t.Context(), filepath.Dir(path))
	must(t, err)
	for _, found := range models {
		if found.Path == m.Path && found.Version != m.Version {
			t.Fatalf("Scan says %q, Inspect %q", found.Version, m.Version)
		}
	}
	return m.Version
}

func TestVersion_TellsContentAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("x", 1<<20)
	plant(t, dir, map[string]string{
		"a/m.gguf": llama(), "b/renamed.gguf": llama(), "weights/m.gguf": other(), "header/m.gguf": strings.Replace(llama(), "Small", "Large", 1),
		"a/x.bin": long, "b/y.bin": long, "longer/x.bin": long + "x", "end/x.bin": long[1:] + "y", "middle/x.bin": strings.Repeat("x", 1<<19) + strings.Repeat("y", 1<<19),
		"a/set/m-00001-of-00002.gguf": ggufShard(1, 2), "a/set/m-00002-of-00002.gguf": ggufShard(2, 2),
		"b/set/m-00001-of-00002.gguf": ggufShard(1, 2), "b/set/m-00002-of-00002.gguf": ggufShard(2, 2),
		"more/set/m-00001-of-00002.gguf": ggufShard(1, 2), "more/set/m-00002-of-00002.gguf": ggufShard(2, 2), "more/set/mmproj-m.gguf": projector(),
		"a/hub/config.json": "{}", "a/hub/model.safetensors": safetensorsShard(), "b/called/config.json": "{}", "b/called/model.safetensors": safetensorsShard(),
	})
	at := func(path string) string { return versionAt(t, filepath.Join(dir, path)) }
	for _, same := range [][2]string{
		{"a/m.gguf", "b/renamed.gguf"}, {"a/x.bin", "b/y.bin"}, {"a/set/m-00001-of-00002.gguf", "b/set/m-00002-of-00002.gguf"}, {"a/hub", "b/called"},
	} {
		if a, b := at(same[0]), at(same[1]); a != b || !strings.HasPrefix(a, tier.VersionHeader) {
			t.Errorf("%s is %s, %s is %s", same[0], a, same[1], b)
		}
	}
	for _, different := range [][2]string{
		{"a/m.gguf", "weights/m.gguf"}, {"a/m.gguf", "header/m.gguf"}, {"a/x.bin", "longer/x.bin"}, {"a/x.bin", "end/x.bin"}, {"a/x.bin", "middle/x.bin"},
		{"a/set/m-00001-of-00002.gguf", "more/set/m-00001-of-00002.gguf"},
	} {
		if a, b := at(different[0]), at(different[1]); !tier.OtherVersion(a, b) {
			t.Errorf("%s and %s are both %s", different[0], different[1], a)
		}
	}
}

func TestVersion_StoreThatNamesBlobsByDigest_IsTheDigest(t *testing.T) {
	dir := t.TempDir()
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte(llama())))
	git := "4bf6a4eaa5c1d0e7a0b0ae0d3a4e3d5f2c1b0a99" // a file that is not in Git LFS
	plant(t, dir, map[string]string{
		"models--o--n/blobs/" + digest: llama(), "models--o--n/refs/main": "1", "models--o--n/snapshots/1/m.gguf": "-> ../../blobs/" + digest,
		"models--o--n/blobs/" + git: other(), "models--o--n/snapshots/1/n.gguf": "-> ../../blobs/" + git,
		"store/blobs/sha256-" + digest: llama(), "blobs/" + digest: llama(),
	})
	for path, want := range map[string]string{
		"models--o--n/snapshots/1/m.gguf": tier.VersionDigest + digest, "store/blobs/sha256-" + digest: tier.VersionDigest + digest,
		"models--o--n/snapshots/1/n.gguf": tier.VersionHeader, "blobs/" + digest: tier.VersionHeader,
	} {
		if got := versionAt(t, filepath.Join(dir, path)); !strings.HasPrefix(got, want) {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}

func TestGather_PartsSaidOrFileUnsound_HasAVersionAllTheSame(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{"m.gguf": llama(), "p.gguf": projector(), "broken.gguf": "GGUF, but no more", "missing-00001-of-00002.gguf": ggufShard(1, 2)})
	at := func(name string) string { return filepath.Join(dir, name) }
	said := tier.VersionHeader + strings.Repeat("0", 64)
	out, _ := Gather([]tier.Model{
		{Name: "parts", Path: at("m.gguf"), Parts: []string{at("p.gguf")}, Version: said},
		{Name: "broken", Path: at("broken.gguf"), Version: said},
		{Name: "gone", Path: at("gone.gguf"), Size: 1, Version: said},
		{Name: "no path", Size: 1, Version: said},
	}, "")
	for i, kept := range []bool{false, false, true, true} {
		if v := out[i].Version; v == "" || (v == said) != kept {
			t.Errorf("%s: version %q, as was said: want %v", out[i].Name, v, kept)
		}
	}
	parts := out[0].Version
	must(t, os.WriteFile(at("p.gguf"), []byte(projector()[:len(projector())-1]+"\x01"), 0o600))
	if out, _ := Gather(out[:1], ""); out[0].Version == parts {
		t.Error("another projector, and the same version")
	}
}
