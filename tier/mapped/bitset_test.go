package mapped

import (
	"testing"

	"pgregory.net/rapid"
)

func TestBitset_Next_FindsWhatASearchFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bools := rapid.SliceOfN(rapid.Bool(), 1, 200).Draw(t, "pages")
		s := newBitset(len(bools))
		for i, b := range bools {
			if b {
				s.add(i)
			}
		}
		from := rapid.IntRange(0, len(bools)).Draw(t, "from")
		end := rapid.IntRange(0, len(bools)).Draw(t, "end")
		in := rapid.Bool().Draw(t, "in")
		want := from
		for want < end && bools[want] != in {
			want++
		}
		if from > end {
			want = end
		}
		if got := s.next(from, end, in); got != want {
			t.Fatalf("next(%d, %d, %v) = %d, want %d", from, end, in, got, want)
		}
	})
}
