package outbox_test

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/internal/outbox"
)

func TestPost_Many_DeliveredInOrder(t *testing.T) {
	b := outbox.New(1000, nil)
	var got []int
	for i := range 1000 {
		b.Post(func() { got = append(got, i) })
	}
	b.Close(time.Minute)
	if len(got) != 1000 || !slices.IsSorted(got) {
		t.Errorf("%d were delivered, sorted %v", len(got), slices.IsSorted(got))
	}
	if b.Post(func() {}); b.Dropped() != 1 {
		t.Errorf("after Close %d are counted as dropped, want 1", b.Dropped())
	}
}

func TestPost_BlockedDelivery_OthersDropAndCloseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, block := outbox.New(10, nil), make(chan struct{})
		b.Post(func() { <-block })
		synctest.Wait() // it has left the queue
		for range 15 {
			b.Post(func() { t.Error("delivered behind one that blocks") })
		}
		if b.Dropped() != 5 {
			t.Errorf("%d dropped, want 5", b.Dropped())
		}
		began := time.Now()
		b.Close(time.Second)
		if took := time.Since(began); took != time.Second {
			t.Errorf("Close took %v, want 1 s", took)
		}
		if b.Dropped() != 15 {
			t.Errorf("%d dropped, want 15", b.Dropped())
		}
		close(block)
	})
}

func TestPost_PanicAndGoexit_NextIsDelivered(t *testing.T) {
	var told []any
	b := outbox.New(10, func(v any, _ []byte) { told = append(told, v); panic("the teller too") })
	delivered := false
	b.Post(func() { panic("boom") })
	b.Post(runtime.Goexit)
	b.Post(func() { delivered = true })
	b.Close(time.Minute)
	if !delivered || len(told) != 2 || told[0] != "boom" || told[1] != nil {
		t.Errorf("delivered %v, told of %v", delivered, told)
	}
}

func TestLogger_GroupsAndAttrs_AsOfTheHandler(t *testing.T) {
	var direct, through bytes.Buffer
	noTime := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	b := outbox.New(100, nil)
	for _, l := range []*slog.Logger{slog.New(slog.NewTextHandler(&direct, noTime)), b.Logger(slog.NewTextHandler(&through, noTime))} {
		l.Debug("not enabled")
		l.With("model", "m").WithGroup("g").With("a", 1).Info("hello", "b", 2)
	}
	b.Close(time.Minute)
	if direct.String() != through.String() || !strings.Contains(direct.String(), "g.b=2") {
		t.Errorf("through the box:\n%s\ndirectly:\n%s", through.String(), direct.String())
	}
}

func BenchmarkLogger_Queued(b *testing.B) {
	box := outbox.New(outbox.Size, nil)
	l := box.Logger(slog.DiscardHandler)
	b.ReportAllocs()
	for b.Loop() {
		l.LogAttrs(context.Background(), slog.LevelInfo, "m", slog.Int("a", 1))
	}
	box.Close(time.Second)
}
