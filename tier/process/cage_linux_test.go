package process

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// cage is a memory cgroup for the children of a test, and the names of its files and
// figures, which depend on the version.
type cage struct {
	t   *testing.T
	dir string

	limit, usage, kills string // files
	files               string // prefix of the figures for file pages in memory.stat
}

// newCage makes a memory cgroup of that version, with a limit, or skips. The test fails
// if it cannot be removed at the end because processes or cgroups are left in it.
func newCage(t *testing.T, version int, limit tier.Bytes) *cage {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a memory cgroup takes root")
	}
	parent, err := memoryCgroup(version)
	if err != nil {
		t.Skip(err)
	}
	c := &cage{
		t: t, dir: filepath.Join(parent, fmt.Sprintf("%stest-%d", cgroupPrefix, os.Getpid())),
		limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", kills: "memory.oom_control", files: "total_",
	}
	if version == 2 {
		c.limit, c.usage, c.kills, c.files = "memory.max", "memory.current", "memory.events", ""
	}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Skipf("a cgroup cannot be made: %v", err)
	}
	keep(t, c.dir)
	t.Cleanup(func() {
		pids, err := cgroup2(c.dir).pids()
		if err != nil || len(pids) > 0 {
			t.Errorf("processes are left in the cgroup: %v, %v", pids, err)
		}
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
		if err := cgroup2(c.dir).remove(); err != nil {
			t.Errorf("the cgroup stays: %v", err)
		}
	})
	if err := os.WriteFile(filepath.Join(c.dir, c.limit), []byte(strconv.FormatInt(int64(limit), 10)), 0); err != nil {
		t.Skipf("a limit cannot be set: %v", err)
	}
	return c
}

// memoryCgroup returns the folder of a memory cgroup of that version in which cgroups
// can be made: with version 1 that of this process; with version 2, which allows none
// below a cgroup that has processes, the root.
func memoryCgroup(version int) (string, error) {
	self, err := procfs.Self()
	if err != nil {
		return "", err
	}
	mounts, err := self.MountInfo()
	if err != nil {
		return "", err
	}
	own, err := self.Cgroups()
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(own, func(g procfs.Cgroup) bool { return slices.Contains(g.Controllers, "memory") })
	for _, m := range mounts {
		switch _, memory := m.SuperOptions["memory"]; {
		case version == 1 && m.FSType == "cgroup" && memory && i >= 0:
			if dir := filepath.Join(m.MountPoint, own[i].Path); exists(dir) {
				return dir, nil
			}
			return m.MountPoint, nil // that of this process is not visible from here
		case version == 2 && m.FSType == "cgroup2":
			below, err := os.ReadFile(filepath.Join(m.MountPoint, "cgroup.subtree_control"))
			if err == nil && slices.Contains(strings.Fields(string(below)), "memory") {
				return m.MountPoint, nil
			}
		}
	}
	return "", fmt.Errorf("no memory cgroup of version %d can be made: that controller is not there", version)
}

// keep has a process see to it that a cgroup, and all in it, does not outlive the test,
// also if that is interrupted, or ends the whole process. It is in a session of its own,
// where no interrupt from a terminal comes.
func keep(t testing.TB, dir string) {
	t.Helper()
	keeper := exec.Command(os.Args[0], dir)
	keeper.Env = append(os.Environ(), role+"=keeper", noLinger)
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	end, err := keeper.StdinPipe()
	if err == nil {
		err = keeper.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end.Close()
		keeper.Wait()
	})
}

// fakeKeeper waits for its standard input to end, then kills what is in a cgroup and
// in those below, and removes them.
func fakeKeeper(args []string) int {
	io.Copy(io.Discard, os.Stdin)
	var all []string
	filepath.WalkDir(args[0], func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(all) {
		pids, _ := cgroup2(dir).pids()
		for _, pid := range pids { // a cgroup of version 1 has no cgroup.kill
			unix.Kill(pid, unix.SIGKILL)
		}
		cgroup2(dir).write("cgroup.freeze", "0")
		if err := cgroup2(dir).remove(); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 0
}

// enter makes a command that was not started yet start in the cage.
func (c *cage) enter(cmd *exec.Cmd) {
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(c.dir, "cgroup.procs")}, cmd.Args...)
}

// start starts a command in the cage, from its first page of memory on, and returns what
// it prints; that is read when it has ended. The test's cleanup ends it at the latest.
func (c *cage) start(cmd *exec.Cmd) *bytes.Buffer {
	c.t.Helper()
	said := new(bytes.Buffer)
	c.enter(cmd)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { // if the test has not waited for it
		cmd.Process.Kill()
		cmd.Wait()
	})
	return said
}

// figure returns a number from a file of the group; key is "" if the file holds nothing
// else.
func (c *cage) figure(file, key string) (tier.Bytes, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if key == "" || f[0] == key {
			n, err := strconv.ParseInt(f[len(f)-1], 10, 64)
			return tier.Bytes(n), err
		}
	}
	return 0, fmt.Errorf("%s: there is no %s in %q", file, key, text)
}

// held returns the bytes that are charged to the group, less the file pages that the
// kernel can take. The figures are of different moments; usage is read before and after
// the others, so that pages dropped or read in between do not count as held.
func (c *cage) held() (tier.Bytes, error) {
	var n [4]tier.Bytes
	for i, at := range [...][2]string{{c.usage, ""}, {"memory.stat", c.files + "active_file"}, {"memory.stat", c.files + "inactive_file"}, {c.usage, ""}} {
		var err error
		if n[i], err = c.figure(at[0], at[1]); err != nil {
			return 0, err
		}
	}
	return min(n[0], n[3]) - n[1] - n[2], nil
}
