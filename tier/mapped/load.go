package mapped

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// report passes progress on, in bytes that the move had to bring or take.
type report struct {
	fn   func(done tier.Bytes)
	base int64 // bytes that were there before
	most int64 // bytes that have to move
	done int64
}

// at tells that so many bytes are there.
func (r *report) at(there int64) {
	r.done = max(r.done, min(there-r.base, r.most))
	r.again()
}

// add tells that n more bytes have moved.
func (r *report) add(n int64) {
	r.done = min(r.done+n, r.most)
	r.again()
}

// again tells that the move is alive.
func (r *report) again() {
	if r.fn != nil {
		r.fn(tier.Bytes(r.done))
	}
}

// Bounds of one piece of work. A load that is cancelled waits for the pieces in
// hand, so that they shrink until the device does one in a few milliseconds.
const (
	minPiece   = 128 << 10
	firstPiece = 1 << 20
	maxPiece   = 4 << 20
	quick      = 4 * time.Millisecond
	slow       = 16 * time.Millisecond
	// scratch is the buffer that a worker reads into: 8 MiB for a load in all.
	scratch = 1 << 20
	// mappers map what is cached, in pieces of that many bytes: it takes a
	// fraction of a millisecond.
	mappers, mappedPiece = 2, 16 << 20
)

// loader brings bytes [0, end) of a model in.
type loader struct {
	w          *weights
	end        int64
	sets       []bitset // by shard, the pages that are present
	report     *report
	background func() bool

	inPlace int64 // bytes that are
	piece   atomic.Int64
	buffers [maxWorkers][]byte // by worker, made when needed
}

