package mapped

import (
	"bytes"
	"context"
	"os"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// modelStatus returns what Status says of the model.
func modelStatus(t testing.TB, m *Mover, name string) ModelStatus {
	t.Helper()
	for _, s := range m.Status().Models {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("Status does not know %q", name)
	return ModelStatus{}
}

// seen returns what Resident says of the model.
func seen(t testing.TB, m *Mover, mod tier.Model) (present, reclaimable tier.Bytes) {
	t.Helper()
	r, ok := any(m).(tier.Resident)
	if !ok {
		t.Skip("this system does not tell what is resident")
	}
	present, reclaimable, err := r.Resident(context.Background(), mod.Name)
	if err != nil {
		t.Fatal(err)
	}
	return present, reclaimable
}

// cached returns what Cached says of the model.
func cached(t testing.TB, m *Mover, mod tier.Model) tier.Bytes {
	t.Helper()
	n, err := m.Cached(t.Context(), mod.Name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// cachedPages returns which pages of the file are in the page cache, by a mapping
// of its own.
func cachedPages(t testing.TB, path string) []byte {
	t.Helper()
	sys := newSystem()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b, err := sys.mapFile(f, int(info.Size()))
	if err != nil {
		t.Fatal(err)
	}
	defer sys.unmap(b)
	vec := make([]byte, sys.pages(info.Size()))
	if err := sys.mincore(b, vec); err != nil {
		t.Fatal(err)
	}
	return vec
}

// cachedBytes is cachedPages in bytes, to the page.
func cachedBytes(t testing.TB, path string) tier.Bytes {
	t.Helper()
	return tier.Bytes(bytes.Count(cachedPages(t, path), []byte{1})) * tier.Bytes(os.Getpagesize())
}
