package modeltier_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
)

// ggufShard is a GGUF file without tensors' weights: one of several, or a projector.
func ggufShard(no, of int, projector bool) []byte {
	var b bytes.Buffer
	text := func(s string) {
		binary.Write(&b, binary.LittleEndian, uint64(len(s)))
		b.WriteString(s)
	}
	pair := func(key string, value any) {
		text(key)
		if s, ok := value.(string); ok {
			binary.Write(&b, binary.LittleEndian, uint32(8))
			text(s)
			return
		}
		binary.Write(&b, binary.LittleEndian, uint32(2)) // uint16
		binary.Write(&b, binary.LittleEndian, value)
	}
	b.WriteString("GGUF")
	binary.Write(&b, binary.LittleEndian, uint32(3))
	binary.Write(&b, binary.LittleEndian, uint64(1))
	pairs := uint64(3)
	if projector {
		pairs = 1
	}
	binary.Write(&b, binary.LittleEndian, pairs)
	if projector {
		pair("general.architecture", "clip")
	} else {
		pair("general.architecture", "llama")
		pair("split.no", uint16(no-1))
		pair("split.count", uint16(of))
	}
	text(fmt.Sprint("t", no))
	binary.Write(&b, binary.LittleEndian, uint32(1)) // dimensions
	binary.Write(&b, binary.LittleEndian, uint64(256))
	binary.Write(&b, binary.LittleEndian, uint32(0)) // F32
	binary.Write(&b, binary.LittleEndian, uint64(0)) // offset
	b.Write(make([]byte, (32-b.Len()%32)%32+4*256))
	return b.Bytes()
}

// splitModel writes a model in three shards, with a projector, and returns its files.
func splitModel(t *testing.T, dir string) (files []string, size tier.Bytes) {
	t.Helper()
	write := func(name string, content []byte) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		files, size = append(files, path), size+tier.Bytes(len(content))
	}
	for no := range 3 {
		write(fmt.Sprintf("big-Q4-%05d-of-00003.gguf", no+1), ggufShard(no+1, 3, false))
	}
	write("mmproj-big.gguf", ggufShard(1, 1, true))
	return files, size
}

func TestSets_AnyShardOrFolderIsNamed_TheWholeSetCounts(t *testing.T) {
	dir := t.TempDir()
	files, size := splitModel(t, dir)
	for _, path := range []string{files[0], files[1], files[2], dir} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, modeltier.Config{Models: []tier.Model{{Name: "configured", Path: path}}})
			if err := order(t)(r.HotLoad(t.Context(), tier.Model{Name: "hot", Path: path, Home: tier.RAM})).Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"configured", "hot"} {
				if m := r.model(name); m.Path != files[0] || !slices.Equal(m.Parts, files[1:]) || m.Size != size {
					t.Errorf("named by %s, %s is %q with %q, %v; want %v", path, name, m.Path, m.Parts, m.Size, size)
				}
			}
			l := r.get("configured")
			defer l.Release()
			if m := l.Model(); m.Labels[tier.ProjectorLabel] != files[3] {
				t.Errorf("its labels are %q", m.Labels)
			}
		})
	}
}

func TestSets_ReconfiguredWithOtherParts_Replaced(t *testing.T) {
	dir := t.TempDir()
	files, _ := splitModel(t, dir)
	synctest.Test(t, func(t *testing.T) {
		one := tier.Model{Name: "a", Path: files[0], Parts: slices.Clone(files[1:3]), Size: tier.GiB}
		r := newRig(t, modeltier.Config{Models: []tier.Model{one}})
		limits := r.Status().Limits
		one.Parts[0] = "the caller's own" // the Manager has a copy
		if got := r.model("a").Parts; !slices.Equal(got, files[1:3]) {
			t.Errorf("its parts are %q", got)
		}
		one.Parts[0] = files[1]
		wantReconfiguration(t, r.reconfigured(tier.Limits{}, one), modeltier.Reconfiguration{})
		one.Parts = files[1:2]
		wantReconfiguration(t, r.reconfigured(tier.Limits{}, one), modeltier.Reconfiguration{Replaced: []string{"a"}})
		if r.Status().Limits != limits || len(r.model("a").Parts) != 1 {
			t.Errorf("limits %v, parts %q", r.Status().Limits, r.model("a").Parts)
		}
	})
}

func TestSets_HotLoadedAndRestarted_PartsAreKept(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	files, size := splitModel(t, dir)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{StateDir: state, ModelDir: dir})
		answer := r.HandleRequest(t.Context(), []byte(`{"hot_load": {"model_name": "x", "model_config": {"path": "big-Q4-00002-of-00003.gguf", "tier": "ram", "capabilities": []}}}`))
		if !strings.Contains(string(answer), "hot_load_started") {
			t.Fatalf("%s", answer)
		}
		r.get("x").Release()
		synctest.Wait()
		if err := r.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		again := newRig(t, modeltier.Config{StateDir: state, ModelDir: dir})
		if m := again.model("x"); m.Path != files[0] || !slices.Equal(m.Parts, files[1:]) || m.Size != size {
			t.Errorf("after the restart: %+v", m)
		}
	})
}

func TestSets_PartsFromTheWire_StayInTheModelFolder(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "models")
	files, size := splitModel(t, dir)
	secret := filepath.Join(top, "secret.gguf")
	if err := os.WriteFile(secret, ggufShard(1, 1, true), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(r *rig, parts string) string {
		return string(r.HandleRequest(r.t.Context(), []byte(`{"hot_load": {"model_name": "x", "model_config": {"path": "big-Q4-00001-of-00003.gguf", "parts": `+parts+`, "tier": "ram", "capabilities": [], "labels": {"mmproj": "`+secret+`"}}}}`)))
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{ModelDir: dir})
		for _, parts := range []string{`["../secret.gguf"]`, `["` + secret + `"]`, `["mmproj-big.gguf", "/etc/hostname"]`, `[""]`} {
			if answer := ask(r, parts); !strings.Contains(answer, `"invalid_request"`) {
				t.Errorf("%s: %s", parts, answer)
			}
		}
		if answer := ask(r, `["big-Q4-00002-of-00003.gguf", "big-Q4-00003-of-00003.gguf", "mmproj-big.gguf"]`); !strings.Contains(answer, "hot_load_started") {
			t.Fatal(answer)
		}
		l := r.get("x")
		defer l.Release()
		if m := l.Model(); m.Size != size || m.Labels[tier.ProjectorLabel] != files[3] {
			t.Errorf("%v of %v, labels %q", m.Size, size, m.Labels)
		}
	})
}

func TestSets_LeftOut_ShownInStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, modeltier.Config{})
		if left := r.Status().LeftOut; left != nil {
			t.Errorf("%v", left)
		}
		told := make([]hotload.Skipped, 1500)
		told[0] = hotload.Skipped{Path: "/m/x.gguf.part", Reason: "is a download"}
		r.SetLeftOut(told)
		want := told[0]
		told[0] = hotload.Skipped{}
		if left := r.Status().LeftOut; len(left) != 1000 || left[0] != want {
			t.Errorf("%d of them, %v first", len(left), left[:1])
		}
		r.SetLeftOut(nil)
		if left := r.Status().LeftOut; len(left) > 0 {
			t.Errorf("%v", left)
		}
	})
}
