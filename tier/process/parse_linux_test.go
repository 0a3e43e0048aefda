package process

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

func itoa(n int) string { return strconv.Itoa(n) }

func FuzzParseRecord(f *testing.F) {
	b, err := json.Marshal(identity{Mark: "X", Model: "m", Command: []string{"a"}, Cgroup: "/c/modeltier-1-X"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("engine-X.json", b)
	f.Add("engine-X.json", []byte(`{"mark":"Y"}`))
	f.Add("engine-.json", []byte(`{"pid":-1}`))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		id, err := parseRecord(name, b)
		switch {
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
	if diff := cmp.Diff(Memory{Anon: 116 << 10, Swap: 30 << 10}, u); diff != "" || !told {
		t.Error(told, diff)
	}
	old := strings.ReplaceAll(rollup, "Pss_", "No_")
	if u, told := parseRollup([]byte(old)); told {
		t.Errorf("of an older kernel: %+v, %v", u, told)
	}
}

func FuzzParseRollup(f *testing.F) {
	f.Add([]byte(rollup))
	f.Add([]byte("Pss: 18446744073709551615 kB\nPss_Anon: -1 kB\nPss_Shmem: 4503599627370495 kB\nSwapPss: kB\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, _ := parseRollup(b); u.Anon < 0 || u.Swap < 0 {
			t.Errorf("%+v", u)
		}
	})
}

// What may be counted twice is too little to be worth the walk of the page tables,
// or the kernel or a right is missing, and then the sum stands.
func TestUsage_SeveralProcesses(t *testing.T) {
	const mib = 1 << 10 // in kB
	fake := func(other int, rollups ...string) proc {
		p := proc(t.TempDir())
		for i, anon := range []int{100 * mib, other} {
			dir := filepath.Join(string(p), itoa(10+i))
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "stat"), fmt.Sprintf("%d (x) S 1 10 10 0 -1"+strings.Repeat(" 0", 40), 10+i))
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
		u, err := c.p.usage([]int{10, 11, 12}) // 12 has ended
		if want := (Memory{Anon: tier.Bytes(c.anon) * tier.MiB, Swap: tier.Bytes(c.swap) * tier.MiB}); err != nil || u.Anon != want.Anon || u.Swap != want.Swap {
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
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "1"), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "1/mountinfo"), c.mounts)
		write(t, filepath.Join(dir, "1/cgroup"), c.cgroup)
		one, err := proc(dir).of(1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := cgroupOf(one)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q in %q: %q, %v; want %q", c.cgroup, c.mounts, got, err, c.want)
		}
	}
}

func TestMembers_SessionAndMark_NotOthersNorTheDead(t *testing.T) {
	start := func(env string, session bool, command ...string) int {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Env = append(os.Environ(), env)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: session}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
			cmd.Process.Kill()
			cmd.Wait()
		})
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(line, err)
		}
		return cmd.Process.Pid
	}
	const wait = "; exec sleep 60"
	mark := rand.Text()
	leader := start("A=b", true, "sh", "-c", "sleep 60 >/dev/null & echo"+wait)
	left := start(markName+"="+mark, true, "sh", "-c", "echo"+wait)
	start(markName+"="+mark+"X", true, "sh", "-c", "echo"+wait) // of another engine
	dead := start(markName+"="+mark, true, "sh", "-c", "echo"+wait)
	unix.Kill(dead, unix.SIGKILL)
	if err := awaitExit(dead); err != nil {
		t.Fatal(err)
	}
	p := proc("/proc")
	got, err := p.members(leader, mark)
	if err != nil || !slices.Contains(got, leader) || !slices.Contains(got, left) || len(got) != 3 { // and what the leader has started
		t.Errorf("of %d, %d and a child there are %v, %v", leader, left, got, err)
	}
	if p.suspended(got) || !p.suspended([]int{dead}) {
		t.Error("what stands still is not told from what runs")
	}
	sending(unix.SIGSTOP)(leader, got)
	eventually(t, "all stand still", func() bool { return p.suspended(got) })
}
