package hotload

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modeltier/modeltier/tier"
)

// sets returns what Scan found below dir: name → entry and parts, and what it left
// out: path → reason. Every path is relative to dir.
func sets(t *testing.T, dir string, follow ...string) (models map[string]string, skipped map[string]string) {
	t.Helper()
	found, left, err := Scan(t.Context(), dir, follow...)
	must(t, err)
	rel := func(path string) string {
		r, err := filepath.Rel(dir, path)
		must(t, err)
		return filepath.ToSlash(r)
	}
	models, skipped = make(map[string]string), make(map[string]string)
	for _, m := range found {
		if err := m.Validate(); err != nil {
			t.Error(err)
		}
		// Whatever of it is named, it is the same model with the same bytes.
		names := append([]string{m.Path}, m.Parts...)
		for _, path := range names {
			if path == m.Labels[tier.ProjectorLabel] || strings.Contains(path, "blobs") || m.Labels["format"] != "gguf" && path != m.Path {
				continue
			}
			again, errs := Gather([]tier.Model{{Name: m.Name, Path: path}}, dir, follow...)
			if again[0].Path != m.Path || again[0].Size != m.Size || !slices.Equal(again[0].Parts, m.Parts) || again[0].Labels[tier.ProjectorLabel] != m.Labels[tier.ProjectorLabel] {
				t.Errorf("named by %q, %s is %+v (%v); found was %+v", rel(path), m.Name, again[0], errs[0], m)
			}
		}
		parts := []string{rel(m.Path)}
		for _, p := range m.Parts {
			name := rel(p)
			if p == m.Labels[tier.ProjectorLabel] {
				name = "sees by " + name
			}
			parts = append(parts, name)
		}
		models[m.Name] = strings.Join(parts, ", ")
	}
	for _, s := range left {
		skipped[rel(s.Path)] = s.Reason
	}
	return models, skipped
}

const (
	bertConfig  = `{"architectures":["BertModel"]}`
	llamaConfig = "\xef\xbb\xbf" + `{"architectures":["LlamaForCausalLM"],"max_position_embeddings":8192}`
)

func ggufOf(architecture, kind string) string {
	g := newGGUF(architecture)
	if kind != "" {
		g.set("general.type", kind)
	}
	return string(g.set(architecture+".context_length", uint32(4096)).set("tokenizer.ggml.model", "gpt2").tensor("t", 0, 8).bytes())
}

func indexOf(names ...string) string {
	of := make(map[string]string)
	for i, n := range names {
		of[fmt.Sprint("t", i)] = n
	}
	b, _ := json.Marshal(map[string]any{"weight_map": of})
	return string(b)
}

// ollamaStore returns the files of a store with models by name/tag, each a list of
// layers: media type and content.
func ollamaStore(models map[string][][2]string, config string) map[string]string {
	files := map[string]string{"blobs/sha256-" + strings.Repeat("0", 64) + "-partial": "x"}
	blob := func(content string) map[string]any {
		sum := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
		files["blobs/sha256-"+sum] = content
		return map[string]any{"digest": "sha256:" + sum, "size": len(content)}
	}
	for name, layers := range models {
		m := map[string]any{"schemaVersion": 2, "config": blob(config)}
		var list []map[string]any
		for _, l := range layers {
			b := blob(l[1])
			b["mediaType"] = "application/vnd.ollama.image." + l[0]
			list = append(list, b)
		}
		m["layers"] = list
		raw, _ := json.Marshal(m)
		files["manifests/"+name] = string(raw)
	}
	return files
}

