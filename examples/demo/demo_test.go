package demo

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
)

const tiny = 4096

func made(t *testing.T) Library {
	t.Helper()
	l := Library{Dir: filepath.Join(t.TempDir(), "models"), Scale: tiny}
	if err := l.Make(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestMake_EveryFileIsValidGGUFOfItsStatedSize(t *testing.T) {
	l := made(t)
	check := func(m tier.Model) {
		t.Helper()
		info, err := hotload.Inspect(m.Path)
		if err != nil {
			t.Fatalf("%s: %v", m.Name, err)
		}
		if info.Format != hotload.FormatGGUF || info.Role != hotload.RoleModel || info.Name != m.Name {
			t.Errorf("%s: read back as %v %v %q", m.Name, info.Format, info.Role, info.Name)
		}
		if info.Size != m.Size {
			t.Errorf("%s: %d bytes on disk, %d stated", m.Name, info.Size, m.Size)
		}
		if rest := info.Size - info.TensorBytes; rest < 0 || rest > 64*tier.KiB {
			t.Errorf("%s: %v of %v beside the tensors", m.Name, rest, info.Size)
		}
	}
	var sum tier.Bytes
	for _, m := range l.Models() {
		check(m)
		sum += m.Size
	}
	spare := l.Spare()
	spare.Path = filepath.Join(l.Dir, spare.Path)
	check(spare)
	if sum+spare.Size != l.Total() {
		t.Errorf("Total is %v, files have %v", l.Total(), sum+spare.Size)
	}
}

func TestMake_ScanFindsTheSixAndTheSpare(t *testing.T) {
	l := made(t)
	found, skipped, err := hotload.Scan(t.Context(), l.Dir)
	if err != nil || len(skipped) > 0 {
		t.Fatal(err, skipped)
	}
	var names []string
	for _, m := range found {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	want := []string{"bert-large", "custom-model", "gpt-j-6b", "gpt2-large", "gpt2-medium", "gpt2-small", "llama-7b"}
	if !slices.Equal(names, want) {
		t.Errorf("found %v, want %v", names, want)
	}
}

// Sparse or compressible weights would flatter whatever reads or keeps them.
func TestMake_BytesAreNoiseAndTheSameEveryTime(t *testing.T) {
	a, b := made(t), made(t)
	seen := map[[32]byte]string{}
	for i, m := range a.Models() {
		first, err1 := os.ReadFile(m.Path)
		second, err2 := os.ReadFile(b.Models()[i].Path)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Errorf("%s differs from one making to the next", m.Name)
		}
		body := first[48<<10:]
		var packed bytes.Buffer
		w, err := flate.NewWriter(&packed, flate.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
		if w.Close(); packed.Len() < len(body)*8/10 {
			t.Errorf("%s: %d bytes compress to %d", m.Name, len(body), packed.Len())
		}
		sum := sha256.Sum256(body[:16<<10])
		if other, dup := seen[sum]; dup {
			t.Errorf("%s has the weights of %s", m.Name, other)
		}
		seen[sum] = m.Name
	}
}

func TestMake_SecondTime_WritesNothing(t *testing.T) {
	l := made(t)
	before := modTimes(t, l.Dir)
	err := l.Make(t.Context(), func(p Progress) { t.Errorf("wrote %s", p.File) })
	if err != nil {
		t.Fatal(err)
	}
	if after := modTimes(t, l.Dir); !slices.Equal(before, after) {
		t.Errorf("files were touched: %v, then %v", before, after)
	}
}

func TestMake_RepairsWhatIsNotWhole(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"missing":  os.Remove,
		"torn":     func(path string) error { return os.Truncate(path, 100_000) },
		"empty":    func(path string) error { return os.Truncate(path, 0) },
		"too long": func(path string) error { return os.Truncate(path, 1<<20) },
		"zeros":    func(path string) error { return os.WriteFile(path, make([]byte, 128<<10), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			l := made(t)
			m := l.Models()[0]
			whole, err := os.ReadFile(m.Path)
			if err != nil {
				t.Fatal(err)
			}
			if err := spoil(m.Path); err != nil {
				t.Fatal(err)
			}
			var last Progress
			if err := l.Make(t.Context(), func(p Progress) { last = p }); err != nil {
				t.Fatal(err)
			}
			if want := (Progress{"gpt2-small.gguf", m.Size, m.Size}); last != want {
				t.Errorf("last progress %+v, want %+v", last, want)
			}
			if again, err := os.ReadFile(m.Path); err != nil || !bytes.Equal(again, whole) {
				t.Errorf("the file is not what it was: %v", err)
			}
		})
	}
}

func TestMake_CalledOff_LeavesNothingHalfDone(t *testing.T) {
	l := Library{Dir: t.TempDir(), Scale: 256} // files of more than one chunk
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	err := l.Make(ctx, func(p Progress) {
		if p.Done > 3*tier.MiB { // within gpt2-medium
			cancel(cause)
		}
	})
	if !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	if files := modTimes(t, l.Dir); len(files) != 1 {
		t.Errorf("want gpt2-small alone, there is %v", files)
	}
}

func TestMake_RemovesWhatAKilledOneLeft_AndNotWhatAnotherIsAt(t *testing.T) {
	dir := t.TempDir()
	stale, live := filepath.Join(dir, "gpt2-small.gguf.1.part"), filepath.Join(dir, "gpt2-small.gguf.2.part")
	for _, path := range []string{stale, live} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := Library{Dir: dir, Scale: tiny}
	if err := l.Make(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(stale, old, old); err != nil {
		t.Fatal(err)
	}
	if err := l.Make(t.Context(), nil); err != nil { // though there is nothing to write
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the stale part is still there: %v", err)
	}
	if _, err := os.Stat(live); err != nil {
		t.Errorf("the live part is gone: %v", err)
	}
}

func TestMake_FolderThatIsAFile_SaysSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := (Library{Dir: path, Scale: tiny}).Make(t.Context(), nil); err == nil {
		t.Error("no error")
	}
}

func TestMake_ScaleOutOfRange_IsRefused(t *testing.T) {
	for _, scale := range []int{-1, 0, MaxScale + 1} {
		if err := (Library{Dir: t.TempDir(), Scale: scale}).Make(t.Context(), nil); err == nil {
			t.Errorf("scale %d was taken", scale)
		}
	}
}

func TestFitted_AsLargeAsItMayBe(t *testing.T) {
	for _, scale := range []int{1, 3, 16, 100, 1024, tiny} {
		l := Library{Scale: scale}
		for _, e := range append(models[:len(models):len(models)], spare) {
			want, shape := tier.Bytes(e.gb*float64(tier.GiB)/float64(scale)), l.shape(e)
			if err := shape.Validate(); err != nil {
				t.Errorf("1/%d of %s: %v", scale, e.name, err)
			}
			if got := shape.Size(); got > want || got < want*9/10 {
				t.Errorf("1/%d of %s: %v (%+v), want %v at most", scale, e.name, got, shape, want)
			}
		}
	}
}

func TestLlama_OfFourBits_IsValidAndAboutHalfAsLarge(t *testing.T) {
	shape := Llama{Name: "x", Width: 64, Inner: 192, Layers: 2}
	eights := shape.Size()
	shape.Q4 = true
	header := tier.Bytes(len(shape.header()))
	path := filepath.Join(t.TempDir(), "x.gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(shape.Write(t.Context(), f, nil), f.Close()); err != nil {
		t.Fatal(err)
	}
	info, err := hotload.Inspect(path)
	if err != nil || info.Size != shape.Size() || info.Quantisation != "Q4_0" || info.TensorBytes != info.Size-header {
		t.Errorf("%+v with a header of %v, %v", info, header, err)
	}
	if shape.Size() > eights-(eights-header)*4/10 {
		t.Errorf("%v, and %v of eight bits", shape.Size(), eights)
	}
}

func TestVocabulary_NoTokenTwice_RowsInSixteens(t *testing.T) {
	all, others := vocabulary()
	seen := map[string]bool{}
	for _, token := range all {
		if seen[token.text] {
			t.Errorf("%q is there twice", token.text)
		}
		seen[token.text] = true
	}
	if len(all)%16 != 0 || others >= len(all) || all[others].text != "▁the" {
		t.Errorf("%d tokens, the words from %d on", len(all), others)
	}
}

// The point of scaling: what fits on the board fits here.
func TestLimits_HoldAndRefuseWhatTheBoardsDo(t *testing.T) {
	for _, scale := range []int{1, 16, tiny} {
		l := Library{Scale: scale}
		lim := l.Limits()
		var ram, swap tier.Bytes
		for _, m := range l.Models() {
			if m.Size > lim.MaxModel {
				t.Errorf("1/%d: %s is larger than any may be", scale, m.Name)
			}
			switch m.Home {
			case tier.RAM:
				ram += m.Size
			case tier.Swap:
				swap += m.Size
			}
		}
		largest := l.Models()[2].Size
		if ram <= lim.RAM || swap <= lim.Swap || ram-largest > lim.RAM {
			t.Errorf("1/%d: homes in ram take %v of %v, in swap %v of %v", scale, ram, lim.RAM, swap, lim.Swap)
		}
	}
}

func modTimes(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			out = append(out, d.Name()+" "+info.ModTime().String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
