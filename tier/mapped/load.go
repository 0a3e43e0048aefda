package mapped

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// report passes on the progress of a move, in bytes that it had to bring or take.
type report struct {
	fn    func(done tier.Bytes)
	base  int64 // bytes that were there before
	total int64 // bytes that have to move
	done  int64
}

// reached reports that so many bytes are there.
func (r *report) reached(there int64) {
	r.done = max(r.done, min(there-r.base, r.total))
	r.alive()
}

// add reports that n more bytes have moved.
func (r *report) add(n int64) {
	r.done = min(r.done+n, r.total)
	r.alive()
}

// alive reports the same progress again.
func (r *report) alive() {
	if r.fn != nil {
		r.fn(tier.Bytes(r.done))
	}
}

const (
	// maxRounds is how often pages are read that the kernel reclaims during a load.
	maxRounds = 3
	// A load succeeds although one byte in minMissing is missing at most: a machine
	// at its limit has always reclaimed a few pages. The next recheck reads them.
	minMissing = 64
)

// fill loads bytes [0, end) and, if locks is given, mlocks the model, until all of
// it is seen to be present. Without locks the kernel may take pages at once; those
// are not read again, since the model can be used without them.
func (w *weights) fill(ctx context.Context, all *devices, locks *mlockAccount, end int64, sets []bitset, r *report) error {
	for round := 1; ; round++ {
		if err := w.load(ctx, all.of(w), end, sets, r); err != nil {
			return err
		}
		if locks == nil {
			return nil
		}
		err := locks.lock(ctx, w)
		if err != nil {
			return err
		}
		if sets, err = w.snapshot(ctx, end, false); err != nil {
			return err
		}
		missing := w.missing(end, sets)
		if missing == 0 || round == maxRounds && missing <= end/minMissing {
			return nil
		}
		if round == maxRounds {
			return &tier.CapacityError{
				Model: w.shards[0].model, Tier: tier.RAM, Need: tier.Bytes(end), Free: tier.Bytes(end - missing), Limit: tier.Bytes(end),
				Reason: fmt.Sprintf("Of %v of weights %v were gone from memory when the last were read: there is less room than was promised", tier.Bytes(end), tier.Bytes(missing)),
			}
		}
	}
}

// Limits of one piece of work. A cancelled load waits for the pieces in hand, so
// they shrink until the device reads one in a few milliseconds.
const (
	minPiece   = 128 << 10
	firstPiece = 1 << 20
	maxPiece   = 4 << 20
	fastPiece  = 4 * time.Millisecond
	slowPiece  = 16 * time.Millisecond
	// scratchSize is the buffer of one worker that uses pread.
	scratchSize = 1 << 20
	// mapWorkers map what is cached, in pieces of mapPiece bytes: each takes a
	// fraction of a millisecond.
	mapWorkers, mapPiece = 2, 16 << 20
)

// loader brings bytes [0, end) of a model in.
type loader struct {
	w          *weights
	end        int64
	sets       []bitset // by shard, the pages that are present
	report     *report
	background func() bool

	there   int64 // bytes in place
	piece   atomic.Int64
	buffers [maxWorkers][]byte // by worker, made when needed
}