func TestScan_LayoutsOfPeople_SetsWithTheirPartsAndReasonsForTheRest(t *testing.T) {
	big := ggufOf("llama", "") + strings.Repeat("\x00", 64) // as another model
	pair := func(dir, stem string) map[string]string {
		return map[string]string{dir + stem + "-00001-of-00002.gguf": ggufShard(1, 2), dir + stem + "-00002-of-00002.gguf": ggufShard(2, 2)}
	}
	both := func(all ...map[string]string) map[string]string {
		out := make(map[string]string)
		for _, m := range all {
			maps.Copy(out, m)
		}
		return out
	}
	wide := string(newGGUF("llama").set("llama.embedding_length", uint32(4096)).set("llama.context_length", uint32(4096)).tensor("t", 0, 8).bytes())
	projectorFor := func(kind string, width uint32) string {
		return string(newGGUF("clip").set("clip.has_vision_encoder", true).set("clip.projector_type", kind).set("clip.vision.projection_dim", width).tensor("v", 1, 16).bytes())
	}
	lfs := "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4368438976\n"
	whole := `{"_class_name":"X","unet":["diffusers","UNet"],"vae":["diffusers","VAE"],"scheduler":["diffusers","PNDM"],"extra":[null,null],"missing":[null,null],"force":true}`
	adapter := string(safetensorsFile(`{"m.lora_A":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}`, 1))
	for _, tt := range []struct {
		name    string
		files   map[string]string
		models  map[string]string
		skipped map[string]string
	}{
		{"split sets in the root, beside others and two in one folder", both(pair("", "big-Q8"), pair("r/", "other-Q8"), pair("r/", "other-Q4"), map[string]string{"r/other-Q2.gguf": llama()}),
			map[string]string{
				"big-Q8": "big-Q8-00001-of-00002.gguf, big-Q8-00002-of-00002.gguf", "other-Q2": "r/other-Q2.gguf",
				"other-Q8": "r/other-Q8-00001-of-00002.gguf, r/other-Q8-00002-of-00002.gguf", "other-Q4": "r/other-Q4-00001-of-00002.gguf, r/other-Q4-00002-of-00002.gguf",
			}, nil},
		{"unsloth", both(pair("repo/UD-Q4_K_XL/", "Big-UD-Q4_K_XL"), pair("repo/BF16/", "Big-BF16"), map[string]string{"repo/mmproj-F16.gguf": projector(), "repo/mmproj-BF16.gguf": projector(), "repo/imatrix.gguf": ggufOf("llama", "imatrix")}),
			map[string]string{
				"Big-UD-Q4_K_XL": "repo/UD-Q4_K_XL/Big-UD-Q4_K_XL-00001-of-00002.gguf, repo/UD-Q4_K_XL/Big-UD-Q4_K_XL-00002-of-00002.gguf, sees by repo/mmproj-BF16.gguf",
				"Big-BF16":       "repo/BF16/Big-BF16-00001-of-00002.gguf, repo/BF16/Big-BF16-00002-of-00002.gguf, sees by repo/mmproj-BF16.gguf",
			}, map[string]string{"repo/mmproj-F16.gguf": `"mmproj-BF16.gguf" is the one`, "repo/imatrix.gguf": "no weights"}},
		{"LM Studio", map[string]string{"pub/nice-vl-GGUF/nice-vl-Q4_K_M.gguf": llama(), "pub/nice-vl-GGUF/nice-vl-Q8_0.gguf": llama(), "pub/nice-vl-GGUF/mmproj-nice-vl-f16.gguf": projector(), "pub/text/text-Q4.gguf": llama(), "pub/text/downloading_text-Q8.gguf.part": llama()},
			map[string]string{
				"nice-vl-Q4_K_M": "pub/nice-vl-GGUF/nice-vl-Q4_K_M.gguf, sees by pub/nice-vl-GGUF/mmproj-nice-vl-f16.gguf",
				"nice-vl-Q8_0":   "pub/nice-vl-GGUF/nice-vl-Q8_0.gguf, sees by pub/nice-vl-GGUF/mmproj-nice-vl-f16.gguf",
				"text-Q4":        "pub/text/text-Q4.gguf",
			}, map[string]string{"pub/text/downloading_text-Q8.gguf.part": "download"}},
		{"projectors of several models in one folder", map[string]string{"gemma-3-4b-it-Q4_K_M.gguf": llama(), "qwen-vl-Q8_0.gguf": llama(), "plain.gguf": llama(), "mmproj-gemma-3-4b-it-f16.gguf": projector(), "mmproj-gemma-3-4b-it-Q8_0.gguf": projector(), "qwen-vl-mmproj-f16.gguf": projector(), "mmproj-F16.gguf": projector()},
			map[string]string{
				"gemma-3-4b-it-Q4_K_M": "gemma-3-4b-it-Q4_K_M.gguf, sees by mmproj-gemma-3-4b-it-Q8_0.gguf", "plain": "plain.gguf",
				"qwen-vl-Q8_0": "qwen-vl-Q8_0.gguf, sees by qwen-vl-mmproj-f16.gguf",
			}, map[string]string{"mmproj-F16.gguf": "is a projector", "mmproj-gemma-3-4b-it-f16.gguf": "is a projector"}},
		{"a projector of a model that is not whole", map[string]string{"a.gguf": llama(), "vl.gguf": llama()[:200], "mmproj-vl.gguf": projector()},
			map[string]string{"a": "a.gguf"}, map[string]string{"vl.gguf": "truncated", "mmproj-vl.gguf": "is a projector"}},
		{"a projector of a model that is being downloaded", map[string]string{"Llama-3.1-8B.gguf": llama(), "Qwen2-VL-2B-Q4_K_M.gguf.part": "x", "mmproj-Qwen2-VL-2B-f16.gguf": projector()},
			map[string]string{"Llama-3.1-8B": "Llama-3.1-8B.gguf"}, map[string]string{"mmproj-Qwen2-VL-2B-f16.gguf": "is a projector", "Qwen2-VL-2B-Q4_K_M.gguf.part": "download"}},
		{"another quantisation is being downloaded", map[string]string{"m-Q4_K_M.gguf": llama(), "downloading_m-Q8_0.gguf.part": "x", "mmproj-F16.gguf": projector()},
			map[string]string{"m-Q4_K_M": "m-Q4_K_M.gguf, sees by mmproj-F16.gguf"}, map[string]string{"downloading_m-Q8_0.gguf.part": "download"}},
		{"projectors by their width", map[string]string{
			"a/m.gguf": wide, "a/mmproj-other.gguf": projectorFor("qwen2vl_merger", 1536), "b/m.gguf": wide, "b/mmproj-other.gguf": projectorFor("qwen2vl_merger", 4096),
			"c/m.gguf": wide, "c/llava-mmproj.gguf": projectorFor("mlp", 768), "d/m.gguf": wide, "d/mmproj-F16.gguf": projectorFor("gemma3", 1536),
		}, map[string]string{"m": "a/m.gguf", "b/m": "b/m.gguf, sees by b/mmproj-other.gguf", "c/m": "c/m.gguf, sees by c/llava-mmproj.gguf", "d/m": "d/m.gguf, sees by d/mmproj-F16.gguf"},
			map[string]string{"a/mmproj-other.gguf": "is a projector"}},
		{"a projector in a sister folder", map[string]string{"a/a.gguf": llama(), "b/mmproj-a.gguf": projector()},
			map[string]string{"a": "a/a.gguf"}, map[string]string{"b/mmproj-a.gguf": "is a projector"}},
		{"llama.cpp's cache", map[string]string{"o_gemma-GGUF_gemma-Q4_K_M.gguf": llama(), "o_gemma-GGUF_mmproj-model-f16.gguf": projector(), "p_x-GGUF_x-Q8_0.gguf": llama(), "manifest=o=gemma-GGUF=latest.json": "{}", "o_gemma-GGUF_gemma-Q4_K_M.gguf.etag": "x", "q_y.gguf.downloadInProgress": llama()},
			map[string]string{"o_gemma-GGUF_gemma-Q4_K_M": "o_gemma-GGUF_gemma-Q4_K_M.gguf, sees by o_gemma-GGUF_mmproj-model-f16.gguf", "p_x-GGUF_x-Q8_0": "p_x-GGUF_x-Q8_0.gguf"},
			map[string]string{"q_y.gguf.downloadInProgress": "download"}},
		{"cache of Hugging Face", map[string]string{
			"CACHEDIR.TAG": "x", ".locks/models--o--t/x.lock": "",
			"models--o--t/refs/main": "r2\n", "models--o--t/.no_exist/r1/x.gguf": "", "models--o--t/trees/r1.json": "{}",
			"models--o--t/blobs/aa": safetensorsShard(), "models--o--t/blobs/cc": bertConfig, "models--o--t/blobs/dd": llamaConfig, "models--o--t/blobs/gg": llama(), "models--o--t/blobs/x.incomplete": llama(),
			"models--o--t/snapshots/r1/model.safetensors": "-> ../../blobs/aa", "models--o--t/snapshots/r1/config.json": "-> ../../blobs/cc", "models--o--t/snapshots/r1/t-Q4.gguf": "-> ../../blobs/gg",
			"models--o--t/snapshots/r2/model.safetensors": "-> ../../blobs/aa", "models--o--t/snapshots/r2/config.json": "-> ../../blobs/dd",
			"models--p--sharded/blobs/a": safetensorsShard(), "models--p--sharded/blobs/b": safetensorsShard(), "models--p--sharded/blobs/i": indexOf("w/a-00001-of-00002.safetensors", "w/a-00002-of-00002.safetensors"),
			"models--p--sharded/snapshots/r/model.safetensors.index.json": "-> ../../blobs/i", "models--p--sharded/snapshots/r/w/a-00001-of-00002.safetensors": "-> ../../../blobs/a", "models--p--sharded/snapshots/r/w/a-00002-of-00002.safetensors": "-> ../../../blobs/b",
			"models--q--gone/blobs/a": llama(), "models--q--gone/snapshots/r/m-00001-of-00002.gguf": "-> ../../blobs/gone", "datasets--d--d/snapshots/r/x.json": "{}",
		}, map[string]string{
			"o/t":       "models--o--t/snapshots/r2, models--o--t/snapshots/r2/model.safetensors",
			"t-Q4":      "models--o--t/snapshots/r1/t-Q4.gguf",
			"p/sharded": "models--p--sharded/snapshots/r, models--p--sharded/snapshots/r/w/a-00001-of-00002.safetensors, models--p--sharded/snapshots/r/w/a-00002-of-00002.safetensors",
		}, map[string]string{"models--o--t/snapshots/r1": "same file", ".locks": "hidden", "models--o--t/.no_exist": "hidden", "models--q--gone/snapshots/r/m-00001-of-00002.gguf": "link to nothing"}},
		{"a repository that was sharded since", map[string]string{
			"models--o--t/refs/main": "r2", "models--o--t/blobs/a": safetensorsShard(), "models--o--t/blobs/b": safetensorsShard(), "models--o--t/blobs/c": safetensorsShard(), "models--o--t/blobs/i": indexOf("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
			"models--o--t/snapshots/r1/model.safetensors": "-> ../../blobs/a", "models--o--t/snapshots/r1/config.json": bertConfig,
			"models--o--t/snapshots/r2/model-00001-of-00002.safetensors": "-> ../../blobs/b", "models--o--t/snapshots/r2/model-00002-of-00002.safetensors": "-> ../../blobs/c", "models--o--t/snapshots/r2/model.safetensors.index.json": "-> ../../blobs/i", "models--o--t/snapshots/r2/config.json": bertConfig,
		}, map[string]string{"o/t": "models--o--t/snapshots/r2, models--o--t/snapshots/r2/model-00001-of-00002.safetensors, models--o--t/snapshots/r2/model-00002-of-00002.safetensors"},
			map[string]string{"models--o--t/snapshots/r1": "another revision"}},
		{"Mistral's", map[string]string{
			"M/consolidated.safetensors": safetensorsShard(), "M/params.json": "{}", "M/tekken.json": "{}",
			"N/consolidated.safetensors": safetensorsShard(), "N/config.json": llamaConfig, "N/model-00001-of-00002.safetensors": safetensorsShard(), "N/model-00002-of-00002.safetensors": safetensorsShard(), "N/model-00001-of-00001.safetensors": safetensorsShard(),
			"N/model.safetensors.index.json": indexOf("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
			"O/consolidated.safetensors":     safetensorsShard(), "O/params.json": "{}", "O/model.safetensors.index.json": indexOf("model-00001-of-00001.safetensors"),
		}, map[string]string{
			"M": "M, M/consolidated.safetensors", "N": "N, N/model-00001-of-00002.safetensors, N/model-00002-of-00002.safetensors", "O": "O, O/consolidated.safetensors",
		}, map[string]string{"N/consolidated.safetensors": "once more", "N/model-00001-of-00001.safetensors": "once more"}},
		{"several formats beside each other", map[string]string{"m/model.safetensors": safetensorsShard(), "m/model.fp16.safetensors": safetensorsShard(), "m/config.json": bertConfig, "m/m-Q4.gguf": llama(), "m/onnx/model.onnx": "x", "m/onnx/model_q4.onnx": "x", "m/pytorch_model.bin": "x", "m/4bit/model.safetensors": safetensorsShard(), "m/4bit/config.json": bertConfig, "g/Q8_0/model.gguf": llama(), "g/ggml-model-q4_0.gguf": llama()},
			map[string]string{"m": "m, m/model.safetensors", "m-Q4": "m/m-Q4.gguf", "m-4bit": "m/4bit, m/4bit/model.safetensors", "g-Q8_0": "g/Q8_0/model.gguf", "g-q4_0": "g/ggml-model-q4_0.gguf"},
			map[string]string{"m/model.fp16.safetensors": "once more", "m/onnx": "ONNX", "m": "PyTorch"}},
		{"diffusers", map[string]string{
			"sd/model_index.json":         `{"_class_name":"StableDiffusionPipeline","unet":["diffusers","UNet"],"vae":["diffusers","VAE"],"text_encoder":["t","C"],"safety_checker":[null,null]}`,
			"sd/unet/config.json":         "{}",
			"sd/text_encoder/config.json": "{}", "sd/text_encoder/model.safetensors": safetensorsShard(), "sd/text_encoder/model.fp16.safetensors": safetensorsShard(),
			"sd/unet/diffusion_pytorch_model.safetensors": safetensorsShard(), "sd/unet/diffusion_pytorch_model.fp16.safetensors": safetensorsShard(), "sd/vae/diffusion_pytorch_model.safetensors": safetensorsShard(),
		}, map[string]string{"sd": "sd, sd/text_encoder/model.safetensors, sd/unet/diffusion_pytorch_model.safetensors, sd/vae/diffusion_pytorch_model.safetensors"},
			map[string]string{"sd/unet/diffusion_pytorch_model.fp16.safetensors": "once more", "sd/text_encoder/model.fp16.safetensors": "once more"}},
		{"sentence-transformers", map[string]string{"s/modules.json": `[{"path":""},{"path":"1_Pooling"},{"path":"2_Dense"},{"path":"../out"}]`, "s/config.json": bertConfig, "s/model.safetensors": safetensorsShard(), "s/1_Pooling/config.json": "{}", "s/2_Dense/config.json": "{}", "s/2_Dense/model.safetensors": safetensorsShard(), "out/model.safetensors": safetensorsShard()},
			map[string]string{"s": "s, s/model.safetensors, s/2_Dense/model.safetensors", "out": "out/model.safetensors"}, nil},
		{"modules that are their own folder", map[string]string{"s/modules.json": `[{"path":"x/.."},{"path":"./."}]`, "s/config.json": bertConfig, "s/model.safetensors": safetensorsShard(), "s/x/y.txt": "y"},
			map[string]string{"s": "s, s/model.safetensors"}, nil},
		{"diffusers, parts that are not whole", map[string]string{
			"ok/model_index.json": whole, "ok/unet/a.safetensors": safetensorsShard(), "ok/unet/a.fp16.safetensors.part": "x", "ok/unet/a.bin": "x", "ok/vae/a.safetensors": safetensorsShard(), "ok/scheduler/scheduler_config.json": "{}", "ok/unet/b.safetensors.index.json": indexOf("c.safetensors"), "ok/unet/._a.safetensors": "x", "ok/extra/config.json": "{}",
			"index/model_index.json": whole, "index/vae/a.safetensors": safetensorsShard(), "index/unet/a.safetensors.index.json": indexOf("b.safetensors"), "index/unet/config.json": "{}", "index/scheduler/x.json": "{}",
			"link/model_index.json": whole, "link/vae/a.safetensors": safetensorsShard(), "link/unet/a.safetensors": "-> ../gone", "link/unet/b.safetensors": safetensorsShard(), "link/scheduler/x.json": "{}",
			"part/model_index.json": whole, "part/vae/a.safetensors": safetensorsShard(), "part/unet/a.safetensors.part": "x", "part/unet/config.json": "{}", "part/scheduler/x.json": "{}",
			"bare/model_index.json": whole, "bare/vae/a.safetensors": safetensorsShard(), "bare/unet/config.json": "{}", "bare/scheduler/x.json": "{}",
			"gone/model_index.json": whole, "gone/vae/a.safetensors": safetensorsShard(), "gone/scheduler/x.json": "{}",
			"torch/model_index.json": whole, "torch/vae/a.safetensors": safetensorsShard(), "torch/unet/a.bin": "x", "torch/unet/config.json": "{}", "torch/scheduler/x.json": "{}",
			"shards/model_index.json": whole, "shards/vae/a.safetensors": safetensorsShard(), "shards/unet/a-00001-of-00002.safetensors": safetensorsShard(), "shards/scheduler/x.json": "{}",
		}, map[string]string{"ok": "ok, ok/unet/a.safetensors, ok/vae/a.safetensors"}, map[string]string{
			"ok/unet/a.fp16.safetensors.part": "download", "ok/unet": "PyTorch", "ok/unet/._a.safetensors": "hidden",
			"index/unet/a.safetensors.index.json": "not there", "link/unet/a.safetensors": "link to nothing", "part/unet/a.safetensors.part": "download", "bare/unet": "has no weights",
			"gone/unet": "cannot be listed", "torch/unet/a.bin": "PyTorch", "torch/unet": "PyTorch", "shards/unet/a-00001-of-00002.safetensors": "not there",
		}},
		{"sentence-transformers, a module that is not whole", map[string]string{"s/modules.json": `[{"path":""},{"path":"2_Dense"}]`, "s/config.json": bertConfig, "s/model.safetensors": safetensorsShard(), "s/2_Dense/model.safetensors": "-> gone"},
			nil, map[string]string{"s/2_Dense/model.safetensors": "link to nothing"}},
		{"sentence-transformers, modules that are one folder or file", map[string]string{
			"s/modules.json": `[{"path":"here/here"},{"path":"2_Dense"},{"path":"again"},{"path":"2_Dense/.."},{"path":"./."},{"path":"file"}]`,
			"s/config.json":  bertConfig, "s/model.safetensors": safetensorsShard(), "s/here": "-> .", "s/2_Dense/model.safetensors": safetensorsShard(), "s/again": "-> 2_Dense", "s/file/model.safetensors": "-> ../model.safetensors",
		}, map[string]string{"s": "s, s/model.safetensors, s/2_Dense/model.safetensors"}, nil},
		{"no models of their own", map[string]string{
			"Big.gguf": llama(), "happy.gguf": ggufOf("controlvector", ""), "Big-eagle3.gguf": ggufOf("eagle3", ""), "mtp-Big.gguf": llama(), "lora.gguf": ggufOf("llama", "adapter"),
			"peft/adapter_model.safetensors": adapter, "peft/adapter_config.json": "{}", "ggml-base.en.bin": "lmgg",
		}, map[string]string{"Big": "Big.gguf"}, map[string]string{"happy.gguf": "control vector", "Big-eagle3.gguf": "draft", "mtp-Big.gguf": "draft", "lora.gguf": "adapter", "peft/adapter_model.safetensors": "adapter", ".": "whisper"}},
		{"downloads, pointers and what others keep", map[string]string{
			"a.gguf": llama(), "b.gguf.part": llama(), "c.gguf.crdownload": llama(), "d.gguf": llama(), "d.gguf.aria2": "x", "incomplete-e.gguf": llama(), "f.gguf.partial": llama(), "g.gguf-split-a": "x", "h.gguf": lfs, "i.safetensors": lfs,
			"@eaDir/a.gguf/x.gguf": llama(), "#recycle/x.gguf": llama(), "lost+found/x.gguf": llama(), "$RECYCLE.BIN/x.gguf": llama(), "._a.gguf": "x", ".DS_Store": "x", "Thumbs.db": "x", "j.gguf.download/j.gguf": llama(),
		}, map[string]string{"a": "a.gguf"}, map[string]string{
			"b.gguf.part": "download", "c.gguf.crdownload": "download", "d.gguf": "aria2", "d.gguf.aria2": "", "incomplete-e.gguf": "download", "f.gguf.partial": "download", "g.gguf-split-a": "piece", "h.gguf": "git-lfs", "i.safetensors": "git-lfs",
			"@eaDir": "keeps for itself", "#recycle": "keeps for itself", "lost+found": "keeps for itself", "$RECYCLE.BIN": "keeps for itself", "._a.gguf": "hidden", "j.gguf.download": "download",
		}},
		{"a set that is not whole", map[string]string{"m/m-00001-of-00005.gguf": ggufShard(1, 5), "n/model.safetensors.index.json": indexOf("a.safetensors", "b.safetensors", "c.safetensors", "d.safetensors"), "n/config.json": "{}"},
			nil, map[string]string{
				"m/m-00001-of-00005.gguf":        `4 are not there: "m-00002-of-00005.gguf", "m-00003-of-00005.gguf", "m-00004-of-00005.gguf", …`,
				"n/model.safetensors.index.json": `4 are not there: "a.safetensors", "b.safetensors", "c.safetensors", …`,
			}},
		{"names of macOS", map[string]string{"mode\u0300le.gguf": llama(), "\u1112\u1161\u11ab\u1100\u1173\u11af.gguf": llama(), "x/e\u0301-00001-of-00001.safetensors": safetensorsShard(), "x/model.safetensors.index.json": indexOf("\u00e9-00001-of-00001.safetensors")},
			map[string]string{"modèle": "mode\u0300le.gguf", "한글": "\u1112\u1161\u11ab\u1100\u1173\u11af.gguf", "x": "x, x/e\u0301-00001-of-00001.safetensors"}, nil},
		{"a set whose shard leads out", map[string]string{"s/m-00001-of-00002.gguf": ggufShard(1, 2), "s/m-00002-of-00002.gguf": "-> /etc/hostname", "t/t.gguf": big, "t/mmproj-t.gguf": "-> /etc/hostname"},
			map[string]string{"t": "t/t.gguf"}, map[string]string{"s/m-00002-of-00002.gguf": "leads out", "s/m-00001-of-00002.gguf": "not there", "t/mmproj-t.gguf": "leads out"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			plant(t, dir, tt.files)
			models, skipped := sets(t, dir)
			if tt.models == nil {
				tt.models = map[string]string{}
			}
			if diff := cmp.Diff(tt.models, models); diff != "" {
				t.Errorf("models (-want +got):\n%s\nleft out: %q", diff, skipped)
			}
			for path, reason := range tt.skipped {
				if reason != "" && !strings.Contains(skipped[path], reason) {
					t.Errorf("%s was left out because it %q; want something about %q", path, skipped[path], reason)
				}
				delete(skipped, path)
			}
			if len(skipped) > 0 {
				t.Errorf("left out beyond that: %q", skipped)
			}
		})
	}
}

func TestScan_ModulesOfLinkedFolders_WorkIsBounded(t *testing.T) {
	dir := t.TempDir()
	const links = 4
	var paths []string
	files := map[string]string{"s/config.json": bertConfig, "s/model.safetensors": safetensorsShard()}
	for i := range links {
		files[fmt.Sprint("s/l", i)] = "-> ."
		for j := range links {
			paths = append(paths, fmt.Sprintf(`{"path":"l%d/l%d"}`, i, j))
		}
	}
	files["s/modules.json"] = "[" + strings.Join(paths, ",") + "]"
	plant(t, dir, files)
	tr, err := openTree(dir)
	must(t, err)
	defer tr.close()
	folders, err := tr.walk(t.Context())
	must(t, err)
	found, err := tr.models(t.Context(), folders)
	if err != nil || len(found) != 1 || found[0].model.Size != tier.Bytes(len(safetensorsShard())) {
		t.Errorf("%+v, %v", found, err)
	}
	if most := 2 + links + links*links; len(tr.listed) > most {
		t.Errorf("%d folders were listed, want %d at most", len(tr.listed), most)
	}
}

func TestScan_OllamasStore_ManifestsAreReadAndTheRestIsToldWhy(t *testing.T) {
	files := ollamaStore(map[string][][2]string{
		"registry.ollama.ai/library/llama3/8b":    {{"model", llama()}, {"license", "x"}},
		"registry.ollama.ai/me/sees/latest":       {{"projector", projector()}, {"model", llama() + "2"}, {"template", "x"}},
		"hf.co/org/name/Q4_K_M":                   {{"model", llama() + "3"}},
		"registry.ollama.ai/library/tensors/mlx":  {{"tensor", "x"}, {"tensor", "y"}},
		"registry.ollama.ai/library/gone/latest":  {{"model", llama() + "4"}},
		"registry.ollama.ai/library/short/latest": {{"model", llama() + "5"}},
	}, `{"model_format":"gguf"}`)
	maps.Copy(files, ollamaStore(map[string][][2]string{"registry.ollama.ai/library/cloud/latest": {}}, `{"remote_host":"https://ollama.com"}`))
	files["manifests/registry.ollama.ai/library/evil/latest"] = `{"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:../../../../etc/passwd","size":1}]}`
	files["manifests/registry.ollama.ai/library/broken/latest"] = `{`
	blob := func(content string) string { return fmt.Sprintf("blobs/sha256-%x", sha256.Sum256([]byte(content))) }
	delete(files, blob(llama()+"4"))
	files[blob(llama()+"5")] = "short"
	dir := t.TempDir()
	plant(t, dir, files)
	for _, root := range []string{dir, filepath.Dir(dir)} {
		models, skipped := sets(t, root)
		in, err := filepath.Rel(root, dir)
		must(t, err)
		at := func(path string) string { return filepath.ToSlash(filepath.Join(in, path)) }
		want := map[string]string{
			"llama3:8b": at(blob(llama())), "hf.co/org/name:Q4_K_M": at(blob(llama() + "3")),
			"me/sees:latest": at(blob(llama()+"2")) + ", sees by " + at(blob(projector())),
		}
		if diff := cmp.Diff(want, models); diff != "" {
			t.Errorf("models (-want +got):\n%s\nleft out: %q", diff, skipped)
		}
		for path, reason := range map[string]string{
			"tensors/mlx": "no GGUF file", "gone/latest": "not there", "short/latest": "which has 5", "cloud/latest": "ollama.com", "evil/latest": "no SHA-256", "broken/latest": "not the JSON",
		} {
			if path = at("manifests/registry.ollama.ai/library/" + path); !strings.Contains(skipped[path], reason) {
				t.Errorf("%s was left out because it %q; want something about %q", path, skipped[path], reason)
			}
		}
		if len(skipped) != 6 {
			t.Errorf("left out: %q", skipped)
		}
	}
}

func TestScan_RootOfHuggingFace_RepositoryAndSnapshotAreFoldersToo(t *testing.T) {
	top := t.TempDir()
	plant(t, top, map[string]string{
		"hub/models--o--t/blobs/a": safetensorsShard(), "hub/models--o--t/blobs/c": bertConfig, "hub/secret.gguf": llama(), "hub/models--o--t/refs/main": "r",
		"hub/models--o--t/snapshots/r/model.safetensors": "-> ../../blobs/a", "hub/models--o--t/snapshots/r/config.json": "-> ../../blobs/c",
		"hub/models--o--t/snapshots/r/out.gguf": "-> ../../../secret.gguf", "hub/models--o--t/mine/out.safetensors": "-> ../blobs/a",
	})
	for _, below := range []string{"hub", "hub/models--o--t", "hub/models--o--t/snapshots/r"} {
		dir := filepath.Join(top, filepath.FromSlash(below))
		found, left, err := Scan(t.Context(), dir)
		must(t, err)
		i := slices.IndexFunc(found, func(m tier.Model) bool { return m.Name == "o/t" })
		if i < 0 || len(found[i].Parts) != 1 || !slices.Contains(found[i].Capabilities, embeddings) {
			t.Errorf("%s: %+v, left out %v", below, found, left)
		}
		if below != "hub" && len(found) > 1 {
			t.Errorf("%s: a link led out: %+v", below, found)
		}
	}
	if found, _, err := Scan(t.Context(), filepath.Join(top, "hub", "models--o--t", "mine")); err != nil || len(found) > 0 {
		t.Errorf("from beside the snapshots a link led out: %+v, %v", found, err)
	}
	m, errs := Gather([]tier.Model{{Name: "m", Path: filepath.Join(top, "hub", "models--o--t")}}, "")
	if errs[0] != nil || filepath.Base(m[0].Path) != "r" || len(m[0].Parts) != 1 {
		t.Errorf("the repository named: %+v, %v", m[0], errs[0])
	}
	snapshot := filepath.Join(top, "hub", "models--o--t", "snapshots", "r")
	if path, err := Resolve(snapshot, "model.safetensors"); err != nil || path != filepath.Join(snapshot, "model.safetensors") {
		t.Errorf("%q, %v", path, err)
	}
	for _, path := range []string{"../../blobs/a", "out.gguf", filepath.Join(top, "hub", "models--o--t", "blobs", "a")} {
		if got, err := Resolve(snapshot, path); err == nil {
			t.Errorf("%q leads to %q", path, got)
		}
	}
}

func TestScan_LinksToAnotherDrive_FollowedWhereTheOwnerAllows(t *testing.T) {
	drive, other, dir := t.TempDir(), t.TempDir(), t.TempDir()
	plant(t, drive, map[string]string{"big.gguf": llama(), "set/m-00001-of-00002.gguf": ggufShard(1, 2), "set/m-00002-of-00002.gguf": ggufShard(2, 2), "up.gguf": "-> " + filepath.Join(other, "x.gguf")})
	plant(t, other, map[string]string{"x.gguf": llama()})
	plant(t, dir, map[string]string{"big.gguf": "-> " + filepath.Join(drive, "big.gguf"), "set": "-> " + filepath.Join(drive, "set"), "x.gguf": "-> " + filepath.Join(other, "x.gguf"), "up.gguf": "-> " + filepath.Join(drive, "up.gguf")})
	models, skipped := sets(t, dir, drive, filepath.Join(drive, "not-mounted"))
	want := map[string]string{"big": "big.gguf", "m": "set/m-00001-of-00002.gguf, set/m-00002-of-00002.gguf"}
	if diff := cmp.Diff(want, models); diff != "" {
		t.Errorf("models (-want +got):\n%s", diff)
	}
	if len(skipped) != 2 || !strings.Contains(skipped["x.gguf"], "leads out") || !strings.Contains(skipped["up.gguf"], "leads out") {
		t.Errorf("left out: %q", skipped)
	}
	if models, _ := sets(t, dir); len(models) > 0 {
		t.Errorf("without leave: %q", models)
	}
	if _, err := Resolve(dir, "big.gguf", drive); err != nil {
		t.Error(err)
	}
	if _, err := Resolve(dir, "x.gguf", drive); !errors.Is(err, tier.ErrInvalid) {
		t.Error(err)
	}
}

func TestScan_MoreThanTheBound_WhatWasFoundIsServed(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{"a.gguf": llama(), "b/b.gguf": llama(), "b/1": "", "b/2": "", "b/3": ""})
	tr, err := openTree(dir)
	must(t, err)
	defer tr.close()
	tr.most = 4
	folders, err := tr.walk(t.Context())
	must(t, err)
	found, err := tr.models(t.Context(), folders)
	if err != nil || len(found) != 1 || len(tr.skipped) != 1 || !strings.Contains(tr.skipped[0].Reason, "more than") {
		t.Errorf("%v, %v, left out %v", found, err, tr.skipped)
	}
}

func TestScan_FoldersBeyondTheBound_NotRead(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{"a.gguf": llama(), "b/1": "", "b/2": "", "b/3": "", "c/c.gguf": llama(), "d/d.gguf": llama(), "d/e/e.gguf": llama()})
	tr, err := openTree(dir)
	must(t, err)
	defer tr.close()
	tr.most = 5 // the four in the folder, and one more
	folders, err := tr.walk(t.Context())
	must(t, err)
	var left []string
	for _, s := range tr.skipped {
		left = append(left, filepath.Base(s.Path))
		if !s.unread {
			t.Errorf("%v is not said to be unread, and its models are taken to be gone", s)
		}
	}
	if len(folders) != 1 || !slices.Equal(left, []string{"b", "c", "d"}) {
		t.Errorf("%d folders were read, %q were not", len(folders), left)
	}
	for _, sub := range []string{"c", "d"} {
		if _, err := tr.list(filepath.Join(dir, sub)); !errors.Is(err, errTooMany) {
			t.Errorf("%s: %v", sub, err)
		}
	}
	if tr.entries != tr.most+1 {
		t.Errorf("%d entries were read, want one more than the %d that are allowed", tr.entries, tr.most)
	}
}

