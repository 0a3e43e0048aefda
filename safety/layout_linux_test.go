package safety

import (
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/tier"
)

func TestMemory_LimitChanges_SeenAtOnce(t *testing.T) {
	tr := newTree(t, machine(), cgroups("0::/a\n", v2Mount), v2("sys/fs/cgroup/a", "", gib))
	p := tr.probe()
	if m := mustRead(t, p); m.Source != "host" {
		t.Fatalf("bounded by %q", m.Source)
	}
	tr.write("sys/fs/cgroup/a/memory.max", "2147483648\n")
	if m := mustRead(t, p); m.Available != tier.GiB {
		t.Errorf("available %v", m.Available)
	}
}

func TestMemory_MovedToAnotherCgroup_SeenAtOnce(t *testing.T) {
	tr := newTree(t, machine(), cgroups("0::/a\n", v2Mount),
		v2("sys/fs/cgroup/a", "4294967296", gib), v2("sys/fs/cgroup/b", "2147483648", gib))
	p := tr.probe()
	if m := mustRead(t, p); m.Available != 3*tier.GiB {
		t.Fatalf("available %v", m.Available)
	}
	tr.write("proc/self/cgroup", "0::/b\n")
	if err := os.RemoveAll(tr.dir + "/sys/fs/cgroup/a"); err != nil {
		t.Fatal(err)
	}
	if m := mustRead(t, p); m.Available != tier.GiB || m.Source != "/sys/fs/cgroup/b" {
		t.Errorf("available %v by %s", m.Available, m.Source)
	}
}

func TestMemory_NewPlaceCannotBeFound_ErrorUntilItCan(t *testing.T) {
	tr := newTree(t, machine(), cgroups("0::/a\n", v2Mount),
		v2("sys/fs/cgroup/a", "4294967296", gib), v2("sys/fs/cgroup/b", "2147483648", gib))
	p := tr.probe()
	mustRead(t, p)
	tr.write("proc/self/cgroup", "0::/b\n")
	tr.write("proc/self/mountinfo", "30 24 0:26 - cgroup2 cgroup2 rw\n")
	for range 2 { // what is not known must not pass for no limit
		if m, err := p.Memory(t.Context()); !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("error is %v, reading %+v", err, m)
		}
	}
	tr.write("proc/self/mountinfo", v2Mount)
	if m := mustRead(t, p); m.Available != tier.GiB || m.Source != "/sys/fs/cgroup/b" {
		t.Errorf("available %v by %s", m.Available, m.Source)
	}
}

func TestMemory_LaidOutAnew_HitsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTree(t, machine(), cgroups("0::/a\n", v2Mount), v2("sys/fs/cgroup/a", gib, gib))
		p := tr.probe()
		mustRead(t, p)
		time.Sleep(layoutAge)
		tr.write("sys/fs/cgroup/a/memory.events", "max 1\noom 0\noom_kill 0\n")
		if m := mustRead(t, p); m.Pressure.Level != tier.PressureHigh {
			t.Errorf("%+v", m.Pressure)
		}
	})
}

func TestMemory_ControllerEnabledLater_SeenWithinHalfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTree(t, machine(), cgroups("0::/a\n", v2Mount), map[string]string{"sys/fs/cgroup/a/cgroup.procs": "1\n"})
		p := tr.probe()
		if m := mustRead(t, p); m.Source != "host" || !notesContain(m, "no pressure") {
			t.Fatalf("%+v", m)
		}
		for name, text := range v2("sys/fs/cgroup/a", "2147483648", gib) {
			tr.write(name, text)
		}
		tr.write("proc/pressure/memory", "some avg10=1.00 avg60=0.00 avg300=0.00 total=0\n")
		time.Sleep(layoutAge)
		if m := mustRead(t, p); m.Available != tier.GiB || m.Pressure.Some10 != 1 || notesContain(m, "no pressure") {
			t.Errorf("%+v", m)
		}
	})
}

func TestMemory_GroupVanishesWhileRead_FoundAnew(t *testing.T) {
	tr := newTree(t, machine(), cgroups("0::/a/b\n", v2Mount),
		v2("sys/fs/cgroup/a", "4294967296", gib), v2("sys/fs/cgroup/a/b", "", gib))
	p := tr.probe()
	mustRead(t, p)
	// A limit appears and its files are opened for the first time, but the group is
	// gone by then.
	tr.write("sys/fs/cgroup/a/b/memory.max", "2147483648\n")
	if err := os.RemoveAll(tr.dir + "/sys/fs/cgroup/a/b"); err != nil {
		t.Fatal(err)
	}
	p.source.groups[0].limit.close()
	m := mustRead(t, p)
	if m.Source != "/sys/fs/cgroup/a" || m.Available != 3*tier.GiB || !notesContain(m, "outside") {
		t.Errorf("%+v", m)
	}
}

func TestMemory_LimitMayNotBeRead_NotedAndTheRestCounts(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	tr := newTree(t, machine(), cgroups("0::/a/b\n", v2Mount), v2("sys/fs/cgroup/a", "4294967296", gib), v2("sys/fs/cgroup/a/b", "2147483648", gib))
	if err := os.Chmod(tr.dir+"/sys/fs/cgroup/a/b/memory.max", 0); err != nil {
		t.Fatal(err)
	}
	if m := tr.read(); m.Available != 3*tier.GiB || !notesContain(m, "may not be read") {
		t.Errorf("%+v", m)
	}
}
