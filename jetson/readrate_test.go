package jetson

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// sizedFile writes a file beside the tests, since the folder for temporary files
// may be in memory.
func sizedFile(t *testing.T, size int) string {
	t.Helper()
	dir, err := os.MkdirTemp(".", "rate-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "model.gguf")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func measured(t *testing.T, file string, readers int) (tier.Bytes, error) {
	t.Helper()
	rate, err := MeasureReadRate(t.Context(), file, readers)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("the file system cannot read past its cache: %v", err)
	}
	return rate, err
}

func TestMeasureReadRate_File_PlausibleRate(t *testing.T) {
	file := sizedFile(t, 40<<20+12345)
	for _, readers := range []int{0, 1, 4} {
		rate, err := measured(t, file, readers)
		if err != nil || rate < tier.MiB || rate > 1<<40 {
			t.Errorf("%d readers: %v a second, %v", readers, rate, err)
		}
	}
}

func TestMeasureReadRate_SmallOrMissingFile_Error(t *testing.T) {
	if rate, err := measured(t, sizedFile(t, 1<<20), 2); !errors.Is(err, errShort) || rate != 0 {
		t.Errorf("%v, %v", rate, err)
	}
	if _, err := measured(t, filepath.Join(t.TempDir(), "none"), 2); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestMeasureReadRate_Cancelled_ItsCause(t *testing.T) {
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	_, err := MeasureReadRate(ctx, sizedFile(t, 8<<20), 2)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}