func TestGather_WhatTheOwnerDeclares_IsKept(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{
		"m.gguf": llama(), "mmproj-m.gguf": projector(), "eyes.gguf": projector(), "lora.gguf": ggufOf("llama", "adapter"), "junk.gguf": "hello", "two/a.gguf": llama(), "two/b.gguf": llama(), "torch/w.bin": "12345",
		"cut-00001-of-00002.gguf":           ggufShard(1, 2),
		"bare/model.safetensors.index.json": indexOf("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), "bare/config.json": bertConfig,
		"half/m-00001-of-00002.gguf": ggufShard(1, 2), "sd/model_index.json": `{"unet":["d","U"],"vae":["d","V"]}`, "sd/vae/a.safetensors": safetensorsShard(), "sd/unet/config.json": "{}",
		"part/modules.json": `[{"path":"d"}]`, "part/model.safetensors": safetensorsShard(), "part/config.json": bertConfig, "part/d/a-00001-of-00002.safetensors": safetensorsShard(),
	})
	at := func(name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }
	size := func(names ...string) (n tier.Bytes) {
		for _, name := range names {
			stat, err := os.Stat(at(name))
			must(t, err)
			n += tier.Bytes(stat.Size())
		}
		return n
	}
	declared := []string{at("eyes.gguf"), at("lora.gguf")}
	for _, tt := range []struct {
		in    tier.Model
		parts []string
		size  tier.Bytes
		sees  string
		wrong string
	}{
		{tier.Model{Path: at("m.gguf"), Parts: declared}, declared, size("m.gguf", "eyes.gguf", "lora.gguf"), at("eyes.gguf"), ""},
		{tier.Model{Path: at("m.gguf"), Parts: declared, Size: tier.GiB, Labels: map[string]string{tier.ProjectorLabel: at("lora.gguf")}}, declared, tier.GiB, at("lora.gguf"), ""},
		{tier.Model{Path: at("m.gguf"), Parts: []string{at("gone.gguf")}}, []string{at("gone.gguf")}, 0, "", "cannot be read"},
		{tier.Model{Path: at("junk.gguf")}, nil, 5, "", ""},
		{tier.Model{Path: at("mmproj-m.gguf")}, nil, size("mmproj-m.gguf"), "", ""},
		{tier.Model{Path: at("two")}, nil, size("two/a.gguf", "two/b.gguf"), "", ""},
		{tier.Model{Path: at("torch")}, nil, 5, "", ""},
		{tier.Model{Path: at("torch/w.bin")}, nil, 5, "", ""},
		{tier.Model{Path: at("cut-00001-of-00002.gguf")}, nil, 0, "", "not there"},
		{tier.Model{Path: at("bare")}, nil, 0, "", "not there"},
		{tier.Model{Path: at("half")}, nil, 0, "", "not there"},
		{tier.Model{Path: at("sd")}, nil, 0, "", "no weights"},
		{tier.Model{Path: at("part")}, nil, 0, "", "not there"},
		{tier.Model{Path: at("none.gguf"), Size: 7}, nil, 7, "", "cannot be read"},
		{tier.Model{Size: 7}, nil, 7, "", ""},
	} {
		tt.in.Name = "m"
		out, errs := Gather([]tier.Model{tt.in}, "")
		if m := out[0]; !slices.Equal(m.Parts, tt.parts) || m.Size != tt.size || m.Labels[tier.ProjectorLabel] != tt.sees || m.Path != tt.in.Path {
			t.Errorf("%+v became %+v", tt.in, m)
		}
		if (errs[0] != nil) != (tt.wrong != "") || errs[0] != nil && !strings.Contains(errs[0].Error(), tt.wrong) {
			t.Errorf("%+v: error %v, want one about %q", tt.in, errs[0], tt.wrong)
		}
	}
	// A file counts once, however often and by whatever path it is named.
	must(t, os.Symlink(at("eyes.gguf"), at("link.gguf")))
	t.Chdir(dir)
	again := tier.Model{Name: "m", Path: at("m.gguf"), Parts: []string{"m.gguf", "eyes.gguf", at("eyes.gguf"), "two/../link.gguf"}}
	if out, errs := Gather([]tier.Model{again}, ""); errs[0] != nil || out[0].Size != size("m.gguf", "eyes.gguf") {
		t.Errorf("%+v, %v; want %v", out[0], errs[0], size("m.gguf", "eyes.gguf"))
	}
	in := tier.Model{Name: "m", Path: at("m.gguf"), Parts: slices.Clone(declared), Labels: map[string]string{"a": "b"}}
	out, _ := Gather([]tier.Model{in}, "")
	out[0].Parts[0], out[0].Labels["a"] = "changed", "changed"
	if in.Parts[0] != declared[0] || in.Labels["a"] != "b" || len(in.Labels) != 1 {
		t.Errorf("the caller's model was changed: %+v", in)
	}
}

