package hotload

import (
	"fmt"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

func bigState(models int) State {
	var st State
	for i := range models {
		st.Models = append(st.Models, tier.Model{
			Name: fmt.Sprintf("model-%05d", i), Path: fmt.Sprintf("/srv/models/some/folder/model-%05d-Q4_K_M.gguf", i),
			Size: tier.Bytes(i+1) << 20, Runtime: 512 << 20, Home: tier.Tier(i % 3), Quality: float64(i) / 7,
			Capabilities: []string{"text-generation", "chat"}, Labels: map[string]string{"quantisation": "Q4_K_M", "architecture": "llama"},
		})
	}
	return st
}

// BenchmarkStore_Save measures a save without and with the flushes of a real disk.
func BenchmarkStore_Save(b *testing.B) {
	for _, models := range []int{6, 200, 10_000} {
		st := bigState(models)
		for name, d := range map[string]disk{"NoFlush": noFlush{}, "Flushed": osDisk{}} {
			b.Run(fmt.Sprintf("%s/models=%d", name, models), func(b *testing.B) {
				s, _, _, err := openStore(b.TempDir(), d)
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				b.ReportAllocs()
				for b.Loop() {
					if err := s.Save(func() State { return st }); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// noFlush is the real disk without its flushes.
type noFlush struct{ osDisk }

func (noFlush) SyncDir(string) error { return nil }

func (d noFlush) Create(path string) (diskFile, error) {
	f, err := d.osDisk.Create(path)
	return noSync{f}, err
}

type noSync struct{ diskFile }

func (noSync) Sync() error { return nil }
