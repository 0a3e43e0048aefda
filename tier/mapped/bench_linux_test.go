package mapped

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// benchSize is the size of the weights, 1 GB as storage makers count it.
const benchSize = 1_000_000_000

// plain is a reader that only reads: what the device and memory are capable of.
type plain struct {
	name    string
	workers int
	direct  bool // O_DIRECT, past the page cache
	mapped  bool // touches a mapping
}

func plainReaders(cold bool) []plain {
	all := []plain{
		{"read ×1", 1, false, false}, {"read ×2", 2, false, false}, {"read ×4", 4, false, false}, {"read ×8", 8, false, false},
		{"touch ×1", 1, false, true}, {"touch ×2", 2, false, true},
	}
	if cold {
		all = append(all, plain{"direct ×1", 1, true, false}, plain{"direct ×4", 4, true, false})
	}
	return all
}

// run reads the whole file, and returns how long that took from opening it.
func (p plain) run(b testing.TB, path string) time.Duration {
	began := time.Now()
	const piece = 4 << 20
	flag := os.O_RDONLY
	if p.direct {
		flag |= syscall.O_DIRECT
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	var weights []byte
	if p.mapped {
		if weights, err = mapFile(f, benchSize); err != nil {
			b.Fatal(err)
		}
		defer unmap(weights)
	}
	var next atomic.Int64
	var group sync.WaitGroup
	for i := range p.workers {
		group.Go(func() {
			buf := buffers[i]
			for {
				off := next.Add(piece) - piece
				if off >= benchSize {
					return
				}
				if p.mapped {
					if err := touch(weights[off:min(off+piece, benchSize)], 4096); err != nil {
						b.Error(err)
					}
				} else if _, err := f.ReadAt(buf, off); err != nil && off+piece < benchSize {
					b.Error(err)
				}
			}
		})
	}
	group.Wait()
	return time.Since(began) // without unmapping
}

// buffers are page-aligned and present, so that plain readers pay for nothing but
// reading.
var buffers = func() (all [8][]byte) {
	for i := range all {
		b, err := syscall.Mmap(-1, 0, 4<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_POPULATE)
		if err != nil {
			panic(err)
		}
		all[i] = b
	}
	return all
}()

func benchModel(b *testing.B) tier.Model { return model(b, "bench", benchSize) }

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return d[len(d)/2].Seconds()
}

// fastest says more than the median if the machine has other work.
func fastest(d []time.Duration) float64 { return slices.Min(d).Seconds() }

// BenchmarkLoad loads a model and, in the same run, reads its file with every
// plain reader. The ratio is our rate over that of the best of them, by the
// medians and by the fastest runs.
func BenchmarkLoad(b *testing.B) {
	for _, cold := range []bool{true, false} {
		name := "warm"
		if cold {
			name = "cold"
		}
		b.Run(name, func(b *testing.B) {
			mod := benchModel(b)
			options := Options{Lock: tier.None} // no reader locks
			m := newTestMover(b, newSystem(), options)
			mustMove(b, m, mod, tier.RAM, 0) // the device is measured
			mustMove(b, m, mod, tier.Storage, 0)
			if !cold {
				plain{workers: 2}.run(b, mod.Path)
			}
			readers := plainReaders(cold)
			took := make([][]time.Duration, len(readers)+1)
			for b.Loop() { // its own figure is of all readers together
				for _, i := range rand.Perm(len(took)) { // none always has the device's best moment
					if cold {
						chillPath(b, mod.Path)
					}
					if i < len(readers) {
						took[i] = append(took[i], readers[i].run(b, mod.Path))
						continue
					}
					began := time.Now()
					mustMove(b, m, mod, tier.RAM, 0)
					took[i] = append(took[i], time.Since(began))
					if cold {
						mustMove(b, m, mod, tier.Storage, 0)
						continue
					}
					m.Close() // which leaves the pages in the cache
					m = newTestMover(b, newSystem(), options)
				}
			}
			for unit, pick := range map[string]func([]time.Duration) float64{"median": median, "best": fastest} {
				plainly, by := 0.0, ""
				for i, r := range readers {
					if rate := benchSize / pick(took[i]) / 1e9; rate > plainly {
						plainly, by = rate, r.name
					}
				}
				ours := benchSize / pick(took[len(readers)]) / 1e9
				b.ReportMetric(ours, unit+"-GB/s")
				b.ReportMetric(ours/plainly, unit+"-ratio")
				b.Logf("%s: %s reads %.2f GB/s, we load %.2f", unit, by, plainly, ours)
			}
			b.Logf("%+v", m.Status().Devices)
		})
	}
}

// processors returns the processor time of this process.
func processors() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDemote takes 1 GB of mapped weights out of memory. "cpu" is the processor
// time, which other work on the machine does not distort.
func BenchmarkDemote(b *testing.B) {
	for _, to := range []tier.Tier{tier.Swap, tier.Storage} {
		for _, lock := range []tier.Bytes{tier.None, tier.Unlimited} {
			b.Run(fmt.Sprintf("to=%v/locked=%v", to, lock == tier.Unlimited), func(b *testing.B) {
				mod := benchModel(b)
				m := newTestMover(b, newSystem(), Options{Lock: lock})
				var took, worked []time.Duration
				for b.Loop() {
					b.StopTimer()
					mustMove(b, m, mod, tier.RAM, 0)
					b.StartTimer()
					began, work := time.Now(), processors()
					mustMove(b, m, mod, to, 0)
					took = append(took, time.Since(began))
					worked = append(worked, processors()-work)
				}
				b.ReportMetric(median(took)*1e3, "median-ms")
				b.ReportMetric(fastest(took)*1e3, "best-ms")
				b.ReportMetric(median(worked)*1e3, "cpu-ms")
			})
		}
	}
}

// BenchmarkResident asks for 1 GB of weights in ram.
func BenchmarkResident(b *testing.B) {
	mod := benchModel(b)
	m := newTestMover(b, newSystem(), Options{})
	mustMove(b, m, mod, tier.RAM, 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := m.Resident(b.Context(), mod.Name); err != nil {
			b.Fatal(err)
		}
	}
}