func TestWatch_ProjectorComesLate_ModelWaitsForItAndChangesWithIt(t *testing.T) {
	bubble(t, map[string]string{"a.gguf": llama()}, func(t *testing.T, w *watched) {
		w.plant(map[string]string{"v/v.gguf": llama(), "v/mmproj-v.gguf": projector()[:40]})
		w.expect(1)
		w.plant(map[string]string{"v/mmproj-v.gguf": projector()})
		w.expect(1) // the model is still, and its projector is not
		w.expect(1, "+v")
		must(t, os.Remove(w.path("v/mmproj-v.gguf")))
		w.expect(3, "~v")
	})
}

func TestWatch_OllamaPulls_ModelIsReportedWhenItsManifestIsThere(t *testing.T) {
	files := ollamaStore(map[string][][2]string{"h/n/m/t": {{"model", llama()}}}, "{}")
	dir := t.TempDir()
	plant(t, dir, map[string]string{"a.gguf": llama(), "store/manifests/": "", "store/blobs/": ""})
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, dir)
		for name, content := range files {
			if !strings.HasPrefix(name, "manifests") {
				w.plant(map[string]string{"store/" + name: content})
			}
		}
		w.expect(3)
		w.plant(map[string]string{"store/manifests/h/n/m/t": files["manifests/h/n/m/t"]})
		w.expect(3, "+h/n/m:t")
		must(t, os.Remove(w.path("store/manifests/h/n/m/t")))
		w.expect(3, "-h/n/m:t")
		w.end()
	})
}

