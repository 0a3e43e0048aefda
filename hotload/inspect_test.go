package hotload

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modeltier/modeltier/tier"
)

// tree of files, by path below dir. A value that begins with "-> " is a symbolic
// link; a name that ends with a slash is a folder.
func plant(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			if err := os.Symlink(filepath.FromSlash(target), path); err != nil {
				t.Skipf("needs symbolic links: %v", err)
			}
		} else if strings.HasSuffix(name, "/") {
			must(t, os.MkdirAll(path, 0o755))
		} else {
			must(t, os.WriteFile(path, []byte(content), 0o644))
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ggufShard is one of several files of a model; only the first has the metadata.
func ggufShard(no, of int) string {
	g := newGGUF("")
	if no == 1 {
		g = newGGUF("llama").set("general.file_type", uint32(15)).set("llama.context_length", uint32(2048)).set("tokenizer.chat_template", "x")
	}
	g.set("split.no", uint16(no-1)).set("split.count", uint16(of)).set("split.tensors.count", int32(of))
	return string(g.tensor(fmt.Sprint("t", no), 12, 256).bytes())
}

func safetensorsShard() string {
	return string(safetensorsFile(`{"x":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}}`, 8))
}

func projector() string {
	return string(newGGUF("clip").set("clip.has_vision_encoder", true).tensor("v", 1, 16).bytes())
}

func llama() string { return string(smallLlama().bytes()) }

func TestInspect_OneFile_HeaderSizeAndName(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{
		"Small-Q4_K_M.gguf": llama(), "no-extension": llama(), "w.safetensors": safetensorsShard(),
		"pytorch_model.bin": "anything", "x": "abc", "m-00002-of-00002.gguf": ggufShard(2, 2), "m-00001-of-00002.gguf": ggufShard(1, 2),
	})
	for _, tt := range []struct {
		file          string
		format        Format
		name          string
		shard, shards int
	}{
		{"Small-Q4_K_M.gguf", FormatGGUF, "Small-Q4_K_M", 0, 0},
		{"no-extension", FormatGGUF, "no-extension", 0, 0},
		{"w.safetensors", FormatSafetensors, "w", 0, 0},
		{"pytorch_model.bin", FormatUnknown, "pytorch_model.bin", 0, 0},
		{"x", FormatUnknown, "x", 0, 0},
	} {
		path := filepath.Join(dir, tt.file)
		info, err := Inspect(path)
		if err != nil {
			t.Errorf("%s: %v", tt.file, err)
			continue
		}
		stat, _ := os.Stat(path)
		if info.Format != tt.format || info.Name != tt.name || info.Size != tier.Bytes(stat.Size()) || info.Shard != tt.shard || info.Shards != tt.shards {
			t.Errorf("%s: %+v", tt.file, info)
		}
		if size, err := Measure(path); err != nil || size != info.Size {
			t.Errorf("%s: Measure says %d, %v; Inspect %d", tt.file, size, err, info.Size)
		}
	}
	info, _ := Inspect(filepath.Join(dir, "Small-Q4_K_M.gguf"))
	model := info.Model("/m")
	want := tier.Model{
		Name: "Small-Q4_K_M", Path: "/m", Size: info.Size, Capabilities: []string{"text-generation", "chat"}, Version: info.Version,
		Labels: map[string]string{"format": "gguf", "architecture": "llama", "quantisation": "Q4_K_M", "title": "Small Llama", "context_length": "4096", "parameters": "1280"},
	}
	if diff := cmp.Diff(want, model); diff != "" {
		t.Errorf("model (-want +got):\n%s", diff)
	}
	t.Chdir(dir)
	for _, name := range []string{"no-extension", "m-00002-of-00002.gguf", "."} {
		info, err := Inspect(name)
		if name == "." {
			info, err = Inspect("w.safetensors")
		}
		must(t, err)
		if m := info.Model(name); m.Path != info.Entry || !slices.Equal(append([]string{m.Path}, m.Parts...), info.Files) {
			t.Errorf("by the relative path %s: %+v", name, m)
		}
	}
}

