package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// system is what the operating system can do with processes and their memory. A
// function that is nil is missing, and there is a fallback for each: systems lack
// calls, containers forbid them, and tests remove them one by one.
//
// A process that leads an engine is addressed by its pid only until it is reaped, so
// that the number cannot be that of another process.
type system struct {
	name   string // "linux", "unix", "portable"
	kernel string // its release, "" if it does not tell

	// isolate makes cmd lead a session of its own and, if the system can, be killed
	// when the thread that starts it ends.
	isolate func(cmd *exec.Cmd)
	// dies: isolate has a process killed with the thread.
	dies bool
	// terminate asks the group that pid leads to exit; kill kills it. suspend stops
	// it and resume continues it; others are members that left the group. Pid 0: those
	// alone.
	terminate func(pid int, others []int) error
	kill      func(pid int, others []int) error
	suspend   func(pid int, others []int) error
	resume    func(pid int, others []int) error
	// suspended reports whether every thread of the processes is stopped.
	suspended func(pids []int) bool
	// awaitExit returns once the child has exited, and leaves it to be reaped.
	awaitExit func(pid int) error
	// members returns the living processes of an engine, without zombies: the leader,
	// those of its session, and those that carry its mark. An error means that they
	// cannot be listed now, as when we have too many open files.
	members func(pid int, mark string) ([]int, error)

	// listener returns a process that is none of the engine's and gets connections to
	// a port of 127.0.0.1, or 0 if the engine gets them. An error means that it cannot
	// be seen.
	listener func(port, leader int, members []int) (stranger int, err error)
	// processes tells of those that are not our children.
	processes processTable

	// cgroup makes the cgroup of one engine under parent, "" for the cgroup that this
	// process is in.
	cgroup func(parent, mark string) (cgroup, error)
	// reaper returns the command that reads its standard input and, when that ends,
	// kills the process group that pid leads and what is in the cgroup, "" for none. Its
	// further arguments are, for an engine that is not our child, the folder of its
	// commands, and Resume and StopCommand in the shell's words; the last line of its
	// input names processes to be killed, as PID:START.
	reaper func(pid int, cgroup string) (*exec.Cmd, error)
	// register records the identity of an engine in a file of dir, which endOrphans
	// finds after this process has ended unless it was removed.
	register func(dir string, id identity) (remove func() error, err error)
	// remember adds to the record of an engine which processes it has.
	remember func(dir, mark string, all []pinned) error
	// endOrphans ends the engines that are recorded in dir and whose recorder has
	// ended.
	endOrphans func(ctx context.Context, dir string) (ended []string, err error)

	// recorded reports whether the engine of a mark has a record in dir.
	recorded func(dir, mark string) bool
	// room returns how much an ordinary user may still write to the disk of a folder.
	room func(dir string) (tier.Bytes, error)

	// usage returns the sum of the memory of processes; what several of them share
	// counts once if the system tells, but for File and Locked.
	usage func(pids []int) (Memory, error)
	// effort returns what processes have done since their starts, those that they have
	// reaped included.
	effort func(pids []int) (*effort, error)
	// regions returns where a process maps the files.
	regions func(pid int, files []weightFile) ([]region, error)
	// pageOut pushes regions of a process out of memory, unless another process maps
	// them too.
	pageOut func(ctx context.Context, pid int, regions []region) error
	// mayPageOut returns the error that pageOut would have, without doing anything.
	mayPageOut func(pid int) error
	// owned reports whether the kernel tells us, and lets us decide, what is cached
	// of the file.
	owned func(f *os.File) bool
	// cached returns how many bytes of the range are in the page cache.
	cached func(f *os.File, off, n int64) (int64, error)
	// drop takes a range of the file out of the page cache, but for pages that a process
	// maps; n is 0 for all that follows off.
	drop func(f *os.File, off, n int64) error
}

// identity distinguishes an engine from any other process.
type identity struct {
	Mark    string   `json:"mark"` // in the environment of all that the engine starts
	Model   string   `json:"model"`
	Command []string `json:"command"`
	Cgroup  string   `json:"cgroup,omitempty"`
	// Foreign is how an engine is reached that is not our child.
	Foreign *foreignSpec `json:"foreign,omitempty"`
	seen    []pinned     // the processes that were last seen of that
}

// region is a range of addresses in another process, and what is mapped there.
type region struct {
	addr, size uint64
	file       int    // index of the weight file
	off        uint64 // in it
}

// within returns the part of the region that maps a range of its file.
func (r region) within(off, end uint64) region {
	from, to := max(off, r.off), min(end, r.off+r.size)
	if from >= to {
		return region{}
	}
	return region{addr: r.addr + from - r.off, size: to - from, file: r.file, off: from}
}

// Memory is what processes have, by procfs.
type Memory struct {
	Anon   tier.Bytes `json:"anon"` // present and not of a file, shared memory included
	File   tier.Bytes `json:"file"` // present pages of files in their page tables
	Swap   tier.Bytes `json:"swap"` // on a swap device
	Locked tier.Bytes `json:"locked"`
}

// own returns the memory that the file system cannot give back.
func (u Memory) own() tier.Bytes { return u.Anon.Plus(u.Swap) }

func bytesOf(n uint64) tier.Bytes { return tier.Bytes(min(n, 1<<62)) }

// cgroup is a cgroup v2 of one engine.
type cgroup interface {
	path() string
	// prepare makes cmd start in the cgroup; done is called after the start.
	prepare(cmd *exec.Cmd) (done func(), err error)
	pids() ([]int, error)
	kill() error
	// reclaim asks the kernel to take file pages that are charged to the cgroup. It is
	// an error if the cgroup has no memory controller.
	reclaim(n tier.Bytes) error
	remove() error
}

// What may be found not to work here, as Status names it.
const (
	lackCgroup   = "cgroup"
	lackReaper   = "reaper"
	lackPageOut  = "process_madvise"
	lackReclaim  = "memory.reclaim"
	lackListener = "listener"
)

// lacks is what was found not to work here.
type lacks struct {
	log *slog.Logger

	mu  sync.Mutex // guards the rest
	why map[string]error
}

// note records that something does not work, if the reason is more than a moment's, or,
// if err is nil, that it works.
func (l *lacks) note(what string, err error) {
	if err != nil && what != lackCgroup && what != lackReaper && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, known := l.why[what]
	switch {
	case err == nil && known:
		delete(l.why, what)
		l.log.Info("engines no longer do without", "what", what)
	case err != nil:
		l.why[what] = err
		if !known {
			l.log.Warn("engines do without", "what", what, "because", err)
		}
	}
}

func (l *lacks) reasons() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	reasons := make(map[string]string, len(l.why))
	for what, err := range l.why {
		reasons[what] = err.Error()
	}
	return reasons
}

// backoff spaces the polls of something that does not tell when it is done.
type backoff struct{ next time.Duration }

// sleep waits 0.5 ms at first and twice as long each time, up to 50 ms. It returns
// false when stop is closed.
func (b *backoff) sleep(stop <-chan struct{}) bool {
	b.next = min(max(2*b.next, 500*time.Microsecond), 50*time.Millisecond)
	select {
	case <-time.After(b.next):
		return true
	case <-stop:
		return false
	}
}

// quote bounds what goes into a message.
func quote(s string) string { return fmt.Sprintf("%.200q", s) }
