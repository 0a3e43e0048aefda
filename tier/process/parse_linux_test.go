package process

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modeltier/modeltier/tier"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestParseStat_NamesWithBracketsAndSpaces(t *testing.T) {
	tail := " 7 7 7 0 -1 4194304 100 0 0 0 1 2 0 0 20 0 3 0 9876 1000 200 18446744073709551615"
	for _, name := range []string{"engine", "a) S 1 1 1", "((", ") (", ""} {
		for state, want := range map[string]stat{
			"S": {session: 7, start: 9876},
			"Z": {session: 7, start: 9876, zombie: true, still: true},
			"T": {session: 7, start: 9876, still: true},
		} {
			got, err := parseStat([]byte("1234 (" + name + ") " + state + tail + "\n"))
			if err != nil || got != want {
				t.Errorf("%q: %+v, %v", name, got, err)
			}
		}
	}
	for _, line := range []string{"", "1 (a", "1 a) S", "1 (a) S 1 1", "1 (a) SS" + tail, "1 (a) S 1 1 x" + tail[6:]} {
		if s, err := parseStat([]byte(line)); err == nil {
			t.Errorf("%q gave %+v", line, s)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(own)
	f.Add([]byte("1 () Z 0"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if s, err := parseStat(line); err == nil && s.zombie && !s.still {
			t.Errorf("%+v", s)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	b, err := json.Marshal(identity{Mark: "X", Model: "m", Command: []string{"a"}, Pid: 5, Started: 6, Boot: "b", Cgroup: "/c/modeltier-1-X"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("engine-X.json", b)
	f.Add("engine-X.json", []byte(`{"mark":"Y"}`))
	f.Add("engine-.json", []byte(`{"pid":-1}`))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		id, err := parseRecord(name, b)
		switch {
		case id.Pid < 0 || id.Pid == 1:
			t.Errorf("process %d could be killed", id.Pid)
		case id.Cgroup != "" && !strings.HasPrefix(filepath.Base(id.Cgroup), cgroupPrefix):
			t.Errorf("the cgroup %q could be killed", id.Cgroup)
		case err == nil && name != recordPrefix+id.Mark+recordSuffix:
			t.Errorf("%q is the record of %q", name, id.Mark)
		}
	})
}

const rollup = `55dc75c46000-7ffc27783000 ---p 00000000 00:00 0                          [rollup]
Rss:                9000 kB
Pss:                 537 kB
Pss_Dirty:           116 kB
Pss_Anon:            110 kB
Pss_File:            421 kB
Pss_Shmem:             6 kB
Anonymous:          4000 kB
Swap:                900 kB
SwapPss:              30 kB
Locked:                0 kB
`

func TestParseRollup(t *testing.T) {
	u, told := parseRollup([]byte(rollup))
	if diff := cmp.Diff(usage{Anon: 116 << 10, Swap: 30 << 10, Share: 537 << 10}, u); diff != "" || !told {
		t.Error(told, diff)
	}
	old := strings.ReplaceAll(rollup, "Pss_", "No_")
	if u, told := parseRollup([]byte(old)); told || u.Share != 537<<10 {
		t.Errorf("of an older kernel: %+v, %v", u, told)
	}
}

func FuzzParseRollup(f *testing.F) {
	f.Add([]byte(rollup))
	f.Add([]byte("Pss: 18446744073709551615 kB\nPss_Anon: -1 kB\nPss_Shmem: 4503599627370495 kB\nSwapPss: kB\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, _ := parseRollup(b); u.Anon < 0 || u.Share < 0 || u.Swap < 0 {
			t.Errorf("%+v", u)
		}
	})
}

// What may be counted twice is too little to be worth the walk of the page tables,
// or the kernel or a right is missing, and then the sum stands.
func TestUsage_SeveralProcesses(t *testing.T) {
	const mib = 1 << 10 // in kB
	fake := func(other int, rollups ...string) proc {
		stats := map[int]string{10: statLine(10, "S", 10, 1), 11: statLine(11, "S", 10, 2)}
		p := fakeProc(t, stats, nil)
		for i, anon := range []int{100 * mib, other} {
			dir := filepath.Join(string(p), itoa(10+i))
			status := fmt.Sprintf("Name:\tx\nRssAnon:\t%d kB\n", anon)
			write(t, filepath.Join(dir, "status"), status)
			if i < len(rollups) {
				write(t, filepath.Join(dir, "smaps_rollup"), rollups[i])
			}
		}
		return p
	}
	of := func(anon, shmem, swap int) string {
		return fmt.Sprintf("Pss: 5 kB\nPss_Anon: %d kB\nPss_Shmem: %d kB\nSwapPss: %d kB\n", anon*mib, shmem*mib, swap*mib)
	}
	for name, c := range map[string]struct {
		p          proc
		anon, swap int // in MiB
	}{
		"Forked":      {fake(90*mib, of(60, 1, 2), of(50, 0, 3)), 111, 5},
		"SmallHelper": {fake(16*mib, of(1, 0, 0), of(1, 0, 0)), 116, 0},
		"OldKernel":   {fake(90*mib, "Pss: 5 kB\n", of(50, 0, 0)), 190, 0},
		"NotOurs":     {fake(90*mib, of(60, 0, 0)), 190, 0},
	} {
		u, err := c.p.usage([]int{10, 11, 12}, false) // 12 has ended
		if want := (usage{Anon: tier.Bytes(c.anon) * tier.MiB, Swap: tier.Bytes(c.swap) * tier.MiB}); err != nil || u.Anon != want.Anon || u.Swap != want.Swap {
			t.Errorf("%s: %+v, %v; want %+v", name, u, err, want)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLocateCgroup(t *testing.T) {
	const (
		unified = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
		hybrid  = "41 30 0:37 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n"
		v1      = "42 30 0:38 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n"
		inside  = "43 30 0:39 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
	)
	for _, c := range []struct{ mounts, cgroup, want string }{
		{unified, "0::/system.slice/a.service\n", "/sys/fs/cgroup/system.slice/a.service"},
		{unified, "0::/\n", "/sys/fs/cgroup"},
		{v1 + hybrid, "4:freezer:/x\n0::/user.slice\n", "/sys/fs/cgroup/unified/user.slice"},
		{inside, "0::/docker/abc/sub\n", "/sys/fs/cgroup/sub"},
		{inside, "0::/docker/abcd\n", ""},
		{inside, "0::/elsewhere\n", ""},
		{v1, "0::/a\n", ""},
		{unified, "4:freezer:/x\n", ""},
		{"", "", ""},
	} {
		got, err := locateCgroup(c.mounts, c.cgroup)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q in %q: %q, %v; want %q", c.cgroup, c.mounts, got, err, c.want)
		}
	}
}

func FuzzLocateCgroup(f *testing.F) {
	for _, name := range []string{"mountinfo", "cgroup"} {
		if _, err := os.Stat("/proc/self/" + name); err != nil {
			f.Skip(err)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	own, _ := os.ReadFile("/proc/self/cgroup")
	f.Add(string(mounts), string(own))
	f.Fuzz(func(t *testing.T, mounts, own string) {
		if dir, err := locateCgroup(mounts, own); err == nil && dir == "" {
			t.Error("no folder and no error")
		}
	})
}

// fakeProc makes a proc file system of a few processes.
func fakeProc(t *testing.T, stats map[int]string, environ map[int]string) proc {
	t.Helper()
	root := t.TempDir()
	for pid, line := range stats {
		dir := filepath.Join(root, itoa(pid))
		if err := os.MkdirAll(filepath.Join(dir, "task", itoa(pid)), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{dir, filepath.Join(dir, "task", itoa(pid))} {
			if err := os.WriteFile(filepath.Join(path, "stat"), []byte(line), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "environ"), []byte(environ[pid]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return proc(root)
}

func statLine(pid int, state string, session int, start int) string {
	return fmt.Sprintf("%d (x) %s 1 %d %d 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 0", pid, state, session, session, start)
}

func TestMembers_SessionAndMark_NotOthersNorTheDead(t *testing.T) {
	const mark = markName + "=M"
	p := fakeProc(t, map[int]string{
		1_000_010: statLine(1_000_010, "S", 1_000_010, 500), // the leader
		1_000_011: statLine(1_000_011, "R", 1_000_010, 510), // in its session
		1_000_012: statLine(1_000_012, "Z", 1_000_010, 510), // dead
		1_000_013: statLine(1_000_013, "S", 1_000_013, 520), // left the session, marked
		1_000_014: statLine(1_000_014, "S", 1_000_014, 520), // of another engine
		1_000_015: statLine(1_000_015, "S", 1_000_015, 400), // older than the leader
		1_000_016: "cut",
	}, map[int]string{
		1_000_013: "A=b\x00" + mark + "\x00", 1_000_014: mark + "X\x00", 1_000_015: mark + "\x00",
	})
	got := p.members(1_000_010, "M")
	slices.Sort(got)
	if diff := cmp.Diff([]int{1_000_010, 1_000_011, 1_000_013}, got); diff != "" {
		t.Error(diff)
	}
	if p.suspended(got) || !p.suspended([]int{1_000_012}) {
		t.Error("what stands still is not told from what runs")
	}
}
