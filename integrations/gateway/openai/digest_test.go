package openai

import (
	"context"
	"errors"
	"testing"
)

func TestSHA256Of_ClientGone_StopsEarly(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	reads := 0
	_, err := sha256Of(ctx, readerFunc(func(p []byte, _ int64) (int, error) {
		if reads++; reads == 2 {
			cancel(gone)
		}
		return len(p), nil
	}), 1<<30)
	if !errors.Is(err, gone) || reads != 2 {
		t.Errorf("%d reads, %v", reads, err)
	}
}

type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }
