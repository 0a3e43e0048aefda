package mapped

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

// fakeWeights are shards of that many pages, without files.
func fakeWeights(sys *system, pages ...int) *weights {
	w := &weights{sys: sys}
	for i, n := range pages {
		size := int64(n)*sys.page - int64(i) // ends within a page, but for the first
		w.shards = append(w.shards, &shard{sys: sys, info: fakeInfo{size: size}, start: w.size, device: uint64(i % 2)})
		w.size += size
	}
	return w
}

type fakeInfo struct {
	os.FileInfo
	size int64
}

func (f fakeInfo) Size() int64 { return f.size }

// Every wanted page is handed out once, and nothing else but small gaps.
func TestCursor_HandsOutEveryPageOnce(t *testing.T) {
	sys := &system{page: 4096}
	rapid.Check(t, func(t *rapid.T) {
		w := fakeWeights(sys, rapid.SliceOfN(rapid.IntRange(1, 150), 1, 4).Draw(t, "pages")...)
		l := &loader{w: w, end: rapid.Int64Range(0, w.size).Draw(t, "end")}
		for _, s := range w.shards {
			set := newBitset(s.pages())
			for page := range s.pages() {
				if rapid.IntRange(0, 3).Draw(t, "present") > 0 {
					set.add(page)
				}
			}
			l.sets = append(l.sets, set)
		}
		c := &cursor{loader: l, in: rapid.Bool().Draw(t, "in")}
		if rapid.Bool().Draw(t, "one device") {
			c.device = &device{id: 1}
		}
		most := int64(rapid.IntRange(1, 40).Draw(t, "most")) * sys.page
		want := c.bytes()

		seen := map[[2]int]bool{}
		var got int64
		for {
			p, fresh, ok := c.next(most)
			if !ok {
				break
			}
			i := 0
			for w.shards[i] != p.shard {
				i++
			}
			if p.from >= p.to || p.len() > most || p.to > p.prefix(l.end) || c.device != nil && p.shard.device != 1 {
				t.Fatalf("piece [%d, %d) of shard %d is out of bounds", p.from, p.to, i)
			}
			gaps := 0
			for page := p.from; page < p.to; page++ {
				if seen[[2]int{i, page}] {
					t.Fatalf("page %d of shard %d came twice", page, i)
				}
				seen[[2]int{i, page}] = true
				if in := l.sets[i][page/64]>>(page%64)&1 != 0; in != c.in {
					gaps++
				}
			}
			if c.in && gaps > 0 || gaps > (p.to-p.from)*maxGap {
				t.Fatalf("%d pages in [%d, %d) are not looked for", gaps, p.from, p.to)
			}
			got += fresh
		}
		if got != want {
			t.Fatalf("handed out %d bytes, want %d", got, want)
		}
	})
}

