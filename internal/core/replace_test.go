package core

import (
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// What was seen of a model is no word about the one that replaces it.
func TestReplace_ModelThatTookMoreThanDeclared_TheNewOneBeginsAnew(t *testing.T) {
	b := newBench(t, 20, 20, tier.Model{Name: "a", Size: 4, Runtime: 1}).wholes()
	b.join("a")
	b.step()
	b.taking(8, 11)
	b.release("a")
	e := b.entry("a")
	b.c.Replace(e, &tier.Model{Name: "a", Size: 2, Runtime: 1}, all, b.now)
	b.step()
	b.taking(0, 11)
	b.join("a")
	b.step()
	if got := b.c.ledger.Reserved()[tier.RAM]; got != 3 || e.Declared() != 1 || e.Model.Size != 2 {
		t.Errorf("%v are set aside for %v, of which %v are declared beside the weights", got, e.Model.Size, e.Declared())
	}
	if err := b.c.Check(); err != nil {
		t.Error(err)
	}
}

// The hot load of a model that is configured anew while it waits for room is
// overtaken: its job ends, and the model that was configured stays.
func TestReplace_HotLoadWaitsForRoom_JobEndsAndTheNewOneStays(t *testing.T) {
	b := newBench(t, 10, 0, sized("a", 6))
	b.join("a")
	b.step()
	b.finish(Outcome{})
	b.step() // a is leased: there is no room for b
	b.add(sized("b", 6))
	load := &Order{Kind: HotLoad, Entry: b.entry("b"), To: tier.RAM}
	b.c.Load(load, b.now)
	b.step()
	b.c.Replace(b.entry("b"), other("b", 3), all, b.now)
	b.step()
	b.step()
	if err, ended := b.ended[load]; !ended || err == nil {
		t.Errorf("the hot load ended: %v, with %v; want an error", ended, err)
	}
	if e, there := b.c.Find("b"); !there || e.Model.Size != 3 {
		t.Errorf("b is there: %v", there)
	}
}
