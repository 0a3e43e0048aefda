package process

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/internal/asuser"
	"github.com/modeltier/modeltier/tier"
)

// asOrdinaryUser runs the calling test, or those that match, again as a user who has those
// capabilities and no others. It returns true in that user's process.
func asOrdinaryUser(t *testing.T, match string, capabilities ...uintptr) bool {
	t.Helper()
	_, inside := asuser.Run(t, match, weightsOf(t, 1), capabilities...)
	return inside
}

// An engine is frozen without any right. To take its weights out of memory needs one: it
// is told from the first engine on, and the engine is stopped when the room is needed.
func TestOrdinaryUser_MayNotPageOut_ToldAtOnceAndStoppedForTheRoom(t *testing.T) {
	if !asOrdinaryUser(t, "^"+t.Name()+"$") {
		return
	}
	r := newRig(t, newSystem(), Options{Engine: fake{Touch: true}.engine()})
	m := modelOf(t, "m", oddSize)
	r.move(m, tier.Storage, tier.RAM)
	s := r.Status()
	if why := s.Lacks[lackPageOut]; s.Freeze != "SIGSTOP" || s.PageOut != "none" || !strings.Contains(why, "CAP_SYS_NICE") {
		t.Errorf("it freezes by %s, pages out by %s, as %q", s.Freeze, s.PageOut, why)
	}
	if e := s.Engines[0]; e.Seen != byPageCache || e.Cached != oddSize || e.Mapped < oddSize {
		t.Errorf("of its own files it sees by %q %v mapped, %v cached", e.Seen, e.Mapped, e.Cached)
	}
	r.move(m, tier.RAM, tier.Swap)
	if e := r.Status().Engines[0]; e.State != Frozen || e.Standby != WayKept {
		t.Errorf("in swap it is %s, %s", e.State, e.Standby)
	}
	r.uncache(m)
	e := r.Status().Engines[0]
	if n, err := r.Cached(t.Context(), "m"); e.State != Stopped || n != 0 || err != nil || !strings.Contains(e.Note, "CAP_SYS_NICE") {
		t.Errorf("without its pages it is %s, %v are cached, %v, as %q", e.State, n, err, e.Note)
	}
	r.move(m, tier.Swap, tier.RAM)
}

// The kernel does not tell what is cached of a file that belongs to another user.
func TestOrdinaryUser_WeightsAreAnothers_SeenByPageTablesAndDropped(t *testing.T) {
	foreign, inside := asuser.Run(t, "^"+t.Name()+"$", weightsOf(t, oddSize))
	if !inside {
		return
	}
	r := newRig(t, newSystem(), Options{Engine: fake{Touch: true}.engine()})
	m := tier.Model{Name: "m", Path: foreign, Size: oddSize}
	r.move(m, tier.Storage, tier.RAM)
	if e := r.Status().Engines[0]; e.Seen != byPageTables || e.Cached < oddSize {
		t.Errorf("it sees by %q %v cached", e.Seen, e.Cached)
	}
	for _, to := range []tier.Tier{tier.Swap, tier.RAM, tier.Swap, tier.Storage} {
		r.move(m, tier.RAM, to)
	}
	r.uncache(m)
}

// Of another's file the kernel takes no page from an engine, and does not say so.
func TestOrdinaryUser_WithCapSysNiceAndAnothersWeights_StoppedForTheRoom(t *testing.T) {
	foreign, inside := asuser.Run(t, "^"+t.Name()+"$", weightsOf(t, oddSize), unix.CAP_SYS_NICE)
	if !inside {
		return
	}
	r := newRig(t, newSystem(), Options{Engine: fake{Touch: true}.engine()})
	m := tier.Model{Name: "m", Path: foreign, Size: oddSize}
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	r.uncache(m)
	if e := r.Status().Engines[0]; e.State != Stopped || !strings.Contains(e.Note, "neither owns nor may write") {
		t.Errorf("without its pages it is %s, as %q", e.State, e.Note)
	}
}

// A program with rights of its own hides its memory, and takes signals all the same.
func TestOrdinaryUser_EngineHidesItsMemory_ToldAndStoppedForSwap(t *testing.T) {
	if !asOrdinaryUser(t, "^"+t.Name()+"$") {
		return
	}
	r := newRig(t, newSystem(), Options{Engine: fake{Private: true}.engine()})
	m := modelOf(t, "m", oddSize)
	r.move(m, tier.Storage, tier.RAM)
	if e := r.Status().Engines[0]; e.Seen != byNothing || e.Copies {
		t.Errorf("it sees by %q, and copies is %v", e.Seen, e.Copies)
	}
	r.move(m, tier.RAM, tier.Swap)
	if e := r.Status().Engines[0]; e.State != Stopped || e.Standby != WayStopped || !strings.Contains(e.Note, "cannot be seen") {
		t.Errorf("in swap it is %s, %s, as %q", e.State, e.Standby, e.Note)
	}
	r.move(m, tier.Swap, tier.RAM)
}

func TestOrdinaryUser_ManagerKilled_NothingIsLeftRunning(t *testing.T) {
	asOrdinaryUser(t, "^TestOrphans_ManagerKilled_NothingIsLeftRunning$/SIGSTOP/(ram|frozen)")
}

// The right that the unit of systemd gives.
func TestOrdinaryUser_WithCapSysNice_PagesOut(t *testing.T) {
	if !asOrdinaryUser(t, "^"+t.Name()+"$", unix.CAP_SYS_NICE) {
		return
	}
	r := newRig(t, newSystem(), Options{Engine: fake{Touch: true}.engine()})
	m := modelOf(t, "m", oddSize)
	r.move(m, tier.Storage, tier.RAM)
	r.move(m, tier.RAM, tier.Swap)
	r.uncache(m)
	s := r.Status()
	if e := s.Engines[0]; s.PageOut != "process_madvise" || e.State != Frozen || e.Standby != WayPagedOut || e.Cached != 0 {
		t.Errorf("by %s, %v, it is %s, %s, with %v cached", s.PageOut, s.Lacks, e.State, e.Standby, e.Cached)
	}
	r.move(m, tier.Swap, tier.RAM)
}
