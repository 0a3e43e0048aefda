package modeltier_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

// cageProcs names the file through which a child puts itself into its cgroup.
const cageProcs = "MODELTIER_TEST_CGROUP"

// cage is a memory cgroup for the children of a test.
type cage struct {
	t       *testing.T
	dir     string
	unified bool
}

// newCage makes a memory cgroup with a limit beside this process, or skips.
func newCage(t *testing.T, limit tier.Bytes) *cage {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a memory cgroup takes root")
	}
	parent, unified, err := memoryCgroup()
	if err != nil {
		t.Skip(err)
	}
	c := &cage{t: t, unified: unified, dir: filepath.Join(parent, fmt.Sprintf("modeltier-test-%d", os.Getpid()))}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Skipf("a cgroup may not be made: %v", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(c.dir); err != nil {
			t.Errorf("the cgroup stays: %v", err)
		}
	})
	name := "memory.limit_in_bytes"
	if unified {
		name = "memory.max"
	}
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(strconv.FormatInt(int64(limit), 10)), 0); err != nil {
		t.Skipf("a limit may not be set: %v", err)
	}
	return c
}

// memoryCgroup finds a group with the memory controller in which groups may be
// made: with version 1 the one of this process, with version 2, where groups
// with processes have no groups below them, the top.
func memoryCgroup() (dir string, unified bool, err error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", false, err
	}
	path := ""
	for line := range strings.Lines(string(own)) {
		if part := strings.SplitN(strings.TrimSpace(line), ":", 3); len(part) == 3 && part[1] == "memory" {
			path = part[2]
		}
	}
	for line := range strings.Lines(string(mounts)) {
		at, kind, ok := strings.Cut(line, " - ")
		fields, types := strings.Fields(at), strings.Fields(kind)
		if !ok || len(fields) < 5 || len(types) < 3 {
			continue
		}
		switch point := fields[4]; {
		case types[0] == "cgroup" && strings.Contains(","+types[2]+",", ",memory,"):
			if dir := filepath.Join(point, path); path != "" && exists(dir) {
				return dir, false, nil
			}
			return point, false, nil
		case types[0] == "cgroup2":
			down, err := os.ReadFile(filepath.Join(point, "cgroup.subtree_control"))
			if err == nil && strings.Contains(string(down), "memory") {
				return point, true, nil
			}
		}
	}
	return "", false, fmt.Errorf("there is no memory controller to make a group with")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// start has a child process run one test of this binary in the cage. Its end, and
// that of everything in the cage, is awaited by the test's cleanup at the latest.
func (c *cage) start(test string, env ...string) *exec.Cmd {
	c.t.Helper()
	child := exec.CommandContext(c.t.Context(), os.Args[0], "-test.v", "-test.run=^"+test+"$")
	child.Env = append(append(os.Environ(), cageProcs+"="+filepath.Join(c.dir, "cgroup.procs")), env...)
	child.Stdout = new(strings.Builder)
	child.Stderr = child.Stdout
	if err := child.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { // where the test has not come to it
		child.Process.Kill()
		child.Wait()
	})
	return child
}

// wait waits for a child that has to succeed, and shows what it said.
func (c *cage) wait(child *exec.Cmd) {
	c.t.Helper()
	err := child.Wait()
	said := child.Stdout.(fmt.Stringer).String()
	if err != nil || !strings.Contains(said, "\n--- PASS") {
		c.t.Errorf("the child ended with %v:\n%s", err, said)
		return
	}
	c.t.Logf("the child:\n%s", said)
}

// figure returns one number out of a file of the group; key is "" where it is all
// there is in it.
func (c *cage) figure(file, key string) int64 {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, file))
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 0 && (key == "" || f[0] == key) {
			n, err := strconv.ParseInt(f[len(f)-1], 10, 64)
			if err != nil {
				c.t.Fatalf("%s: %v", file, err)
			}
			return n
		}
	}
	c.t.Fatalf("%s: no %s in %q", file, key, text)
	return 0
}

// check wants no kill, and never more in the group than limit. The kernel lets a
// few pages of its own pass, those that it cannot wait for.
func (c *cage) check(limit tier.Bytes) {
	c.t.Helper()
	killed, peak, hits := int64(0), tier.Bytes(0), int64(0)
	if c.unified {
		killed, hits = c.figure("memory.events", "oom_kill"), c.figure("memory.events", "max")
		if exists(filepath.Join(c.dir, "memory.peak")) {
			peak = tier.Bytes(c.figure("memory.peak", ""))
		}
	} else {
		killed, hits = c.figure("memory.oom_control", "oom_kill"), c.figure("memory.failcnt", "")
		peak = tier.Bytes(c.figure("memory.max_usage_in_bytes", ""))
	}
	c.t.Logf("in the cgroup of %v: %d OOM kills, at most %v used, page cache dropped at the limit %d times", limit, killed, peak, hits)
	if killed != 0 || peak > limit+tier.MiB {
		c.t.Errorf("%d OOM kills, at most %v of %v used", killed, peak, limit)
	}
}

// caged puts a child into its cgroup, or skips where the test is not one.
func caged(t *testing.T) {
	t.Helper()
	procs := os.Getenv(cageProcs)
	if procs == "" {
		t.Skip("runs as the child of a test only")
	}
	if err := os.WriteFile(procs, []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		t.Fatal(err)
	}
}
