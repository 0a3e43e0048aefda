package hotload

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

func sumOf(content string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(content))) }

func TestGather_DigestsBesideTheFiles_FoundWherePeopleKeepThem(t *testing.T) {
	right, wrong, other := sumOf("right"), sumOf("wrong"), sumOf("other")
	hub, blob := "models--o--m/snapshots/r/", "models--o--m/blobs/"+right
	for name, tt := range map[string]struct {
		files map[string]string
		path  string // "": m.gguf
		want  map[string]string
		by    string // Source of all of them
	}{
		"nothing":                {files: map[string]string{"m.gguf.md5": right}},
		"bare digest":            {files: map[string]string{"m.gguf.sha256": strings.ToUpper(right)}, want: map[string]string{"m.gguf": right}, by: "m.gguf.sha256"},
		"of Windows":             {files: map[string]string{"m.gguf.SHA256": "\xef\xbb\xbf" + right + " *m.gguf\r\n"}, want: map[string]string{"m.gguf": right}, by: "m.gguf.SHA256"},
		"of BSD":                 {files: map[string]string{"m.gguf.sha256": "SHA256 (m.gguf) = " + right + "\n"}, want: map[string]string{"m.gguf": right}, by: "m.gguf.sha256"},
		"renamed since":          {files: map[string]string{"m.gguf.sha256": right + "  dist/first-name.gguf\n" + right + "  first.gguf"}, want: map[string]string{"m.gguf": right}, by: "m.gguf.sha256"},
		"made from above":        {files: map[string]string{"m.gguf.sha256": right + "  models/m.gguf\n"}, want: map[string]string{"m.gguf": right}, by: "m.gguf.sha256"},
		"of an absolute path":    {files: map[string]string{"m.gguf.sha256": right + "  /srv/models/m.gguf\n", "SHA256SUMS": wrong + "  m.gguf\n"}, want: map[string]string{"m.gguf": right}, by: "m.gguf.sha256"},
		"made from above, two":   {files: map[string]string{"m.gguf.sha256": right + "  a/m.gguf\n" + wrong + "  b/m.gguf\n"}},
		"two lists of a folder":  {files: map[string]string{"SHA256SUMS": right + "  m.gguf\n", "sha256sums.txt": wrong + "  m.gguf\n"}},
		"two lists and its own":  {files: map[string]string{"SHA256SUMS": right + "  m.gguf\n", "sha256sums.txt": wrong + "  m.gguf\n", "m.gguf.sha256": other}, want: map[string]string{"m.gguf": other}, by: "m.gguf.sha256"},
		"two lists that agree":   {files: map[string]string{"SHA256SUMS": right + "  m.gguf\n", "huggingface-metadata.txt": right + "  m.gguf\n"}, want: map[string]string{"m.gguf": right}, by: "huggingface-metadata.txt"},
		"one of several":         {files: map[string]string{"m.gguf.sha256": wrong + "  a.gguf\n" + right + "  ./m.gguf\n"}, want: map[string]string{"m.gguf": right}, by: "m.gguf.sha256"},
		"none of several":        {files: map[string]string{"m.gguf.sha256": wrong + "  a.gguf\n" + right + "  b.gguf\n"}},
		"list of the folder":     {files: map[string]string{"SHA256SUMS": "# made by hand\n" + wrong + "  a.gguf\n" + right + "  m.gguf\n"}, want: map[string]string{"m.gguf": right}, by: "SHA256SUMS"},
		"list of a web UI":       {files: map[string]string{"huggingface-metadata.txt": "url: https://x\nsha256sum:\n    " + right + " m.gguf\n"}, want: map[string]string{"m.gguf": right}, by: "huggingface-metadata.txt"},
		"its own goes first":     {files: map[string]string{"sha256sums.txt": wrong + "  m.gguf\n", "m.gguf.sha256": right}, want: map[string]string{"m.gguf": right}, by: "m.gguf.sha256"},
		"two digests":            {files: map[string]string{"SHA256SUMS": wrong + "  m.gguf\n" + right + "  m.gguf\n"}},
		"another folder's":       {files: map[string]string{"SHA256SUMS": right + "  ../x/m.gguf\n" + right + "  sub/m.gguf\n" + right + "  /m.gguf\n" + right + "  .\n"}},
		"of another sum":         {files: map[string]string{"m.gguf.sha256": right + right + "\n", "SHA256SUMS": right[:40] + "  m.gguf\n"}},
		"too long":               {files: map[string]string{"SHA256SUMS": right + "  m.gguf\n" + strings.Repeat("\n", maxSums)}},
		"a link that leads out":  {files: map[string]string{"../m.gguf.sha256": right, "m.gguf.sha256": "-> ../m.gguf.sha256"}},
		"Hugging Face's cache":   {files: map[string]string{blob: llama(), hub + "m.gguf": "-> ../../blobs/" + right}, path: hub + "m.gguf", want: map[string]string{hub + "m.gguf": right}, by: blob},
		"its small files":        {files: map[string]string{"models--o--m/blobs/" + right[:40]: llama(), hub + "m.gguf": "-> ../../blobs/" + right[:40]}, path: hub + "m.gguf"},
		"a folder called blobs":  {files: map[string]string{"blobs/" + right: llama(), "l/m.gguf": "-> ../blobs/" + right}, path: "l/m.gguf"},
		"Ollama's blob":          {files: map[string]string{"blobs/sha256-" + right: llama()}, path: "blobs/sha256-" + right, want: map[string]string{"blobs/sha256-" + right: right}, by: "blobs/sha256-" + right},
		"each shard of a set":    {files: map[string]string{"s-00001-of-00002.gguf": ggufShard(1, 2), "s-00002-of-00002.gguf": ggufShard(2, 2), "SHA256SUMS": right + "  s-00001-of-00002.gguf\n" + other + "  s-00002-of-00002.gguf\n"}, path: "s-00002-of-00002.gguf", want: map[string]string{"s-00001-of-00002.gguf": right, "s-00002-of-00002.gguf": other}, by: "SHA256SUMS"},
		"a folder of its own":    {files: map[string]string{"h/config.json": bertConfig, "h/model.safetensors": safetensorsShard(), "h/sha256sum.txt": right + "  model.safetensors\n"}, path: "h", want: map[string]string{"h/model.safetensors": right}, by: "h/sha256sum.txt"},
		"a file of other format": {files: map[string]string{"w.bin": "x", "w.bin.sha256": right}, path: "w.bin", want: map[string]string{"w.bin": right}, by: "w.bin.sha256"},
	} {
		top := t.TempDir()
		dir := filepath.Join(top, "models")
		plant(t, dir, map[string]string{"m.gguf": llama()})
		plant(t, dir, tt.files)
		path := tt.path
		if path == "" {
			path = "m.gguf"
		}
		at := func(name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }
		want := make(map[string]tier.Digest)
		for file, sum := range tt.want {
			want[at(file)] = tier.Digest{SHA256: sum, Source: at(tt.by)}
		}
		out, errs := Gather([]tier.Model{{Name: "m", Path: at(path)}}, dir)
		if m := out[0]; errs[0] != nil || !maps.Equal(m.Digests, want) || m.Validate() != nil {
			t.Errorf("%s: %v, %v, %v; want %v", name, m.Digests, errs[0], m.Validate(), want)
		}
		found, left, err := Scan(t.Context(), dir)
		must(t, err)
		for _, m := range found {
			if m.Path == out[0].Path && !maps.Equal(m.Digests, want) {
				t.Errorf("%s: a scan found %v, want %v; left out %v", name, m.Digests, want, left)
			}
		}
	}
}