func TestInspect_Folder_IsOneModel(t *testing.T) {
	config := `{"architectures":["LlamaForCausalLM"],"max_position_embeddings":8192}`
	for _, tt := range []struct {
		name    string
		files   map[string]string
		format  Format
		tensors int64
		caps    []string
		context int64
		quant   string
	}{
		{"GGUF shards", map[string]string{"m-00001-of-00002.gguf": ggufShard(1, 2), "m-00002-of-00002.gguf": ggufShard(2, 2), "README.md": "x"},
			FormatGGUF, 2, []string{"text-generation", "chat"}, 2048, "Q4_K_M"},
		{"one file", map[string]string{"m.gguf": llama()}, FormatGGUF, 2, []string{"text-generation", "chat"}, 4096, "Q4_K_M"},
		{"with a projector", map[string]string{"m.gguf": llama(), "mmproj-m.gguf": projector()}, FormatGGUF, 3, []string{"text-generation", "chat", "vision"}, 4096, "Q4_K_M"},
		{"model hub", map[string]string{"model.safetensors": safetensorsShard(), "config.json": config, "tokenizer_config.json": `{"chat_template":"x"}`},
			FormatSafetensors, 1, []string{"text-generation", "chat"}, 8192, "F16"},
		{"model hub, sees", map[string]string{"model.safetensors": safetensorsShard(), "config.json": `{"architectures":["GemmaForConditionalGeneration"],"vision_config":{"a":1},"text_config":{"max_position_embeddings":16}}`},
			FormatSafetensors, 1, []string{"text-generation", "vision"}, 16, "F16"},
		{"model hub, sentences", map[string]string{"model.safetensors": safetensorsShard(), "config.json": config, "modules.json": `[]`},
			FormatSafetensors, 1, []string{"embeddings"}, 8192, "F16"},
		{"model hub, speech", map[string]string{"model.safetensors": safetensorsShard(), "config.json": `{"architectures":["WhisperForConditionalGeneration"]}`},
			FormatSafetensors, 1, []string{"transcription"}, 0, "F16"},
		{"model hub, classes", map[string]string{"model.safetensors": safetensorsShard(), "config.json": `{"architectures":["BertForSequenceClassification"]}`},
			FormatSafetensors, 1, []string{"text-classification"}, 0, "F16"},
		{"index", map[string]string{"a.safetensors": safetensorsShard(), "b.safetensors": safetensorsShard(), "config.json": config,
			"model.safetensors.index.json": `{"weight_map":{"x":"a.safetensors","y":"b.safetensors","z":"a.safetensors"}}`},
			FormatSafetensors, 2, []string{"text-generation"}, 8192, "F16"},
		{"safetensors shards without an index", map[string]string{"m-00001-of-00002.safetensors": safetensorsShard(), "m-00002-of-00002.safetensors": safetensorsShard()},
			FormatSafetensors, 2, nil, 0, "F16"},
		{"broken config", map[string]string{"model.safetensors": safetensorsShard(), "config.json": `{"architectures":`}, FormatSafetensors, 1, nil, 0, "F16"},
		{"with an adapter", map[string]string{"model.safetensors": safetensorsShard(), "config.json": config, "adapter_model.safetensors": string(safetensorsFile(`{"m.lora_A":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}`, 1))},
			FormatSafetensors, 1, []string{"text-generation"}, 8192, "F16"},
		{"unknown files", map[string]string{"pytorch_model.bin": "weights", "b": "more"}, FormatUnknown, 0, nil, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "my-model")
			plant(t, dir, tt.files)
			info, err := Inspect(dir)
			if err != nil {
				t.Fatal(err)
			}
			if info.Name != "my-model" || info.Format != tt.format || info.Tensors != tt.tensors || info.ContextLength != tt.context || info.Quantisation != tt.quant || info.Shards != 0 {
				t.Errorf("%+v", info)
			}
			if diff := cmp.Diff(tt.caps, info.Capabilities); diff != "" {
				t.Errorf("capabilities (-want +got):\n%s", diff)
			}
			var sum tier.Bytes
			for _, f := range info.Files {
				stat, err := os.Stat(f)
				must(t, err)
				sum += tier.Bytes(stat.Size())
			}
			if sum == 0 || info.Size != sum {
				t.Errorf("size %d, its files have %d", info.Size, sum)
			}
			if size, err := Measure(dir); err != nil || size != info.Size {
				t.Errorf("Measure says %d, %v; Inspect %d", size, err, info.Size)
			}
		})
	}
}