// plantOllama plants a store, or what is new in it, of the one model a:8b.
func plantOllama(t *testing.T, dir, content string) {
	for name, content := range ollamaStore(map[string][][2]string{"registry.ollama.ai/library/a/8b": {{"model", content}}}, "{}") {
		if strings.HasPrefix(name, "blobs") {
			plant(t, dir, map[string]string{name: content})
		} else {
			defer plant(t, dir, map[string]string{name: content}) // last, as Ollama does
		}
	}
}

func TestWatch_UpdateIsAtAnotherPath_ModelKeepsItsName(t *testing.T) {
	store, hub := t.TempDir(), t.TempDir()
	plantOllama(t, store, llama())
	plant(t, hub, map[string]string{
		"models--o--m/refs/main": "r1", "models--o--m/blobs/1": safetensorsShard(), "models--o--m/blobs/2": safetensorsShard() + " ",
		"models--o--m/snapshots/r1/config.json": bertConfig, "models--o--m/snapshots/r1/model.safetensors": "-> ../../blobs/1",
	})
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, store)
		w.expect(2)
		plantOllama(t, store, llama()+"2")
		w.expect(4, "+a:8b", "-a:8b")
		w.end()
	})
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, hub)
		w.expect(2)
		must(t, os.RemoveAll(w.path("models--o--m/snapshots/r1")))
		w.plant(map[string]string{"models--o--m/snapshots/r2/config.json": bertConfig, "models--o--m/snapshots/r2/model.safetensors": "-> ../../blobs/1"})
		w.expect(4, "+o/m", "-o/m")
		w.end()
	})
}

