package modeltier

import (
	"math"
	"testing"
	"time"
)

func TestHistogram_Quantile_IsWithinATenth(t *testing.T) {
	for d := time.Duration(100); d < 40*time.Hour; d += d / 17 {
		var h histogram
		h.add(d)
		q := h.quantiles()
		if off := math.Abs(float64(q.P50)/float64(d) - 1); off > 0.1 || q.P50 != q.P99 || q.Mean != d || q.Count != 1 {
			t.Errorf("of %v: %+v", d, q)
		}
	}
	var h histogram
	h.add(0)
	h.add(-1)
	h.add(math.MaxInt64)
	if q := h.quantiles(); q.Count != 3 || q.P50 != 1 {
		t.Errorf("%+v", q)
	}
}
