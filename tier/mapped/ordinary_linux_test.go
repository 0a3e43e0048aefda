package mapped

import (
	"math"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/internal/asuser"
	"github.com/modeltier/modeltier/tier"
)

// lockLimit is RLIMIT_MEMLOCK of an ordinary user here.
const lockLimit = tier.MiB

// An ordinary user's own files are seen and dropped as root's are. Of those of others the
// kernel tells less; they are served all the same. Locking has a limit.
func TestOrdinaryUser_WithoutRights_ServesAndTellsWhatIsLacking(t *testing.T) {
	const size = 3*tier.MiB + odd
	path, inside := asuser.Run(t, "^"+t.Name()+"$", model(t, "foreign", size).Path)
	if !inside {
		return
	}
	limit := unix.Rlimit{Cur: uint64(lockLimit), Max: uint64(lockLimit)}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		t.Fatal(err)
	}
	m := newTestMover(t, newSystem(), Options{})
	own := model(t, "own", size)
	foreign := tier.Model{Name: "foreign", Path: path, Size: size}
	for mod, seenBy := range map[*tier.Model]string{&own: "mincore", &foreign: "pagemap"} {
		mustMove(t, m, *mod, tier.RAM, 0)
		sameWeights(t, m, *mod)
		s := modelStatus(t, m, mod.Name)
		notes := strings.Join(s.Notes, "\n")
		if s.Seen != seenBy || s.Locked > lockLimit || !strings.Contains(notes, "are not locked") || strings.Contains(notes, "neither owns") != (mod == &foreign) {
			t.Errorf("%s: seen by %s, %v locked, and it says %q", mod.Name, s.Seen, s.Locked, notes)
		}
		if present, _ := seen(t, m, *mod); present != size {
			t.Errorf("%s: in ram %v of %v are present", mod.Name, present, size)
		}
		mustMove(t, m, *mod, tier.Storage, 0)
		if err := m.Uncache(t.Context(), mod.Name, math.MaxInt64); err != nil {
			t.Fatal(err)
		}
		if mod == &own && cachedBytes(t, own.Path) != 0 {
			t.Errorf("%v of its own file are still cached", cachedBytes(t, own.Path))
		}
	}
	if s := m.Status(); s.LockLimit != lockLimit {
		t.Errorf("Status says that %v may be locked, and %v may", s.LockLimit, lockLimit)
	}
}
