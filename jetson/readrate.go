package jetson

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modeltier/modeltier/tier"
)

// Bounds of a measurement. The chunk is what the mover of mapped files reads in
// one piece; a second is long enough for a disk to leave its power saving.
const (
	rateChunk = 4 << 20
	rateMost  = 512 * tier.MiB
	rateTime  = 1500 * time.Millisecond
)

// MeasureReadRate reads from the file, past the page cache, with so many reads in
// flight (1 if less), and returns the bytes a second. It takes a second and a
// half or half a GiB, whichever comes first, and 4 MiB of memory a reader. The
// file should be one of the models, and is read in one go from its beginning.
//
// The error unwraps to errors.ErrUnsupported where the system or the file system
// cannot read past its cache: a figure would then be that of memory.
func MeasureReadRate(ctx context.Context, file string, readers int) (tier.Bytes, error) {
	f, err := openDirect(file)
	if err != nil {
		return 0, fmt.Errorf("jetson: measuring %s: %w", file, err)
	}
	defer f.Close()
	var next, done atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for range max(readers, 1) {
		group.Go(func() error { return readChunks(ctx, f, &next, &done, began.Add(rateTime)) })
	}
	if err := group.Wait(); err != nil {
		return 0, fmt.Errorf("jetson: measuring %s: %w", file, err)
	}
	took := time.Since(began)
	if done.Load() < rateChunk {
		return 0, fmt.Errorf("jetson: measuring %s: %w", file, errShort)
	}
	return tier.Bytes(float64(done.Load()) / took.Seconds()), nil
}

var errShort = errors.New("the file is smaller than 4 MiB")

// readChunks reads chunk after chunk, each the next that nobody has taken, until
// the file, the bound or the time is at its end.
func readChunks(ctx context.Context, f *os.File, next, done *atomic.Int64, until time.Time) error {
	buf, free, err := alignedBuffer(rateChunk)
	if err != nil {
		return err
	}
	defer free()
	for ctx.Err() == nil && time.Now().Before(until) {
		at := next.Add(rateChunk) - rateChunk
		if at >= int64(rateMost) {
			return nil
		}
		n, err := f.ReadAt(buf, at)
		done.Add(int64(n))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