func TestGather_DigestsOfTheOwner_StayAndThoseFoundBeforeGo(t *testing.T) {
	dir := t.TempDir()
	ours, found, old := sumOf("ours"), sumOf("found"), sumOf("old")
	plant(t, dir, map[string]string{
		"s-00001-of-00002.gguf": ggufShard(1, 2), "s-00002-of-00002.gguf": ggufShard(2, 2), "one.gguf": llama(),
		"SHA256SUMS": found + "  s-00001-of-00002.gguf\n" + found + "  one.gguf\n",
	})
	t.Chdir(dir)
	at := func(name string) string { return filepath.Join(dir, name) }
	in := []tier.Model{
		// By whatever path it is called, it is the file of the set.
		{Name: "set", Path: "s-00002-of-00002.gguf", Digests: map[string]tier.Digest{"./s-00001-of-00002.gguf": {SHA256: ours}, at("s-00002-of-00002.gguf"): {SHA256: old, Source: "x"}}},
		{Name: "one", Path: "one.gguf", Digests: map[string]tier.Digest{"one.gguf": {SHA256: old, Source: at("one.gguf.sha256")}}},
		{Name: "gone", Path: "gone.gguf", Digests: map[string]tier.Digest{"gone.gguf": {SHA256: old, Source: "x"}}},
		{Name: "stray", Path: "one.gguf", Digests: map[string]tier.Digest{"stray.gguf": {SHA256: ours}}},
	}
	out, _ := Gather(in, "")
	for i, want := range []map[string]tier.Digest{
		{at("s-00001-of-00002.gguf"): {SHA256: ours}},
		{"one.gguf": {SHA256: found, Source: at("SHA256SUMS")}},
		in[2].Digests,
		{"one.gguf": {SHA256: found, Source: at("SHA256SUMS")}, "stray.gguf": {SHA256: ours}},
	} {
		if !maps.Equal(out[i].Digests, want) {
			t.Errorf("%s: %v, want %v", out[i].Name, out[i].Digests, want)
		}
	}
	if err := out[3].Validate(); err == nil || !strings.Contains(err.Error(), "stray.gguf") {
		t.Errorf("a digest of no file of the model: %v", err)
	}
}

