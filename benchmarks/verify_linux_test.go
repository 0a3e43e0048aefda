package benchmarks

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// BenchmarkVerify loads a GB of mapped weights, cold, with and without verification, and
// in the same run reads and hashes the file alone: cold, and from the page cache, which
// is what SHA-256 alone takes. "ratio" is a load with verification over the longer of a
// load without and SHA-256 alone, "of-cold-sum" over a plain cold sha256sum, by medians and by
// the fastest runs.
func BenchmarkVerify(b *testing.B) {
	const size = 1_000_000_000
	path := filepath.Join(b.TempDir(), "weights.bin")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	piece := make([]byte, 1<<20)
	for n := 0; n < size; n += len(piece) {
		for i := range piece {
			piece[i] = byte(rand.Uint32())
		}
		f.Write(piece[:min(len(piece), size-n)])
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	hash := func() string {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, piece); err != nil {
			b.Fatal(err)
		}
		return fmt.Sprintf("%x", h.Sum(nil))
	}
	m := tier.Model{Name: "m", Path: path, Digests: map[string]tier.Digest{path: {SHA256: hash()}}}
	managers := make(map[bool]*modeltier.Manager)
	for _, verify := range []bool{false, true} {
		managers[verify], err = modeltier.New(modeltier.Config{Models: []tier.Model{m}, OptimizeEvery: -1, Verify: verify})
		if err != nil {
			b.Fatal(err)
		}
		defer managers[verify].Close()
	}
	// out has the file out of memory, and another by its times.
	out := func() {
		for _, manager := range managers {
			job, err := manager.Unload(b.Context(), "m")
			if err == nil {
				err = job.Wait(b.Context())
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		f, err := os.Open(path)
		if err == nil {
			now := time.Now()
			err = errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close(), os.Chtimes(path, now, now))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	load := func(verify bool) func() {
		return func() {
			l, err := managers[verify].Acquire(b.Context(), modeltier.Request{Model: "m"})
			if err != nil {
				b.Fatal(err)
			}
			l.Release()
		}
	}
	runs := []struct {
		name string
		cold bool
		run  func()
	}{
		{"load", true, load(false)}, {"verified", true, load(true)}, {"cold-sum", true, func() { hash() }}, {"sum", false, func() { hash() }},
	}
	took := make([][]time.Duration, len(runs))
	for b.Loop() {
		for _, i := range rand.Perm(len(runs)) {
			if runs[i].cold {
				out()
			} else {
				hash()
			}
			began := time.Now()
			runs[i].run()
			took[i] = append(took[i], time.Since(began))
		}
	}
	for unit, at := range map[string]int{"median": b.N / 2, "best": 0} {
		of := make(map[string]float64)
		for i, r := range runs {
			slices.Sort(took[i])
			of[r.name] = took[i][at].Seconds()
			b.ReportMetric(of[r.name], unit+"-"+r.name+"-s")
		}
		b.ReportMetric(of["verified"]/max(of["load"], of["sum"]), unit+"-ratio")
		b.ReportMetric(of["verified"]/of["cold-sum"], unit+"-of-cold-sum")
	}
}