func TestLoad_EveryWay_BringsEveryByte(t *testing.T) {
	mod := sharded(t, "m", 6<<20+odd, 1, 3<<20)
	for _, w := range newSystem().ways() {
		t.Run(w.String(), func(t *testing.T) {
			m := newTestMover(t, newSystem(), Options{Lock: tier.None})
			d, err := os.Stat(filepath.Join(mod.Path, "model-00001-of-00003.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			id, name := uint64(0), ""
			if m.sys.device != nil {
				id, name = m.sys.device(d)
			}
			m.devices.byID[id] = newDevice(id, name, []way{w})
			mustMove(t, m, mod, tier.RAM, 0)
			if present, _ := seen(t, m, mod); present != mod.Size {
				t.Errorf("%d bytes are present of %d", present, mod.Size)
			}
			sameWeights(t, m, mod)
			mustMove(t, m, mod, tier.Storage, 0)
		})
	}
}

func needPopulate(t testing.TB) *system {
	t.Helper()
	sys := newSystem()
	if sys.populate == nil || sys.mincore == nil {
		t.Skip("needs MADV_POPULATE_READ and mincore")
	}
	return sys
}

// What a cancelled load brought is charged to no model, and the next one reads the rest.
func TestLoad_CancelledHalfWay_WhatItBroughtIsCached(t *testing.T) {
	mod := model(t, "m", 64*tier.MiB+odd)
	m := newTestMover(t, needPopulate(t), Options{})
	for _, from := range []tier.Tier{tier.Storage, tier.Swap} {
		const keep = tier.MiB
		for _, after := range []tier.Bytes{1, 8 * tier.MiB, 40 * tier.MiB} {
			mustMove(t, m, mod, tier.Swap, keep)
			mustMove(t, m, mod, from, keep)
			must(t, m.Uncache(t.Context(), "m", tier.Unlimited))
			cause := errors.New("cancelled")
			ctx, cancel := context.WithCancelCause(t.Context())
			var at time.Time
			err := m.Move(ctx, tier.Move{Model: mod, To: tier.RAM}, func(done tier.Bytes) {
				if done >= after && at.IsZero() {
					at = time.Now()
					cancel(cause)
				}
			})
			took := time.Since(at)
			if err != cause { // exactly the cause
				t.Fatalf("Move = %v, want %v", err, cause)
			}
			t.Logf("cancelled after %v: returned within %v", after, took)
			want := tier.Bytes(0)
			if from == tier.Swap {
				want = keep
			}
			if present, _ := seen(t, m, mod); present != want {
				t.Errorf("in %v %v are present, want %v", from, present, want)
			}
			if n := cached(t, m, mod); n < after-keep || n > mod.Size-want {
				t.Errorf("cancelled after %v: %v are cached", after, n)
			}
			if s := modelStatus(t, m, "m"); s.Tier != from || s.Locked != 0 {
				t.Errorf("Status says %+v", s)
			}
		}
	}
	mustMove(t, m, mod, tier.RAM, 0)
	sameWeights(t, m, mod)
}

func TestLoad_ProgressPanicsOrExits_LeavesNothing(t *testing.T) {
	mod := model(t, "m", 16*tier.MiB)
	m := newTestMover(t, newSystem(), Options{})
	for _, tt := range []struct {
		name string
		do   func()
	}{{"panic", func() { panic("progress") }}, {"Goexit", runtime.Goexit}} {
		t.Run(tt.name, func(t *testing.T) {
			var group sync.WaitGroup
			group.Go(func() {
				defer func() { _ = recover() }()
				_ = m.Move(context.Background(), tier.Move{Model: mod, To: tier.RAM}, func(tier.Bytes) { tt.do() })
			})
			group.Wait()
			if present, _ := seen(t, m, mod); present != 0 || m.entries["m"].weights != nil {
				t.Errorf("it is mapped, and %v are present", present)
			}
			mustMove(t, m, mod, tier.RAM, 0)
			mustMove(t, m, mod, tier.Storage, 0)
		})
	}
}

func TestLoad_PagesDoNotStay_IsACapacityErrorAndUndone(t *testing.T) {
	mod := model(t, "m", 2*tier.MiB)
	sys := needPopulate(t)
	cached := sys.mincore
	sys.mincore = func(b, vec []byte) error {
		err := cached(b, vec)
		for i := range len(vec) / 4 {
			vec[i*4] = 0 // a quarter is taken again at once
		}
		return err
	}
	sys.cachestat = nil
	m := newTestMover(t, sys, Options{})
	err := m.Move(t.Context(), tier.Move{Model: mod, To: tier.RAM}, nil)
	ce, ok := errors.AsType[*tier.CapacityError](err)
	if !ok || !errors.Is(err, tier.ErrNoCapacity) || ce.Need != 2*tier.MiB || ce.Free != 1536*tier.KiB {
		t.Errorf("Move = %v", err)
	}
	if present, _ := seen(t, m, mod); present != 0 || m.entries["m"].weights != nil {
		t.Errorf("it is mapped, and %v are present", present)
	}
}

func TestLoad_KeptPagesDoNotStay_TheModelIsInSwapAllTheSame(t *testing.T) {
	mod := model(t, "m", 2*tier.MiB)
	sys := needPopulate(t)
	cached := sys.mincore
	sys.mincore = func(b, vec []byte) error {
		err := cached(b, vec)
		clear(vec[:len(vec)/4]) // a quarter is taken again at once
		return err
	}
	sys.cachestat = nil
	m := newTestMover(t, sys, Options{})
	mustMove(t, m, mod, tier.Swap, mod.Size)
	if present, _ := seen(t, m, mod); present != mod.Size*3/4 {
		t.Errorf("%v are told to be present", present)
	}
	if b, err := m.Bytes("m"); err != nil || len(b[0]) != int(mod.Size) {
		t.Errorf("Bytes = %d, %v", len(b), err)
	}
}

func TestLoad_AFewPagesAreTaken_IsToleratedAndTold(t *testing.T) {
	mod := model(t, "m", 2*tier.MiB)
	sys := needPopulate(t)
	cached := sys.mincore
	sys.mincore = func(b, vec []byte) error {
		err := cached(b, vec)
		vec[len(vec)/2] = 0
		return err
	}
	sys.cachestat = nil
	m := newTestMover(t, sys, Options{})
	mustMove(t, m, mod, tier.RAM, 0)
	if present, _ := seen(t, m, mod); present != mod.Size-tier.Bytes(sys.page) {
		t.Errorf("%d bytes are told to be present", present)
	}
}

// If populate is refused for a mapping, pread is used.
func TestLoad_PopulateFails_IsReadInstead(t *testing.T) {
	mod := model(t, "m", 8*tier.MiB)
	sys := needPopulate(t)
	sys.populate = func([]byte) error { return errors.New("not this one") }
	m := newTestMover(t, sys, Options{})
	mustMove(t, m, mod, tier.RAM, 0)
	if present, _ := seen(t, m, mod); present != mod.Size {
		t.Errorf("%d bytes are present of %d", present, mod.Size)
	}
}

// gate stops every populate until the test releases it.
type gate struct {
	mu    sync.Mutex
	files map[string][]byte // what is mapped
	calls chan gated
}

type gated struct {
	file string // base name
	goOn chan struct{}
}

func (g *gate) install(sys *system) *system {
	g.files, g.calls = map[string][]byte{}, make(chan gated)
	mapFile, populate := sys.mapFile, sys.populate
	sys.mapFile = func(f *os.File, size int) ([]byte, error) {
		b, err := mapFile(f, size)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.files[filepath.Base(f.Name())] = b
		return b, err
	}
	sys.populate = func(mem []byte) error {
		c := gated{g.fileOf(mem), make(chan struct{})}
		g.calls <- c
		<-c.goOn
		return populate(mem)
	}
	return sys
}

func (g *gate) fileOf(mem []byte) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	at := uintptr(unsafe.Pointer(&mem[0]))
	for name, b := range g.files {
		if first := uintptr(unsafe.Pointer(&b[0])); at >= first && at < first+uintptr(len(b)) {
			return name
		}
	}
	return ""
}

// oneWay makes every device be read by a single worker through the mapping.
func oneWay(m *Mover, mod tier.Model) *device {
	info, err := os.Stat(mod.Path)
	if err != nil {
		panic(err)
	}
	id, name := m.sys.device(info)
	d := newDevice(id, name, []way{{populate: true, workers: 1}})
	m.devices.byID[id] = d
	return d
}

func TestLoad_OneDevice_IsReadByOneLoadAtATime(t *testing.T) {
	a, b := model(t, "a", 8*tier.MiB), model(t, "b", 8*tier.MiB)
	var g gate
	m := newTestMover(t, g.install(needPopulate(t)), Options{})
	d := oneWay(m, a)
	done := make(chan string, 2)
	start := func(mod tier.Model) {
		go func() {
			if err := m.Move(t.Context(), tier.Move{Model: mod, To: tier.RAM}, nil); err != nil {
				t.Error(err)
			}
			done <- mod.Name
		}()
	}
	start(a)
	first := <-g.calls
	start(b)
	for d.queue.waiting() == 0 {
		runtime.Gosched()
	}
	close(first.goOn)
	var files []string
	for n := 0; n < 2; {
		select {
		case c := <-g.calls:
			files = append(files, c.file)
			close(c.goOn)
		case <-done:
			n++
		}
	}
	if other := slices.Index(files, "b.gguf"); other < 1 || slices.Contains(files[other:], "a.gguf") {
		t.Errorf("the files were read in the order %v", files)
	}
}

func TestLoad_InTheBackground_YieldsToARequestAtOnceAndGoesOn(t *testing.T) {
	a, b := model(t, "a", 8*tier.MiB), model(t, "b", 8*tier.MiB)
	var g gate
	m := newTestMover(t, g.install(needPopulate(t)), Options{})
	d := oneWay(m, a)
	done := make(chan string, 2)
	start := func(ctx context.Context, mod tier.Model) {
		go func() {
			if err := m.Move(ctx, tier.Move{Model: mod, To: tier.RAM}, nil); err != nil {
				t.Error(err)
			}
			done <- mod.Name
		}()
	}
	idle, _ := tier.Background(t.Context())
	start(idle, a)
	first := <-g.calls
	start(t.Context(), b)
	for d.queue.waiting() == 0 {
		runtime.Gosched()
	}
	close(first.goOn) // the piece in hand, and no other
	var files []string
	for n := 0; n < 2; {
		select {
		case c := <-g.calls:
			files = append(files, c.file)
			close(c.goOn)
		case <-done:
			n++
		}
	}
	// All of b comes before the rest of a.
	if back := slices.Index(files, "a.gguf"); back < 1 || slices.Contains(files[back:], "b.gguf") {
		t.Errorf("the files were read in the order a.gguf %v", files)
	}
	sameWeights(t, m, a)
}

func TestLoad_WaitingForTheDevice_CanBeCancelled(t *testing.T) {
	a, b := model(t, "a", 4*tier.MiB), model(t, "b", 4*tier.MiB)
	m := newTestMover(t, needPopulate(t), Options{})
	d := oneWay(m, a)
	held, err := d.queue.acquire(t.Context(), request, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer held.release()
	cause := errors.New("cancelled")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for d.queue.waiting() == 0 {
			runtime.Gosched()
		}
		cancel(cause)
	}()
	if err := m.Move(ctx, tier.Move{Model: b, To: tier.RAM}, nil); err != cause {
		t.Errorf("Move = %v, want %v", err, cause)
	}
}