// load runs one pass: it maps the pages in sets and reads the others. No goroutine
// of it outlives it.
func (w *weights) load(ctx context.Context, devices []*device, end int64, sets []bitset, r *report) error {
	l := &loader{w: w, end: end, sets: sets, report: r, background: tier.InBackground(ctx)}
	l.piece.Store(mapPiece)
	never := func() bool { return false }
	present := &cursor{loader: l, in: true}
	if _, err := l.work(ctx, present, mapWorkers, w.size, never, func(_ int, p span) error { return p.mapPages() }); err != nil {
		return err
	}
	for _, d := range devices {
		l.piece.Store(firstPiece)
		if err := l.readDevice(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// readDevice reads what is missing from d, one turn of its queue after the other.
func (l *loader) readDevice(ctx context.Context, d *device) error {
	c := &cursor{loader: l, device: d}
	remaining := c.bytes()
	if remaining > 0 && l.end == l.w.size && l.w.sys.setReadahead != nil { // nothing beyond is unwanted
		for _, s := range l.w.shards {
			l.w.sys.setReadahead(s.file, readaheadFar)
			defer l.w.sys.setReadahead(s.file, readaheadNormal)
		}
	}
	for remaining > 0 {
		t, err := d.queue.acquire(ctx, l.background, l.report.alive)
		if err != nil {
			return err
		}
		n, err := l.readTurn(ctx, t, d, c, remaining)
		if err != nil {
			return err
		}
		remaining -= n
	}
	return nil
}

// readTurn reads until it is done or has to give up the turn, and returns how much
// it read.
func (l *loader) readTurn(ctx context.Context, t *turn, d *device, c *cursor, remaining int64) (n int64, err error) {
	defer t.release()
	idle := l.background()
	stop := func() bool { return t.shouldYield() || idle && !l.background() }
	for n < remaining && !stop() {
		w, budget := d.pick(remaining - n)
		began := time.Now()
		did, err := l.work(ctx, c, w.workers, budget, stop, func(worker int, p span) error {
			defer d.queue.steps.Add(1)
			return l.readPiece(w, worker, p)
		})
		n += did
		if err != nil {
			return n, err
		}
		if !idle { // a rate at idle priority says nothing about others
			d.record(w, did, time.Since(began))
		}
	}
	return n, nil
}

// work has workers do the pieces of c until there are no more, budget bytes are
// done, stop returns true, or ctx ends, which is an error. Progress is reported
// from the calling goroutine.
func (l *loader) work(ctx context.Context, c *cursor, workers int, budget int64, stop func() bool, do func(worker int, p span) error) (done int64, err error) {
	type result struct {
		bytes int64
		err   error
	}
	var (
		halt    atomic.Bool
		handed  atomic.Int64
		group   sync.WaitGroup
		results = make(chan result, workers)
	)
	worker := func(i int) {
		if c.device != nil && l.w.sys.idleIO != nil && l.background() {
			defer l.w.sys.idleIO()()
		}
		for !halt.Load() && ctx.Err() == nil && handed.Load() < budget && !stop() {
			p, wanted, ok := c.next(l.piece.Load())
			if !ok {
				return
			}
			handed.Add(wanted)
			began := time.Now()
			err := do(i, p)
			l.adaptPiece(time.Since(began))
			results <- result{wanted, err}
		}
	}
	for i := range workers {
		group.Go(func() { worker(i) })
	}
	go func() {
		group.Wait()
		close(results)
	}()
	defer func() { // also if the report panics
		halt.Store(true)
		for range results {
		}
	}()
	for r := range results {
		if r.err != nil {
			return done, r.err
		}
		done += r.bytes
		l.there += r.bytes
		l.report.reached(l.there)
	}
	return done, context.Cause(ctx)
}

func (l *loader) adaptPiece(took time.Duration) {
	now := l.piece.Load()
	switch {
	case took < fastPiece && now < maxPiece:
		l.piece.CompareAndSwap(now, now*2)
	case took > slowPiece && now > minPiece:
		l.piece.CompareAndSwap(now, now/2)
	}
}

// readPiece makes the pages of p present and maps them.
func (l *loader) readPiece(w way, worker int, p span) error {
	if w.populate && p.sys.populate(p.mem()) == nil {
		return nil
	}
	// If populate fails, reading may still succeed, or tells why not.
	if l.buffers[worker] == nil {
		l.buffers[worker] = make([]byte, scratchSize)
	}
	if err := p.read(l.buffers[worker]); err != nil {
		return err
	}
	return p.mapPages()
}

// cursor hands out, piece by piece, the pages of a loader's prefix that are in its
// sets, or, if in is false, that are not, to any number of workers.
type cursor struct {
	*loader
	in     bool
	device *device // nil: all

	mu    sync.Mutex // guards the rest
	shard int
	page  int
}

// maxGap is how many present pages are read again rather than skipped.
const maxGap = 16

// next returns a piece of at most maxBytes, and how many bytes of it are wanted.
func (c *cursor) next(maxBytes int64) (p span, wanted int64, ok bool) {
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
		end = min(end, from+max(int(maxBytes/s.sys.page), 1))
		to := set.next(from, end, !c.in)
		wanted = s.bytes(from, to)
		for !c.in && to < end {
			again := set.next(to, end, false)
			if again == end || again-to > maxGap {
				break
			}
			to = set.next(again, end, true)
			wanted += s.bytes(again, to)
		}
		c.page = to
		return span{s, from, to}, wanted, true
	}
	return span{}, 0, false
}

// bytes returns how many bytes are wanted in all.
func (c *cursor) bytes() int64 {
	var n int64
	for i, s := range c.w.shards {
		if c.device == nil || s.device == c.device.id {
			n += s.count(c.sets[i], s.prefix(c.end), c.in)
		}
	}
	return n
}

// mlockAccount is the account of the bytes that the Mover has mlocked.
type mlockAccount struct {
	sys *system
	max tier.Bytes // Options.Lock

	held atomic.Int64
}

const (
	// mlockStep is how much is locked at a time; near the limit it shrinks down to
	// minMlockStep.
	mlockStep, minMlockStep = 256 << 20, 64 << 10
)

// lock mlocks the model's pages, from the first on, as far as the process may and
// Options.Lock allows. It is no error if it may not: the kernel may then reclaim
// the pages, and Status says so.
func (k *mlockAccount) lock(ctx context.Context, w *weights) error {
	if k.sys.mlock == nil {
		return nil
	}
	for _, s := range w.shards {
		page := s.prefix(w.locked.Load())
		for step := int64(mlockStep); page < s.pages(); {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			to := min(page+int(max(step/k.sys.page, 1)), s.pages())
			p := span{s, page, to}
			if !k.lockSpan(p) {
				if step /= 2; step < minMlockStep {
					return nil
				}
				continue
			}
			w.locked.Add(p.len())
			page = to
		}
	}
	return nil
}

func (k *mlockAccount) lockSpan(p span) bool {
	n := p.len()
	for { // no more is ever held than may be, or a smaller span of another model would be refused
		held := k.held.Load()
		if held+n > int64(k.max) {
			return false
		}
		if k.held.CompareAndSwap(held, held+n) {
			break
		}
	}
	if p.sys.mlock(p.mem()) != nil {
		k.held.Add(-n)
		return false
	}
	return true
}

// unlock munlocks the model.
func (k *mlockAccount) unlock(w *weights) {
	for _, s := range w.shards {
		if s.start < w.locked.Load() {
			_ = k.sys.munlock(s.data) // cannot fail: it is mapped
		}
	}
	k.held.Add(-w.locked.Swap(0))
}

// limit returns how many bytes may be locked at most.
func (k *mlockAccount) limit() tier.Bytes {
	if k.sys.mlockLimit == nil {
		return 0
	}
	return min(k.sys.mlockLimit(), k.max)
}