// load runs one pass over what is missing by sets. No goroutine of it outlives
// it.
func (m *Mover) load(ctx context.Context, w *weights, end int64, sets []bitset, r *report) error {
	l := &loader{w: w, end: end, sets: sets, report: r, background: tier.InBackground(ctx)}
	l.piece.Store(mappedPiece)
	never := func() bool { return false }
	here := &cursor{loader: l, in: true}
	if _, err := l.work(ctx, here, mappers, w.size, never, func(_ int, p span) error { return p.enter() }); err != nil {
		return err
	}
	for _, d := range m.devicesOf(w) {
		l.piece.Store(firstPiece)
		if err := l.read(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// read reads what lies on d, one turn of its lane after the other.
func (l *loader) read(ctx context.Context, d *device) error {
	c := &cursor{loader: l, device: d}
	left := c.bytes()
	if left > 0 && l.end == l.w.size && l.w.sys.ahead != nil { // nothing lies beyond what is wanted
		for _, s := range l.w.shards {
			l.w.sys.ahead(s.file, 1)
			defer l.w.sys.ahead(s.file, 0)
		}
	}
	for left > 0 && !c.finished() {
		t, err := d.lane.acquire(ctx, l.background, l.report.again)
		if err != nil {
			return err
		}
		n, err := l.hold(ctx, t, d, c, left)
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// hold reads for as long as it has the turn, and returns how much it read.
func (l *loader) hold(ctx context.Context, t *turn, d *device, c *cursor, left int64) (n int64, err error) {
	defer t.release()
	idle := l.background()
	stop := func() bool { return t.yields() || idle && !l.background() }
	for n < left && !c.finished() && !stop() {
		w, budget := d.pick(left - n)
		began := time.Now()
		did, err := l.work(ctx, c, w.workers, budget, stop, func(worker int, p span) error {
			defer d.lane.steps.Add(1)
			return l.fill(w, worker, p)
		})
		n += did
		if err != nil {
			return n, err
		}
		if !idle { // else the rate is that of idle time
			d.learn(w, did, time.Since(began))
		}
	}
	return n, nil
}

// work has workers do the pieces of c until there are no more, budget bytes are
// done, stop says so, or ctx ends, which is an error. Progress is reported from
// the calling goroutine.
func (l *loader) work(ctx context.Context, c *cursor, workers int, budget int64, stop func() bool, do func(worker int, p span) error) (done int64, err error) {
	type result struct {
		bytes int64
		err   error
	}
	var (
		halt    atomic.Bool
		handed  atomic.Int64
		running atomic.Int64
		group   sync.WaitGroup
		results = make(chan result, workers)
	)
	worker := func(i int) {
		defer func() {
			if running.Add(-1) == 0 {
				close(results)
			}
		}()
		if c.device != nil && l.w.sys.idle != nil && l.background() {
			defer l.w.sys.idle()()
		}
		for !halt.Load() && ctx.Err() == nil && handed.Load() < budget && !stop() {
			p, fresh, ok := c.next(l.piece.Load())
			if !ok {
				return
			}
			handed.Add(fresh)
			began := time.Now()
			err := do(i, p)
			l.pace(time.Since(began))
			results <- result{fresh, err}
		}
	}
	running.Store(int64(workers))
	for i := range workers {
		group.Go(func() { worker(i) })
	}
	defer func() { // also where progress panics
		halt.Store(true)
		for range results {
		}
		group.Wait()
	}()
	for r := range results {
		if r.err != nil {
			return done, r.err
		}
		done += r.bytes
		l.inPlace += r.bytes
		l.report.at(l.inPlace)
	}
	return done, context.Cause(ctx)
}

// pace adapts the size of pieces to how long one takes.
func (l *loader) pace(took time.Duration) {
	now := l.piece.Load()
	switch {
	case took < quick && now < maxPiece:
		l.piece.CompareAndSwap(now, now*2)
	case took > slow && now > minPiece:
		l.piece.CompareAndSwap(now, now/2)
	}
}

// fill makes the pages of p present and maps them.
func (l *loader) fill(w way, worker int, p span) error {
	if w.populate && p.sys.populate(p.mem()) == nil {
		return nil
	}
	// Where populate fails, reading tells why, if it fails too.
	if l.buffers[worker] == nil {
		l.buffers[worker] = make([]byte, scratch)
	}
	if err := p.read(l.buffers[worker]); err != nil {
		return err
	}
	return p.enter()
}

// read reads the pages of p into the page cache, by way of buf.
func (p span) read(buf []byte) error {
	for off, end := p.off(), p.off()+p.len(); off < end; {
		n, err := p.file.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
		if err != nil {
			if changed := p.check(); changed != nil {
				return changed
			}
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("reading %s at %d: %w", quote(p.path), off, err)
		}
		off += int64(n)
	}
	return nil
}

// enter enters pages that are cached into our page tables.
func (p span) enter() error {
	if p.sys.populate != nil && p.sys.populate(p.mem()) == nil {
		return nil
	}
	if err := touch(p.mem(), p.sys.page); err != nil {
		if changed := p.check(); changed != nil {
			return changed
		}
		return fmt.Errorf("mapping %s at %d: %w", quote(p.path), p.off(), err)
	}
	return nil
}

// cursor hands out, piece by piece, the pages of a loader's prefix that are in
// its sets, or those that are not, to any number of workers.
type cursor struct {
	*loader
	in     bool
	device *device // nil: all

	mu    sync.Mutex // guards what follows
	shard int
	page  int
}

// gap is how many present pages are read over rather than around.
const gap = 16

// next returns a piece of at most that many bytes, and how many bytes of it are
// such as are looked for.
func (c *cursor) next(most int64) (p span, fresh int64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; c.shard < len(c.w.shards); c.shard, c.page = c.shard+1, 0 {
		s, set := c.w.shards[c.shard], c.sets[c.shard]
		end := s.prefix(c.end)
		if c.device != nil && s.device != c.device.id {
			continue
		}
		from := set.next(c.page, end, c.in)
		if from == end {
			continue
		}
		end = min(end, from+max(int(most/s.sys.page), 1))
		to := set.next(from, end, !c.in)
		fresh = s.bytes(from, to)
		for !c.in && to < end {
			again := set.next(to, end, false)
			if again == end || again-to > gap {
				break
			}
			to = set.next(again, end, true)
			fresh += s.bytes(again, to)
		}
		c.page = to
		return span{s, from, to}, fresh, true
	}
	return span{}, 0, false
}

func (c *cursor) finished() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shard == len(c.w.shards)
}

// bytes returns how many bytes are looked for in all.
func (c *cursor) bytes() int64 {
	var n int64
	for i, s := range c.w.shards {
		if c.device != nil && s.device != c.device.id {
			continue
		}
		end := s.prefix(c.end)
		for page := c.sets[i].next(0, end, c.in); page < end; {
			to := c.sets[i].next(page, end, !c.in)
			n += s.bytes(page, to)
			page = c.sets[i].next(to, end, c.in)
		}
	}
	return n
}