func TestScan_ListOfNoDigests_ToldWhy(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{"m.gguf": llama(), "m.gguf.sha256": "<html>not found</html>"})
	models, skipped := sets(t, dir)
	if len(models) != 1 || !strings.Contains(skipped["m.gguf.sha256"], "no list of SHA-256 digests") {
		t.Errorf("%v, left out %v", models, skipped)
	}
}

func TestScan_ListsThatSayTwoThings_AreTold(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{
		"m.gguf": llama(), "SHA256SUMS": sumOf("a") + "  m.gguf\n", "sha256sums.txt": sumOf("b") + "  m.gguf\n",
		"n.gguf": llama(), "n.gguf.sha256": sumOf("a") + "  x/n.gguf\n" + sumOf("b") + "  n.gguf\n",
	})
	_, skipped := sets(t, dir)
	if !strings.Contains(skipped["sha256sums.txt"], "SHA256SUMS") || !strings.Contains(skipped["n.gguf.sha256"], "no digest of n.gguf") {
		t.Errorf("left out %v", skipped)
	}
}

func TestWatch_DigestChanges_ModelIsReported(t *testing.T) {
	bubble(t, map[string]string{"a.gguf": llama()}, func(t *testing.T, w *watched) {
		w.plant(map[string]string{"a.gguf.sha256": sumOf("1")})
		w.expect(3, "~a")
		w.plant(map[string]string{"a.gguf.sha256": sumOf("12") + "\n"})
		w.expect(3, "~a")
		must(t, os.Remove(w.path("a.gguf.sha256")))
		w.expect(3, "~a")
	})
}

func FuzzParseSums(f *testing.F) {
	sum := sumOf("x")
	for _, seed := range []string{
		sum, sum + "  m.gguf\n", sum + " *m.gguf\r\n", "SHA256 (m.gguf) = " + sum + "\n", "\\" + sum + "  a\\nb\n",
		sum + "  ../../etc/passwd\n" + sum + "  /etc/passwd\n" + sum + "  a/b\n" + sum + "  C:\\x\n", "url: x\n    " + sum + " m\n", sum + sum, "\x00" + sum,
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, single bool) {
		list, err := parseSums(text, single)
		if (err == nil) == (list == nil) {
			t.Fatalf("%v, %v", list, err)
		}
		for name, sum := range list {
			if sum != "" && !sha256Name.MatchString(sum) {
				t.Fatalf("%q is no digest", sum)
			}
			if name != "" && (filepath.Base(name) != name || !filepath.IsLocal(name)) {
				t.Fatalf("%q leads out of the folder", name)
			}
		}
		if len(list)*sha256Digits > len(text) {
			t.Fatalf("%d digests of %d bytes", len(list), len(text))
		}
	})
}