func TestWatch_WeightsAreElsewhere_TheirChangesAreReported(t *testing.T) {
	store, hub := t.TempDir(), t.TempDir()
	plantOllama(t, store, llama())
	blob := fmt.Sprintf("blobs/sha256-%x", sha256.Sum256([]byte(llama())))
	plant(t, store, map[string]string{"keep.gguf": llama()})
	must(t, os.Remove(filepath.Join(store, blob)))
	plant(t, hub, map[string]string{
		"models--o--m/refs/main":                "r1",
		"models--o--m/snapshots/r1/config.json": bertConfig, "models--o--m/snapshots/r1/model.safetensors": safetensorsShard(),
		"models--o--m/snapshots/r2/config.json": bertConfig, "models--o--m/snapshots/r2/model.safetensors": safetensorsShard(),
	})
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, store)
		w.expect(2)
		w.plant(map[string]string{blob: llama()})
		w.expect(1)
		w.expect(1, "+a:8b")
		must(t, os.Remove(w.path(blob)))
		w.expect(3, "-a:8b", "?8b")
		w.end()
	})
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, hub)
		w.expect(2)
		w.plant(map[string]string{"models--o--m/refs/main": "r2"})
		w.expect(3, "+o/m", "-o/m", "?r1")
		w.end()
	})
}

