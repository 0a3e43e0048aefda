package optimizer

import (
	"math"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

func TestFastLog_AnyPositive_WithinStatedError(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.Float64Range(1e-300, 1e300).Draw(t, "x")
		if got, want := fastLog(x), math.Log(x); math.Abs(got-want) > 1e-5 {
			t.Fatalf("fastLog(%g) = %g, want %g", x, got, want)
		}
	})
	for x := 0.5; x < 3; x += 1e-4 {
		if got, want := fastLog(x), math.Log(x); math.Abs(got-want) > 1e-5 {
			t.Fatalf("fastLog(%g) = %g, want %g", x, got, want)
		}
	}
}

func TestFade_AnyAge_WithinStatedError(t *testing.T) {
	for x := 0.0; x < 100; x += 1e-3 {
		if got, want := fade(x), math.Exp(-x); math.Abs(got-want) > 1e-8 {
			t.Fatalf("fade(%g) = %g, want %g", x, got, want)
		}
	}
}

func TestUse_OfOneModel_StaysWithinOneKiB(t *testing.T) {
	if n := unsafe.Sizeof(use{}); n > 1024 {
		t.Fatalf("what is remembered of a model takes %d bytes, want 1024 at most", n)
	}
}