func TestInspect_ModelHub_WhatItsFilesSay(t *testing.T) {
	config := `{"architectures":["Qwen3ForCausalLM"],"max_position_embeddings":40960,"num_hidden_layers":36,"hidden_size":4096}`
	for _, tt := range []struct {
		name           string
		files          map[string]string
		caps           []string
		layers, width  int64
		licence        string
		template, tool bool
	}{
		{"plain", nil, []string{"text-generation"}, 36, 4096, "", false, false},
		{"template in the tokenizer's file", map[string]string{"tokenizer_config.json": `{"chat_template":"{{ messages }}"}`}, []string{"text-generation", "chat"}, 36, 4096, "", true, false},
		{"no template there", map[string]string{"tokenizer_config.json": `{"chat_template":null}`}, []string{"text-generation"}, 36, 4096, "", false, false},
		{"one of several for tools", map[string]string{"tokenizer_config.json": `{"chat_template":[{"name":"default","template":"x"},{"name":"tool_use","template":"{% for t in tools %}"}]}`},
			[]string{"text-generation", "chat", "tools"}, 36, 4096, "", true, true},
		{"template of its own", map[string]string{"chat_template.jinja": "{%- if tools %}"}, []string{"text-generation", "chat", "tools"}, 36, 4096, "", true, true},
		{"sees", map[string]string{"config.json": `{"architectures":["Gemma3ForConditionalGeneration"],"vision_config":{},"text_config":{"num_hidden_layers":34,"hidden_size":2560}}`},
			[]string{"text-generation", "vision"}, 34, 2560, "", false, false},
		{"licence", map[string]string{"README.md": "---\nlibrary_name: transformers\nlicense: apache-2.0\n---\n# Model\nlicense: none\n"}, []string{"text-generation"}, 36, 4096, "apache-2.0", false, false},
		{"licence of its own", map[string]string{"README.md": "---\r\nlicense: other\r\nlicense_name: \"gemma\"\r\n---\r\n"}, []string{"text-generation"}, 36, 4096, "gemma", false, false},
		{"card without a front", map[string]string{"README.md": "# Model\nlicense: mit\n"}, []string{"text-generation"}, 36, 4096, "", false, false},
		{"front without an end", map[string]string{"README.md": "---\nlicense: mit\n"}, []string{"text-generation"}, 36, 4096, "", false, false},
	} {
		dir := t.TempDir()
		plant(t, dir, map[string]string{"model.safetensors": safetensorsShard(), "config.json": config})
		plant(t, dir, tt.files)
		info, err := Inspect(dir)
		if err != nil || info.Layers != tt.layers || info.Width != tt.width || info.Licence != tt.licence || info.ChatTemplate != tt.template || info.Tools != tt.tool {
			t.Errorf("%s: %+v, %v", tt.name, info, err)
		}
		if diff := cmp.Diff(tt.caps, info.Capabilities); diff != "" {
			t.Errorf("%s: capabilities (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestInspect_CannotBeAModel_ErrorNamesWhatIsWrong(t *testing.T) {
	shard := func(no int) string { return ggufShard(no, 3) }
	for _, tt := range []struct {
		name  string
		files map[string]string
		path  string
		want  string
	}{
		{"missing", nil, "nothing.gguf", "cannot be read"},
		{"empty", map[string]string{"m.gguf": ""}, "m.gguf", "is empty"},
		{"empty safetensors", map[string]string{"m.safetensors": ""}, "m.safetensors", "is empty"},
		{"empty unknown", map[string]string{"m.bin": ""}, "m.bin", "is empty"},
		{"not what its name says", map[string]string{"m.gguf": "hello, world"}, "m.gguf", "does not begin with GGUF"},
		{"truncated", map[string]string{"m.gguf": llama()[:len(llama())-17]}, "m.gguf", "17 bytes"},
		{"truncated without an extension", map[string]string{"m": llama()[:len(llama())-17]}, "m", "17 bytes"},
		{"truncated safetensors", map[string]string{"m.safetensors": safetensorsShard()[:20]}, "m.safetensors", "truncated"},
		{"folder without files", map[string]string{"d/": ""}, "d", "holds no"},
		{"folder of hidden files", map[string]string{"d/.m.gguf": llama()}, "d", "holds no"},
		{"folder with an empty file", map[string]string{"d/x": ""}, "d", "holds no weights"},
		{"folder with a truncated file", map[string]string{"d/m.gguf": llama()[:100]}, "d", "truncated"},
		{"a good and a truncated file", map[string]string{"d/a.gguf": llama(), "d/b.gguf": llama()[:100]}, "d", "truncated"},
		{"two models", map[string]string{"d/a.gguf": llama(), "d/b.gguf": llama()}, "d", "holds 2 models"},
		{"a shard is missing", map[string]string{"d/m-00001-of-00003.gguf": shard(1), "d/m-00003-of-00003.gguf": shard(3)}, "d", `"m-00002-of-00003.gguf"`},
		{"many shards are missing", map[string]string{"d/m-00001-of-99999.safetensors": safetensorsShard()}, "d", "99998 are not there"},
		{"shard 0", map[string]string{"d/m-00000-of-00002.safetensors": safetensorsShard(), "d/m-00001-of-00002.safetensors": safetensorsShard()}, "d", "shard number"},
		{"a shard under a false name", map[string]string{"d/m-00001-of-00002.gguf": ggufShard(2, 2), "d/m-00002-of-00002.gguf": ggufShard(1, 2)}, "d", "by its header"},
		{"a shard under no name", map[string]string{"d/m.gguf": ggufShard(1, 2)}, "d", "by its header"},
		{"index names what is not there", map[string]string{"d/a.safetensors": safetensorsShard(), "d/model.safetensors.index.json": `{"weight_map":{"x":"a.safetensors","y":"gone.safetensors"}}`}, "d", `"gone.safetensors"`},
		{"index leads out", map[string]string{"d/a.safetensors": safetensorsShard(), "d/model.safetensors.index.json": `{"weight_map":{"x":"../a.safetensors"}}`}, "d", "in its folder or below"},
		{"index of nothing", map[string]string{"d/a.safetensors": safetensorsShard(), "d/model.safetensors.index.json": `{}`}, "d", "names 0 shards"},
		{"index of another shape", map[string]string{"d/a.safetensors": safetensorsShard(), "d/model.safetensors.index.json": `[1]`}, "d", "is not the JSON"},
		{"adapter alone", map[string]string{"d/a.gguf": string(newGGUF("llama").set("general.type", "adapter").tensor("t", 0, 1).bytes())}, "d", "is an adapter"},
		{"projector alone", map[string]string{"d/a.gguf": projector()}, "d", "is a projector"},
		{"vocabulary alone", map[string]string{"d/a.gguf": string(newGGUF("llama").bytes())}, "d", "holds no weights"},
		{"weights are a link to nothing", map[string]string{"d/a.gguf": llama(), "d/b.gguf": "-> gone"}, "d", "link to nothing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			plant(t, dir, tt.files)
			info, err := Inspect(filepath.Join(dir, tt.path))
			e, ok := errors.AsType[*FileError](err)
			if !ok || !errors.Is(err, tier.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%+v, error %v; want one about %q", info, err, tt.want)
			}
			if !strings.HasPrefix(e.Path, dir) {
				t.Errorf("the error names the path %q", e.Path)
			}
			if len(tier.Suggestions(err)) == 0 {
				t.Error("no way out is suggested")
			}
			if strings.Contains(tt.name, "empty") || tt.name == "missing" {
				if size, err := Measure(filepath.Join(dir, tt.path)); !errors.Is(err, tier.ErrInvalid) {
					t.Errorf("Measure says %d, %v", size, err)
				}
			}
		})
	}
	if _, err := Inspect(filepath.Join(t.TempDir(), "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v, want fs.ErrNotExist in it", err)
	}
}

// What is wrong within a folder comes with the advice that fits it.
func TestInspect_PartOfAFolder_AdviceFits(t *testing.T) {
	for advice, files := range map[string]map[string]string{
		"Wait until":          {"d/m.gguf": llama()[:100]},
		"Copy the missing":    {"d/a.safetensors": safetensorsShard(), "d/model.safetensors.index.json": `{"weight_map":{"x":"a.safetensors","y":"gone.safetensors"}}`},
		"Put the file itself": {"d/a.gguf": llama(), "d/b.gguf": "-> gone"},
		"Put a whole model":   {"d/a.gguf": projector()},
	} {
		dir := t.TempDir()
		plant(t, dir, files)
		_, err := Inspect(filepath.Join(dir, "d"))
		if got := tier.Suggestions(err); len(got) != 1 || !strings.HasPrefix(got[0], advice) {
			t.Errorf("%v: the advice is %q, want %q", err, got, advice)
		}
	}
	outside, root := t.TempDir(), t.TempDir()
	plant(t, outside, map[string]string{"secret.gguf": llama()})
	plant(t, root, map[string]string{"leaky/m.gguf": "-> " + filepath.Join(outside, "secret.gguf")})
	_, err := Resolve(root, "leaky")
	if got := tier.Suggestions(err); len(got) != 1 || !strings.HasPrefix(got[0], "Put the file itself") {
		t.Errorf("%v: the advice is %q", err, got)
	}
}

func TestInspect_SpecialFiles_RefusedAtOnce(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no devices and sockets in folders on windows")
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "s.gguf")
	l, err := net.Listen("unix", socket)
	must(t, err)
	defer l.Close()
	for _, path := range []string{"/dev/zero", socket, dir} {
		if info, err := Inspect(path); !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("Inspect(%s): %+v, %v", path, info, err)
		}
		if size, err := Measure(path); !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("Measure(%s): %d, %v", path, size, err)
		}
	}
}

