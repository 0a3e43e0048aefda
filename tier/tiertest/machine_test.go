package tiertest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// The engine of the load that the script speaks of crashes, and not that of the load after
// it.
func TestMachine_ReloadedBeforeTheCrash_NewEngineLives(t *testing.T) {
	load, unload := tier.Move{Model: tier.Model{Name: "m", Size: tier.MiB}, To: tier.RAM}, tier.Move{Model: tier.Model{Name: "m", Size: tier.MiB}, From: tier.RAM}
	for want, moves := range [][]tier.Move{{load, unload, load}, {load}} {
		synctest.Test(t, func(t *testing.T) {
			m, crashes := NewMachine(8*tier.GiB), 0
			m.OnCrash(func(string, error) { crashes++ })
			m.Crashes("m", 10*time.Second, nil)
			for _, mv := range moves {
				if err := m.Move(t.Context(), mv, nil); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
			}
			time.Sleep(20 * time.Second)
			synctest.Wait()
			if crashes != want {
				t.Errorf("after %d moves: %d crashes, and not %d", len(moves), crashes, want)
			}
			m.Close()
		})
	}
}
