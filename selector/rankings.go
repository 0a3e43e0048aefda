package selector

import (
	"maps"
	"sync/atomic"

	"github.com/modeltier/modeltier/tier"
)

// Bounds on the rankings that are kept: requests come from outside and may ask
// ever new questions. Beyond them, all are forgotten and begun anew.
const (
	mostRankings = 1024
	baseSteps    = 1 << 16 // entries, and 8 more for each model
)

// rankings are the rankings made so far, by question. Readers take no lock;
// writers replace the whole table.
type rankings struct {
	table atomic.Pointer[rankingTable]
}

type rankingTable struct {
	byHash map[uint64]*ranking
	count  int
	steps  int
}

// find returns the ranking of the request's question, nil if there is none yet.
func (rs *rankings) find(hash uint64, req *tier.Request) *ranking {
	t := rs.table.Load()
	if t == nil {
		return nil
	}
	r := t.byHash[hash]
	for r != nil && !r.is(req) {
		r = r.next
	}
	return r
}

// add keeps r, which nobody else has yet.
func (rs *rankings) add(hash uint64, r *ranking, models int) {
	for {
		was := rs.table.Load()
		now := &rankingTable{count: 1, steps: r.steps()}
		if was != nil && was.count < mostRankings && was.steps+now.steps <= baseSteps+8*models {
			now.byHash = maps.Clone(was.byHash)
			now.count += was.count
			now.steps += was.steps
		} else {
			now.byHash = make(map[uint64]*ranking, 1)
		}
		r.next = now.byHash[hash]
		now.byHash[hash] = r
		if rs.table.CompareAndSwap(was, now) {
			return
		}
	}
}
