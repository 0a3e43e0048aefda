package selector

import (
	"testing"

	"github.com/modeltier/modeltier/tier/tiertest"
)

func TestConformance(t *testing.T) {
	t.Run("default", func(t *testing.T) { tiertest.TestSelector(t, New()) })
	t.Run("adaptive", func(t *testing.T) { tiertest.TestSelector(t, NewAdaptive()) })
	t.Run("adaptive by default", func(t *testing.T) { tiertest.TestSelector(t, mustNew(t, Options{Policy: PolicyAdaptive})) })
}