func TestWatch_StoreOfOllamaIsEmptyForAMoment_NothingIsRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "m")
	plantOllama(t, dir, llama())
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, dir)
		w.expect(2)
		must(t, os.Rename(w.dir, w.dir+".away"))
		must(t, os.Mkdir(w.dir, 0o755))
		w.expect(2) // any other change would have been reported by now
		must(t, os.Remove(w.dir))
		must(t, os.Rename(w.dir+".away", w.dir))
		w.expect(5)
		must(t, os.Rename(w.dir, w.dir+".away"))
		must(t, os.Mkdir(w.dir, 0o755))
		w.expect(3, "-a:8b")
		w.end()
	})
}

func TestCompose_LettersWithMarks_OneForm(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "plain": "plain", "e\u0301": "é", "é": "é", "e\u0323\u0302": "ệ", "\u1112\u1161\u11ab": "한", "가\u11a8": "각", "か\u3099": "が",
		"\u0301": "\u0301", "x\u0301y": "x\u0301y", "a\xff\u0301": "a\xff\u0301", "Й": "Й", "И\u0306": "Й", "가\u11a7": "가\u11a7",
	} {
		if got := compose(in); got != want {
			t.Errorf("%+q is %+q, want %+q", in, got, want)
		}
	}
}

func FuzzOllamaManifest(f *testing.F) {
	for name, content := range ollamaStore(map[string][][2]string{"h/n/m/t": {{"model", llama()}, {"projector", projector()}}}, `{"model_format":"gguf"}`) {
		if strings.HasPrefix(name, "manifests") {
			f.Add([]byte(content))
		}
	}
	f.Add([]byte(`{"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:../x","size":1}]}`))
	f.Add([]byte(`{"config":{"digest":"sha256:` + strings.Repeat("a", 64) + `","size":-1},"layers":[]}`))
	dir := f.TempDir()
	plant(f, dir, ollamaStore(map[string][][2]string{"h/n/m/t": {{"model", llama()}, {"projector", projector()}}}, `{"model_format":"gguf"}`))
	path := filepath.Join(dir, "manifests", "h", "n", "m", "t")
	f.Fuzz(func(t *testing.T, manifest []byte) {
		must(t, os.WriteFile(path, manifest, 0o600))
		found, _, err := Scan(context.Background(), dir)
		must(t, err)
		for _, m := range found {
			for _, p := range append(m.Parts, m.Path) {
				if filepath.Dir(p) != filepath.Join(dir, "blobs") {
					t.Fatalf("%q leads out of the store", p)
				}
			}
		}
	})
}

