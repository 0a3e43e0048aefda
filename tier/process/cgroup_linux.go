package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// cgroupPrefix begins the names of our cgroups; nothing else is ever killed or removed.
const cgroupPrefix = "modeltier-"

// cgroup2 is the folder of one engine's cgroup.
type cgroup2 string

// newCgroup makes one under parent, or under the cgroup that this process is in. It
// needs no controllers: every cgroup but the root can be listed and, since 5.14, killed.
func newCgroup(parent, mark string) (cgroup, error) {
	if parent == "" {
		self, err := procfs.Self()
		if err != nil {
			return nil, err
		}
		if parent, err = cgroupOf(self); err != nil {
			return nil, err
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(parent, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", parent, err)
	}
	if uint32(st.Type) != unix.CGROUP2_SUPER_MAGIC {
		return nil, fmt.Errorf("%s is not a cgroup v2", parent)
	}
	dir := filepath.Join(parent, fmt.Sprintf("%s%d-%s", cgroupPrefix, os.Getpid(), mark))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	return cgroup2(dir), nil
}

// cgroupOf returns the folder of the cgroup v2 that a process is in.
func cgroupOf(one procfs.Proc) (string, error) {
	mounts, err := one.MountInfo()
	if err != nil {
		return "", err
	}
	own, err := one.Cgroups()
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(own, func(g procfs.Cgroup) bool { return g.HierarchyID == 0 && len(g.Controllers) == 0 })
	if i < 0 {
		return "", errors.New("this process is in no cgroup v2")
	}
	for _, m := range mounts {
		if below, err := filepath.Rel(m.Root, own[i].Path); err == nil && m.FSType == "cgroup2" && filepath.IsLocal(below) {
			return filepath.Join(m.MountPoint, below), nil
		}
	}
	return "", errors.New("no cgroup v2 is mounted that holds this process")
}

func (g cgroup2) path() string { return string(g) }

func (g cgroup2) write(name, value string) error {
	f, err := os.OpenFile(filepath.Join(string(g), name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// prepare makes clone3 start the child in the cgroup (5.7).
func (g cgroup2) prepare(cmd *exec.Cmd) (done func(), err error) {
	fd, err := unix.Open(string(g), unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
	return func() { unix.Close(fd) }, nil
}

func (g cgroup2) pids() ([]int, error) {
	pids, err := procsOf(string(g))
	return slices.DeleteFunc(pids, func(pid int) bool { return pid == 0 }), err
}

// procsOf returns the processes of a cgroup of either version, without those below it. 0
// is one that this process cannot see, of another namespace.
func procsOf(dir string) ([]int, error) {
	f, err := os.Open(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, unless(fs.ErrNotExist, err) // it was removed, as nothing was left in it
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPidText+1))
	if err != nil {
		return nil, unless(unix.ENODEV, err)
	}
	return parsePids(b)
}

// kill kills all that is in the cgroup, frozen or not: one by one on a kernel without
// cgroup.kill (5.14).
func (g cgroup2) kill() error {
	err := g.write("cgroup.kill", "1")
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return unless(fs.ErrNotExist, err)
	}
	pids, err := g.pids()
	for _, pid := range pids {
		err = errors.Join(err, send(pid, unix.SIGKILL))
	}
	return err
}

// reclaim uses memory.reclaim (5.19). Swap is forbidden meanwhile, so that anonymous
// memory stays where it is.
func (g cgroup2) reclaim(n tier.Bytes) error {
	if err := unless(fs.ErrNotExist, g.write("memory.swap.max", "0")); err != nil {
		return err
	}
	err := g.write("memory.reclaim", strconv.FormatInt(int64(n), 10))
	if errors.Is(err, unix.EAGAIN) {
		err = nil // it took less than it was asked to; what stays is measured
	}
	return errors.Join(err, unless(fs.ErrNotExist, g.write("memory.swap.max", "max")))
}

// remove removes the cgroup. The kernel takes a moment to release processes that have
// just exited.
func (g cgroup2) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var wait backoff
	for {
		err := unless(fs.ErrNotExist, os.Remove(string(g)))
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		if !wait.sleep(ctx.Done()) {
			return err
		}
	}
}

// unless returns err, or nil if it is one that is expected.
func unless(expected, err error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}
