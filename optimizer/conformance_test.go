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
		"learned on demand": func() tier.Placement { return optimizer.NewLearned(optimizer.Options{Without: optimizer.Prefetch}) },
		"lru":               func() tier.Placement { return &optimizer.LRU{} },
	} {
		t.Run(name, func(t *testing.T) { tiertest.TestPlacement(t, fresh) })
	}
}
