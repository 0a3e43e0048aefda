package llama

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	yzma "github.com/hybridgroup/yzma/pkg/llama"
)

func TestQueue_FirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		held, err := q.take(t.Context(), AnySlot, nil)
		if err != nil {
			t.Fatal(err)
		}
		order := make(chan int, 5)
		for i := range 5 {
			go func() {
				s, err := q.take(t.Context(), AnySlot, nil)
				if err != nil {
					t.Error(err)
					return
				}
				order <- i
				q.give(s)
			}()
			synctest.Wait()
		}
		q.give(held)
		for i := range 5 {
			if got := <-order; got != i {
				t.Errorf("served as number %d: %d", i, got)
			}
		}
	})
}

func TestQueue_GivenUp_LosesNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2)
		first, err1 := q.take(t.Context(), 0, nil)
		second, err2 := q.take(t.Context(), 1, nil)
		if err := errors.Join(err1, err2); err != nil || first.id != 0 || second.id != 1 {
			t.Fatal(err)
		}
		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		got := make(chan error, 3)
		for _, id := range []int{AnySlot, 1, 0} {
			go func() {
				s, err := q.take(ctx, id, nil)
				if err == nil {
					q.give(s)
				}
				got <- err
			}()
			synctest.Wait()
		}
		cancel(why)
		for range 3 {
			if err := <-got; err != why {
				t.Errorf("who gave up has %v", err)
			}
		}
		if len(q.waiting) != 0 {
			t.Errorf("%d wait", len(q.waiting))
		}
		q.give(second)
		q.give(first)
		if s, err := q.take(t.Context(), 1, nil); err != nil || s != second {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

// A slot may be granted in the moment that its waiter gives up.
func TestQueue_GrantedToWhoHasGivenUp_IsFreeAgain(t *testing.T) {
	q := newQueue(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	refused := 0
	for range 100 {
		s, err := q.take(ctx, AnySlot, nil)
		if err == nil {
			q.give(s)
			continue
		}
		if refused++; q.slots[0].busy {
			t.Fatal("the slot is lost")
		}
	}
	if refused == 0 {
		t.Error("it was never given up")
	}
}

func TestQueue_Number_WaitsForThatSlotAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2)
		first, err := q.take(t.Context(), 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got *slot
		go func() { got, _ = q.take(t.Context(), 0, nil) }()
		synctest.Wait()
		other, err := q.take(t.Context(), AnySlot, nil) // is not kept by who waits for another
		if err != nil || other.id != 1 || got != nil {
			t.Fatalf("%+v, %v, %+v", other, err, got)
		}
		q.give(first)
		synctest.Wait()
		if got != first {
			t.Errorf("%+v", got)
		}
	})
	for _, id := range []int{-2, 2} {
		if _, err := newQueue(2).take(t.Context(), id, nil); !errors.Is(err, ErrNoSlot) {
			t.Errorf("slot %d of 2: %v", id, err)
		}
	}
}

func TestQueue_Pick_MostOfThePromptThenLongestUnused(t *testing.T) {
	q := newQueue(3)
	q.slots[0].tokens, q.slots[0].used = []yzma.Token{1, 2, 9}, 3
	q.slots[1].tokens, q.slots[1].used = []yzma.Token{1, 2, 3, 4}, 2
	q.slots[2].used = 1
	for _, c := range []struct {
		prompt []yzma.Token
		want   int
	}{
		{[]yzma.Token{1, 2, 3, 5}, 1},
		{[]yzma.Token{1, 2, 9}, 0},
		{[]yzma.Token{7}, 2},
		{[]yzma.Token{1, 2}, 1},
	} {
		if s := q.pick(&waiter{id: AnySlot, prompt: c.prompt}); int(s.id) != c.want {
			t.Errorf("%v: slot %d and not %d", c.prompt, s.id, c.want)
		}
	}
}

func TestOutlet_StopWordsAndCharactersAcrossPieces(t *testing.T) {
	for _, c := range []struct {
		stop   []string
		pieces []string
		want   []string // what goes out with each, and in the end
		met    bool
	}{
		{nil, []string{"a", "b"}, []string{"a", "b", ""}, false},
		{[]string{"END"}, []string{"an E", "N", "D of it"}, []string{"an ", "", ""}, true},
		{[]string{"END"}, []string{"an E", "N", "d"}, []string{"an ", "", "ENd", ""}, false},
		{[]string{"END"}, []string{"E", "E", "ND"}, []string{"", "E", ""}, true},
		{[]string{"END"}, []string{"EN"}, []string{"", "EN"}, false},
		{[]string{"b", "abc"}, []string{"xabc"}, []string{"x"}, true},
		{nil, []string{"\xc3", "\xa9", "\xe2\x82", "\xac!"}, []string{"", "é", "", "€!", ""}, false},
		{nil, []string{"a\xff", "b"}, []string{"a\uFFFD", "b", ""}, false},
		{nil, []string{"a\xe2\x82"}, []string{"a", "\uFFFD"}, false},
		{[]string{"é"}, []string{"a\xc3", "\xa9b"}, []string{"a", ""}, true},
	} {
		o := outlet{stop: c.stop}
		var got []string
		met := false
		for _, piece := range c.pieces {
			var out string
			out, met = o.add(piece)
			if got = append(got, out); met {
				break
			}
		}
		if !met {
			got = append(got, o.rest())
		}
		if !slices.Equal(got, c.want) || met != c.met {
			t.Errorf("%q without %q: %q, %v and not %q, %v", c.pieces, c.stop, got, met, c.want, c.met)
		}
	}
}

// However a text is cut into pieces, the same goes out.
func FuzzOutlet(f *testing.F) {
	f.Add("one two three", "two", "e t", uint8(3))
	f.Add("é€\xffx", "€", "\xe2", uint8(1))
	f.Fuzz(func(t *testing.T, text, a, b string, size uint8) {
		var stop []string
		for _, word := range []string{a, b} {
			if word != "" && strings.ToValidUTF8(word, "") == word { // as JSON has them
				stop = append(stop, word)
			}
		}
		o := outlet{stop: stop}
		var got strings.Builder
		met := false
		for rest := text; rest != "" && !met; {
			n := min(len(rest), int(size)+1)
			var out string
			out, met = o.add(rest[:n])
			got.WriteString(out)
			rest = rest[n:]
		}
		if !met {
			got.WriteString(o.rest())
		}
		for _, word := range stop {
			if strings.Contains(got.String(), word) && strings.Contains(text, word) && !strings.Contains(word, "\uFFFD") {
				t.Errorf("%q came out of %q, with %q to stop at", got.String(), text, word)
			}
			if strings.Contains(text, word) && !met {
				t.Errorf("%q was not met in %q", word, text)
			}
		}
	})
}
