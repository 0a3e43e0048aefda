// Package modeltiertest helps a program that embeds a Manager to test itself, without
// files and without waiting: on a fake machine, in the virtual time of testing/synctest.
//
// The three names that matter: [NewManager] starts a Manager on a [tiertest.Machine],
// whose memory, disks and faults a test scripts; [Manager] also records what happens, and
// [Manager.Want] checks that this happened.
//
//	synctest.Test(t, func(t *testing.T) {
//		m := modeltiertest.NewManager(t, a, b)
//		m.Machine.Fails("a", 1, nil)
//		... the program under test uses m.Manager ...
//		m.Want("load a failed", "load a", "leased a")
//	})
//
// It is not in tier/tiertest, because selectors, placements and movers are tested with
// that, and a Manager imports them. It does not promise that a real machine does the same:
// what depends on the kernel is tested there.
package modeltiertest
