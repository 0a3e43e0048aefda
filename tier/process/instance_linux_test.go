package process

import (
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// instance returns that of a model, or nil.
func (r *rig) instance(model string) *Instance {
	i, _ := r.Mover.Instance(model).(*Instance)
	return i
}

func TestInstance_ReadsTheEngineAtTheTime(t *testing.T) {
	r := newRig(t, newSystem(), Options{Engine: fake{}.engine()})
	m := modelOf(t, "m", 1<<20)
	if i := r.instance("m"); i != nil {
		t.Errorf("before its first move it has the instance %v", i)
	}
	r.move(m, tier.Storage, tier.RAM)
	i := r.instance("m")
	if i == nil {
		t.Fatal("an engine that serves has no instance")
	}
	url, _ := r.URL("m")
	use, used := i.Use()
	if got, ok := i.URL(); !ok || got != url || !used || use.URL() != url || i.Pid() != r.engine("m").Pid {
		t.Errorf("its URL is %q, %v, its process %d; want %q, true, %d", got, ok, i.Pid(), url, r.engine("m").Pid)
	}
	use.End()
	pid := i.Pid()
	r.move(m, tier.RAM, tier.Swap)
	if _, ok := i.URL(); ok || r.instance("m") != nil {
		t.Error("a frozen engine takes requests")
	}
	if _, ok := i.Use(); ok || i.Pid() != pid {
		t.Errorf("frozen, it can be used %v, and its process is %d, not %d", ok, i.Pid(), pid)
	}
	r.move(m, tier.Swap, tier.Storage)
	if lines := i.Output(); i.Pid() != 0 || len(lines) == 0 {
		t.Errorf("after its end its process is %d, and it printed %q", i.Pid(), lines)
	}
	r.move(m, tier.Storage, tier.RAM)
	if _, ok := i.URL(); ok || i.Pid() != 0 {
		t.Error("the handle of an engine that has ended leads to its successor")
	}
}
