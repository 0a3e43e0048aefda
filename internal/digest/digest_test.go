package digest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier/internal/regular"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSum_AnySize_IsSHA256(t *testing.T) {
	for _, size := range []int{0, 1, block - 1, block, 2*block + 1} {
		path, content := filepath.Join(t.TempDir(), "f"), strings.Repeat("x", size)
		write(t, path, content)
		calls := 0
		sum, id, err := Sum(t.Context(), path, func() { calls++ })
		now, fault := Identify(path)
		if want := fmt.Sprintf("%x", sha256.Sum256([]byte(content))); err != nil || fault != nil || sum != want || id != now || id.Size != int64(size) || calls < size/block {
			t.Errorf("%d bytes: %s, %+v, %v in %d calls; it is %+v, %v", size, sum, id, err, calls, now, fault)
		}
	}
}

func TestSum_FileChangesMeanwhile_NoDigest(t *testing.T) {
	for what, change := range map[string]func(path string) error{
		"shrinks": func(path string) error { return os.Truncate(path, block+1) },
		"grows":   func(path string) error { return os.Truncate(path, 3*block) },
		"is replaced": func(path string) error {
			return errors.Join(os.WriteFile(path+"2", nil, 0o600), os.Rename(path+"2", path))
		},
		"is written to":  func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("y", 2*block)), 0o600) },
		"has vanished":   os.Remove,
		"becomes a link": func(path string) error { return errors.Join(os.Rename(path, path+"2"), os.Symlink("f", path)) },
	} {
		path := filepath.Join(t.TempDir(), "f")
		write(t, path, strings.Repeat("x", 2*block))
		if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil { // clocks of file systems tick
			t.Fatal(err)
		}
		changed := false
		sum, _, err := Sum(t.Context(), path, func() {
			if !changed {
				changed = true
				if err := change(path); err != nil {
					t.Fatal(err)
				}
			}
		})
		gone := what == "has vanished" || what == "becomes a link"
		if sum != "" || err == nil || errors.Is(err, ErrChanged) == gone {
			t.Errorf("a file that %s: %q, %v", what, sum, err)
		}
	}
}

func TestSum_Cancelled_EndsAtOnce(t *testing.T) {
	path, why := filepath.Join(t.TempDir(), "f"), errors.New("enough")
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(1<<40), f.Close())
	}
	if err != nil {
		t.Skip("there are no sparse files here: ", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	calls := 0
	if _, _, err := Sum(ctx, path, func() { calls++; cancel(why) }); err != why || calls != 1 {
		t.Errorf("%v after %d MiB", err, calls)
	}
}

func TestIdentify_NoFile_SaysWhat(t *testing.T) {
	if _, err := Identify(filepath.Join(t.TempDir(), "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Identify(t.TempDir()); err == nil {
		t.Error("a folder is a file")
	} else if _, ok := errors.AsType[*regular.Error](err); !ok {
		t.Error(err)
	}
}

func TestMemory_KnowsFilesAsLongAsTheyAreWhatTheyWere(t *testing.T) {
	var m Memory
	a := Identity{Size: 1, Written: 2}
	if m.Encoded() != nil || !m.Forget("a", a) || m.Last("a") != "" {
		t.Error("a new one knows something")
	}
	m.Know("a", a, "sum")
	m.Know("b\xff", Identity{}, "other")
	var again Memory
	if err := again.Restore(m.Encoded()); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*Memory{&m, &again} {
		if m.Forget("a", a) || m.Last("a") != "sum" || m.Last("b\xff") != "other" {
			t.Errorf("%s", m.Encoded())
		}
		if !m.Forget("a", Identity{Size: 1, Written: 3}) || m.Last("a") != "" {
			t.Errorf("the file is another, and known: %s", m.Encoded())
		}
	}
	if err := again.Restore([]byte("{")); err == nil || again.Last("b\xff") != "other" {
		t.Errorf("what cannot be read was taken up: %v", err)
	}
}

func TestMemory_MoreThanItHolds_OldestAreForgotten(t *testing.T) {
	var m Memory
	all := []byte("[")
	for i := range MaxFiles + 2 {
		all = fmt.Appendf(all, `{"path":"%s","read":%d,"sha256":"s"},`, "AAAA", i)
	}
	if err := m.Restore(append(all[:len(all)-1], ']')); err != nil || len(m.files) != 1 {
		t.Errorf("%d files, %v", len(m.files), err)
	}
	m.files = make(map[string]known)
	for i := range MaxFiles {
		m.files[fmt.Sprint(i)] = known{Path: []byte(fmt.Sprint(i)), SHA256: "s", Read: m.last + uint64(i)}
	}
	m.last += MaxFiles
	m.Know("new", Identity{}, "s")
	if len(m.files) != MaxFiles || m.Last("0") != "" || m.Last("1") == "" || m.Last("new") == "" {
		t.Errorf("%d files are known", len(m.files))
	}
}

func TestMemory_Full_ToKnowAFileDoesNotEncodeAll(t *testing.T) {
	var m Memory
	m.files = make(map[string]known)
	sum := strings.Repeat("0", 64)
	for i := range MaxFiles {
		m.last++
		path := fmt.Sprintf("/models/some/long/folder/model-%05d-of-99999.safetensors", i)
		m.files[path] = known{[]byte(path), Identity{Size: 1}, sum, m.last}
	}
	// As long as Know takes Last may wait for it.
	began := time.Now()
	for i := range 32 {
		m.Know(fmt.Sprint("/x/", i%4), Identity{}, sum)
	}
	if each := time.Since(began) / 32; each > 3*time.Millisecond {
		t.Errorf("to know a file takes %v", each)
	}
	before := m.Changes()
	if text := m.Encoded(); len(text) < MaxFiles*100 || m.Changes() != before {
		t.Errorf("%d bytes", len(text))
	}
}
