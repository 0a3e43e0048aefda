package core

import (
	"slices"
	"testing"
	"time"
)

// passing is a gate that a request passes just when it is closed: it was counted, and has
// found the gate closed when it is looked at next.
type passing struct {
	*fakeGate
	times int
}

func (g *passing) Close() int {
	g.fakeGate.Close()
	if g.times > 0 {
		g.times--
		return 1
	}
	return g.leases
}

// What is counted for a moment, however often it is met, is no reason to refuse a request:
// the model that was to leave can, as soon as anything happens.
func TestDemand_VictimIsCountedAsInUseAgainAndAgain_RequestWaits(t *testing.T) {
	b := newBench(t, 6, 20, sized("a", 4), sized("b", 4))
	b.load("a")
	b.step()
	b.now = b.now.Add(time.Hour) // nothing else could make room
	b.step()
	b.c.Reading(b.memory, nil, nil, b.now)
	a := b.entry("a")
	a.Gate = &passing{a.Gate.(*fakeGate), maxTries}
	w := b.join("b")
	b.step()
	if err := b.refused[w]; err != nil {
		t.Fatalf("refused: %v", err)
	}
	b.c.mark(progressed) // the request that was counted goes on
	for range 4 {
		b.step()
		for len(b.started) > 0 {
			b.finish(Outcome{})
			b.step()
		}
	}
	if !slices.Contains(b.granted, w) || b.refused[w] != nil {
		t.Errorf("%d leases, refused: %v", len(b.granted), b.refused[w])
	}
}
