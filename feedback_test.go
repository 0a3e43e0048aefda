package modeltier_test

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
)

// slowLearner takes 2 ms for each access that it is told of.
type slowLearner struct {
	*optimizer.LRU

	mu   sync.Mutex // guards the rest
	told []map[string]int
}

func (s *slowLearner) Accessed(uses []tier.Access) {
	time.Sleep(time.Duration(len(uses)) * 2 * time.Millisecond)
	s.LRU.Accessed(uses)
	n := make(map[string]int)
	for _, a := range uses {
		n[a.Model]++
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, n)
}

func TestAcquire_AccessesComeFasterThanThePlacementLearns_IsToldASampleAndPlans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		s := &slowLearner{LRU: new(optimizer.LRU)}
		cfg := onlyRAM(model("a", 1), model("b", 1), model("c", 2), model("d", 2))
		cfg.Placement, cfg.Logger = s, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
		r := newRig(t, cfg)

		began := time.Now()
		over := func() bool { return time.Since(began) > time.Minute }
		var client sync.WaitGroup
		client.Go(func() { // takes turns, four times as fast as is learned
			for !over() {
				r.use("a")
				r.use("b")
				time.Sleep(time.Millisecond)
			}
		})
		for i := 0; !over(); i++ { // c and d do not fit beside each other: each is loaded by a plan
			asked := time.Now()
			r.use([]string{"c", "d"}[i%2])
			if took := time.Since(asked); took > 15*time.Second {
				t.Errorf("a model that had to be loaded came after %v", took)
			}
		}
		client.Wait()
		dropped := r.Status().Accesses.Dropped
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if log.Len() > 0 {
			t.Error(log.String())
		}
		if dropped == 0 {
			t.Error("it was told of all")
		}
		for _, n := range s.told {
			a, b := n["a"], n["b"]
			if a+b > 2048 {
				t.Errorf("it was told of %d accesses at once, want at most 2048", a+b)
			}
			if share := float64(a) / float64(a+b); a+b > 1000 && (share < 0.4 || share > 0.6) {
				t.Errorf("it was told of a %d times and of b %d times, want as often", a, b)
			}
		}
	})
}
