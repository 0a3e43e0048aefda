package optimizer_test

import (
	"testing"

	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

func TestPlacements_AnyMachine_KeepTheContract(t *testing.T) {
	for name, fresh := range map[string]func() tier.Placement{
		"learned":           func() tier.Placement { return optimizer.New() },
		"learned on demand": func() tier.Placement { return optimizer.NewLearned(optimizer.Options{NoPrefetch: true}) },
		"lru":               func() tier.Placement { return &optimizer.LRU{} },
		"lfu":               func() tier.Placement { return &optimizer.LFU{} },
		"greedy dual":       func() tier.Placement { return &optimizer.GDSF{} },
	} {
		t.Run(name, func(t *testing.T) { tiertest.TestPlacement(t, fresh) })
	}
}