func TestMeasure_Folder_CountsWeightsOnly(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{
		"a.safetensors": "12345", "b.safetensors": "678", "README.md": "no", ".git/lfs/a.safetensors": "12345",
		"onnx/c.safetensors": "12345", ".hidden.gguf": "123",
	})
	if got, err := Measure(dir); err != nil || got != 8 {
		t.Errorf("%d, %v; want 8", got, err)
	}
	other := t.TempDir()
	plant(t, other, map[string]string{"pytorch_model.bin": "12345", "b.bin": "678", ".hidden": "1", "sub/x": "1"})
	if got, err := Measure(other); err != nil || got != 8 {
		t.Errorf("%d, %v; want 8", got, err)
	}
}

// A folder's weights are its files: one that is empty would make the model smaller
// than it is, and a Mover serve a part of it.
func TestInspect_EmptyShard_RefusedByAll(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"GGUF":        {"d/m-00001-of-00002.gguf": ggufShard(1, 2), "d/m-00002-of-00002.gguf": ""},
		"safetensors": {"d/m-00001-of-00002.safetensors": safetensorsShard(), "d/m-00002-of-00002.safetensors": ""},
		"index":       {"d/a.safetensors": safetensorsShard(), "d/b.safetensors": "", "d/model.safetensors.index.json": `{"weight_map":{"x":"a.safetensors","y":"b.safetensors"}}`},
		"unknown":     {"d/m-00001-of-00002.bin": "weights", "d/m-00002-of-00002.bin": ""},
	} {
		dir := t.TempDir()
		plant(t, dir, files)
		path := filepath.Join(dir, "d")
		_, inspect := Inspect(path)
		_, measure := Measure(path)
		_, resolve := Resolve(dir, "d")
		for call, err := range map[string]error{"Inspect": inspect, "Measure": measure, "Resolve": resolve} {
			if e, ok := errors.AsType[*FileError](err); !ok || !strings.Contains(e.Reason, "is empty") || e.Path == path {
				t.Errorf("%s: %s: %v, want the empty file", name, call, err)
			}
		}
		if models, _, err := Scan(t.Context(), dir); err != nil || len(models) > 0 {
			t.Errorf("%s: Scan: %v, %v", name, models, err)
		}
	}
	dir := t.TempDir()
	plant(t, dir, map[string]string{"weights.bin": "abc", "__init__.py": ""})
	if size, err := Measure(dir); err != nil || size != 3 {
		t.Errorf("an empty file that is not a shard: %d, %v", size, err)
	}
}

func FuzzReadIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":16},"weight_map":{"x":"a.safetensors","y":"b.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"x":"../a.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"x":"a/b.safetensors","y":"."}}`))
	f.Add([]byte(`{"weight_map":{"x":"a/b.safetensors","y":"a/../a/c.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"x":"a/../../b.safetensors"}}`))
	dir := f.TempDir()
	path := filepath.Join(dir, "model.safetensors.index.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		must(t, os.WriteFile(path, data, 0o600))
		stat, err := os.Stat(path)
		must(t, err)
		names, err := (&tree{}).readIndex(&file{path, path, stat})
		if err != nil {
			if !errors.Is(err, tier.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		for _, n := range names {
			if !strings.HasPrefix(filepath.Join(dir, n), dir+string(filepath.Separator)) {
				t.Fatalf("%q leads out of the folder", n)
			}
		}
	})
}
