package optimizer

import (
	"testing"
	"unsafe"
)

func TestUse_OfOneModel_StaysWithinOneKiB(t *testing.T) {
	if n := unsafe.Sizeof(use{}); n > 1024 {
		t.Fatalf("what is remembered of a model takes %d bytes, want 1024 at most", n)
	}
}
