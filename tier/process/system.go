package process

import (
	"context"
	"io/fs"
	"os"
	"os/exec"

	"github.com/modeltier/modeltier/tier"
)

// system is what the operating system can do with processes and their memory. A
// function that is nil is missing, and there is a way to do without: systems
// lack calls, containers forbid them, and tests take them away one by one.
//
// A process that leads an engine is named by its pid only while it has not been
// reaped, so that the number cannot have become somebody else's.
type system struct {
	name   string // "linux", "unix", "portable"
	kernel string // its release, "" where it does not say

	// isolate readies cmd to lead a session of its own and, as far as the system
	// can, to be killed when the thread that starts it ends.
	isolate func(cmd *exec.Cmd)
	// dies: isolate sees to that.
	dies bool
	// terminate asks the group that pid leads to end; kill ends it. suspend stops
	// it and resume lets it go on; others are members that left the group.
	terminate func(pid int, others []int) error
	kill      func(pid int, others []int) error
	suspend   func(pid int, others []int) error
	resume    func(pid int, others []int) error
	// suspended reports whether every thread of the processes stands still.
	suspended func(pids []int) bool
	// awaitExit returns once the child has ended, and leaves it to be reaped.
	awaitExit func(pid int) error
	// members returns the processes of the engine that are left, without zombies:
	// the leader, those of its session, and those that carry its mark.
	members func(pid int, mark string) []int

	// cages makes a folder for cgroups of ours under parent, "" being the cgroup
	// that we are in.
	cages func(parent string) (cages, error)
	// guard returns the command that reads the groups to be killed on its standard
	// input and kills them, and what is in the folder of cgroups, when that ends.
	guard func(cages string) (*exec.Cmd, error)
	// record writes the identity of an engine into a file of dir, which sweep finds
	// when we are gone.
	record func(dir string, id identity) (entry, error)
	// sweep ends the engines that are recorded in dir and whose recorder is gone.
	sweep func(ctx context.Context, dir string) (swept []string, err error)
	// started tells the two numbers that set a process apart for ever.
	started func(pid int) (ticks uint64, boot string)

	// usage returns the memory of processes, summed up; what several of them have in
	// common counts once where the system tells, but for File and Locked.
	usage func(pids []int, exact bool) (usage, error)
	// regions returns where a process maps the files.
	regions func(pid int, files []weightFile) ([]region, error)
	// pageOut pushes regions of a process out of memory as far as nobody else maps
	// them. done is called with the bytes that were dealt with.
	pageOut func(ctx context.Context, pid int, regions []region, done func(tier.Bytes)) error
	// owned reports whether the kernel tells us, and lets us decide, what is cached
	// of the file.
	owned func(f *os.File, info fs.FileInfo) bool
	// cached returns how many bytes of the range are in the page cache.
	cached func(f *os.File, off, n int64) (int64, error)
	// drop empties the page cache of what nobody maps.
	drop func(f *os.File) error
}

// cages is a folder of cgroups.
type cages interface {
	path() string
	add(name string) (cage, error)
	// remove kills what is in it and removes it. It is idempotent.
	remove() error
}

// cage is a cgroup for one engine.
type cage interface {
	path() string
	// prepare has cmd start in the cgroup; done is called after the start.
	prepare(cmd *exec.Cmd) (done func(), err error)
	pids() ([]int, error)
	// freeze returns when everything in it stands still.
	freeze(ctx context.Context) error
	thaw() error
	kill() error
	// reclaim asks the kernel to take file pages that were charged to the cgroup.
	// It is an error where the cgroup has no memory controller.
	reclaim(n tier.Bytes) error
	remove() error
}

// identity is what sets an engine apart from any other process.
type identity struct {
	Mark    string   `json:"mark"` // in the environment of all that the engine starts
	Model   string   `json:"model"`
	Command []string `json:"command"`
	Cage    string   `json:"cgroup,omitempty"`
	Pid     int      `json:"pid,omitempty"` // 0: not started yet
	Started uint64   `json:"started,omitempty"`
	Boot    string   `json:"boot,omitempty"` // of the machine, and which view of it Pid is from
}

// entry is a record of a running engine. It holds until it is forgotten or this
// process ends.
type entry interface {
	update(id identity) error
	forget() error
}

// region is a range of addresses in another process.
type region struct{ addr, size uint64 }

// usage is memory of processes.
type usage struct {
	Anon   tier.Bytes // present and of no file, shared memory included
	File   tier.Bytes // present pages of files in their page tables
	Share  tier.Bytes // present, what others have too divided among them; where exact
	Swap   tier.Bytes // on a swap device
	Locked tier.Bytes
}

// own is the memory that the file system cannot give back.
func (u usage) own() tier.Bytes { return u.Anon.Plus(u.Swap) }