func TestIndexed_ManyShards_NoSearchForEach(t *testing.T) {
	lookups := func(n int) float64 {
		return testing.AllocsPerRun(1, func() { // each name that is composed is an allocation
			f := &folder{dir: "/m"}
			for i := range n {
				f.weights = append(f.weights, file{path: fmt.Sprintf("/m/e\u0301-%05d.safetensors", i)})
			}
			for i := range n {
				if w := newTree().weightsAt(f, fmt.Sprintf("\u00e9-%05d.safetensors", i)); w != &f.weights[i] {
					t.Fatalf("shard %d is %v", i, w)
				}
			}
		})
	}
	if few, many := lookups(100), lookups(400); many > 6*few {
		t.Errorf("100 shards take %v allocations, 400 take %v", few, many)
	}
}

func TestInspect_ConfigOfManyValues_CostsNoMultipleOfIts(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{"model.safetensors": safetensorsShard()})
	for _, values := range []int{maxJSON / 10, maxJSON} {
		must(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"architectures":["LlamaForCausalLM"],"vision_config":{"a":[`+strings.Repeat("{},", values)+`{}]}}`), 0o644))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		info, err := Inspect(dir)
		runtime.ReadMemStats(&after)
		must(t, err)
		if took := after.TotalAlloc - before.TotalAlloc; took > 8*maxJSON {
			t.Errorf("with %d values %d MiB were allocated", values, took>>20)
		}
		if small := 3*values < maxJSON; slices.Contains(info.Capabilities, vision) != small {
			t.Errorf("with %d values it does %q", values, info.Capabilities)
		}
	}
}

func FuzzHubFolder(f *testing.F) {
	f.Add([]byte(`[{"path":""},{"path":"1_Pooling"}]`), []byte(`{"_class_name":"X","unet":["a","b"]}`), []byte(indexOf("1_Pooling/a.safetensors")))
	f.Add([]byte(`[{"path":"../out"}]`), []byte(`{"../out":["a","b"],"unet/../../out":[]}`), []byte(indexOf("../out/a.safetensors")))
	top := f.TempDir()
	dir := filepath.Join(top, "m")
	plant(f, top, map[string]string{
		"out/a.safetensors": safetensorsShard(), "m/model.safetensors": safetensorsShard(), "m/1_Pooling/a.safetensors": safetensorsShard(), "m/unet/a.safetensors": safetensorsShard(), "m/config.json": "{}",
	})
	f.Fuzz(func(t *testing.T, modules, pipeline, index []byte) {
		for name, content := range map[string][]byte{"modules.json": modules, "model_index.json": pipeline, "model.safetensors.index.json": index} {
			must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
		}
		info, err := Inspect(dir)
		if err != nil && !errors.Is(err, tier.ErrInvalid) {
			t.Fatal(err)
		}
		found, _, err := Scan(context.Background(), dir)
		must(t, err)
		for _, p := range info.Files {
			if !strings.HasPrefix(p, dir+string(filepath.Separator)) {
				t.Fatalf("%q leads out of the folder", p)
			}
		}
		for _, m := range found {
			for _, p := range append(m.Parts, m.Path) {
				if p != dir && !strings.HasPrefix(p, dir+string(filepath.Separator)) {
					t.Fatalf("%q leads out of the folder", p)
				}
			}
		}
	})
}

func TestWatcher_FolderThatShowsNoChange_ReadAgainNowAndThen(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]string{"a.gguf": llama(), "sub/x.gguf": llama(), "sub/x.json": "{}"})
	old := time.Now().Add(-time.Hour)
	hide := func() { // as a file system does that keeps no times of folders
		for _, d := range []string{dir, filepath.Join(dir, "sub")} {
			must(t, os.Chtimes(d, old, old))
		}
	}
	hide()
	known, _, err := Scan(t.Context(), dir)
	must(t, err)
	w := newWatcher(dir, known)
	added := func(looks int) (names []string) {
		for range looks {
			c, _ := w.Look(t.Context())
			for _, m := range append(c.Added, c.Changed...) {
				names = append(names, m.Name)
			}
		}
		return names
	}
	if got := added(4); len(got) > 0 {
		t.Fatalf("reported %q of a folder that is still", got)
	}
	must(t, os.WriteFile(filepath.Join(dir, "sub", "x.gguf"), []byte(other()), 0o600)) // in its place, which no folder shows
	if got := added(2); !slices.Equal(got, []string{"x"}) {
		t.Errorf("reported %q, want the file that has changed", got)
	}
	plant(t, dir, map[string]string{"sub/b.gguf": llama()})
	if got := added(2); !slices.Equal(got, []string{"b"}) {
		t.Errorf("reported %q, want the new file", got)
	}
	hide()
	added(2)
	plant(t, dir, map[string]string{"sub/c.gguf": llama()})
	hide()
	if got := added(2); len(got) > 0 {
		t.Errorf("reported %q: a folder whose time is the same was read", got)
	}
	if got := added(retryLooks + 2); !slices.Equal(got, []string{"c"}) {
		t.Errorf("reported %q in the end", got)
	}
}
