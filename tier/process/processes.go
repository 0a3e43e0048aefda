package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/internal/regular"
)

// Processes says where the processes of an engine are that something else runs on the
// word of Engine.Command. One field is set; the words of Engine.Command are replaced in
// each. Processes that are older than the start of Engine.Command are never the
// engine's.
type Processes struct {
	// Cgroup is the absolute path of a cgroup, v1 or v2, with those below it.
	Cgroup string
	// PidFile is the absolute path of a file that holds process ids in decimal. What
	// those processes have started belongs to the engine as well.
	PidFile string
	// Command prints process ids in decimal, as "docker inspect -f {{.State.Pid}} NAME"
	// does; 0 means none. It may take 5 seconds, and is run until it prints some.
	Command []string
}

func (p *Processes) isZero() bool { return p.Cgroup == "" && p.PidFile == "" && len(p.Command) == 0 }

// pinned is a process, told from a later one of the same number.
type pinned struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // in ticks after boot
}

// freezing is what is seen of processes that were to be frozen.
type freezing uint8

const (
	unknowable freezing = iota
	runs
	halted
)

// processTable tells of processes that are not our children.
type processTable interface {
	// now returns what identifies the boot, and the ticks since.
	now() (boot string, ticks uint64, err error)
	// started returns when a process started, and whether it lives; a zombie does not.
	started(pid int) (ticks uint64, alive bool)
	// offspring returns the living processes that the given ones have started, and those
	// that these have.
	offspring(of []int) ([]int, error)
	// inCgroup returns the processes of a cgroup and those below it; none, if it is
	// missing.
	inCgroup(dir string) ([]int, error)
	frozen(pids []int) freezing
	// awaitEnd returns once a process has ended, or ctx has.
	awaitEnd(ctx context.Context, one pinned)
	// endedWell reports whether a child that was not reaped exited with status 0.
	endedWell(pid int) bool
}

const (
	// maxPids bounds how many processes an engine has.
	maxPids = 4096
	// maxPidText bounds what is read of their numbers.
	maxPidText = 64 << 10
)

// pinnedOf returns the living among processes, with their start.
func (f *foreign) pinnedOf(pids []int) (all []pinned, err error) {
	for _, pid := range pids {
		if pid <= 1 || pid == os.Getpid() || pid == os.Getppid() {
			return nil, fmt.Errorf("process %d cannot be an engine's", pid)
		}
		start, alive := f.sys.processes.started(pid)
		if !alive {
			continue
		}
		if start < f.spec.Since {
			return nil, fmt.Errorf("process %d is older than the command that is to have started it", pid)
		}
		all = append(all, pinned{pid, start})
	}
	return all, nil
}

// list returns the processes that Processes names.
func (f *foreign) list(ctx context.Context) ([]pinned, error) {
	p := &f.spec.Processes
	var pids []int
	var err error
	switch {
	case p.Cgroup != "":
		pids, err = f.sys.processes.inCgroup(p.Cgroup)
	case p.PidFile != "":
		pids, err = readPidFile(p.PidFile)
	default:
		var out []byte
		if out, err = f.run(ctx, p.Command, f.limits.command); err == nil {
			pids, err = parsePids(out)
			pids = slices.DeleteFunc(pids, func(pid int) bool { return pid == 0 })
		}
	}
	if err == nil && len(pids) > maxPids {
		err = fmt.Errorf("more than %d processes", maxPids)
	}
	if err != nil {
		return nil, fmt.Errorf("Engine.Processes: %w", err)
	}
	all, err := f.pinnedOf(pids)
	if err != nil {
		return nil, fmt.Errorf("Engine.Processes: %w", err)
	}
	return all, nil
}

func readPidFile(path string) ([]int, error) {
	file, _, err := regular.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxPidText+1))
	if err != nil {
		return nil, err
	}
	pids, err := parsePids(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return pids, nil
}

// parsePids reads process ids, which are words in decimal.
func parsePids(b []byte) (pids []int, err error) {
	if len(b) > maxPidText {
		return nil, fmt.Errorf("more than %d KiB of process ids", maxPidText>>10)
	}
	for word := range strings.FieldsSeq(string(b)) {
		pid, err := strconv.ParseUint(word, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("%s is not a process id in decimal", quote(word))
		}
		pids = append(pids, int(pid))
	}
	return pids, nil
}

// alive returns those that live and are who they were.
func (f *foreign) alive(all []pinned) []pinned {
	return slices.DeleteFunc(slices.Clone(all), func(one pinned) bool {
		start, alive := f.sys.processes.started(one.Pid)
		return !alive || start != one.Start
	})
}

func pidsOf(all []pinned) []int {
	pids := make([]int, len(all))
	for i, one := range all {
		pids[i] = one.Pid
	}
	return pids
}
