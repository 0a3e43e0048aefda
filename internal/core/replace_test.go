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
	b.c.Replace(e, &tier.Model{Name: "a", Size: 2, Runtime: 1}, b.now)
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
