package main

import (
	"time"

	"github.com/modeltier/modeltier/benchmarks/policies"
	"github.com/modeltier/modeltier/tier"
)

// bound plays a trace on a machine as if the future were known, byte by byte and
// moving nothing up that is not asked for. What a request waits for does not
// depend on the clock: the bound knows no queues.
func bound(t *trace, c capacity) figures {
	began := time.Now()
	models := t.library(c.ram)
	sizes := make([]tier.Bytes, len(models))
	for i := range models {
		sizes[i] = models[i].Size
	}
	who := make([]int32, len(t.who))
	for i, w := range t.who {
		who[i] = int32(w)
	}
	var tally tally
	var moved tier.Bytes
	k := 0
	for f := range policies.Belady(sizes, who, tier.Bytes(c.ram*1e9), tier.Bytes(c.swap*1e9)) {
		wait := f.Wait(secondsRAM/1e9, secondsSwap/1e9, secondsStorage/1e9)
		tally.add(seconds(wait), f.RAM, sizes[who[k]])
		moved += f.Swap + f.Storage // all of it is read for use
		k++
	}
	f := tally.figures(moved)
	f.Took = time.Since(began)
	return f
}
