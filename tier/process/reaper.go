package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// reaper keeps a small process running that kills an engine when a pipe from us ends,
// which it does whenever and however we end. The kernel kills an engine with the
// process that started it, but not what the engine has started; the reaper does.
type reaper struct {
	command func() (*exec.Cmd, error)
	lacks   *lacks
	done    chan struct{} // closed when none runs any more

	mu    sync.Mutex // guards the rest
	ended bool
	cmd   *exec.Cmd
	in    *os.File
	began time.Time
	told  string // the line of tell, for the next process
}

// reaperPoll is how often a reaper looks whether a command has ended.
const reaperPoll = 50 * time.Millisecond

// reaperPatience is how long a reaper has to run for another to replace it.
const reaperPatience = time.Second

// watch starts the reaper of an engine. If it cannot, that is logged and shows in
// Status: the kernel and the records still keep orphans away.
func (m *Mover) watch(c *child) *reaper {
	r := &reaper{lacks: m.lacks, done: make(chan struct{}), command: func() (*exec.Cmd, error) {
		if m.sys.reaper == nil {
			return nil, errors.New("this system has no shell")
		}
		cmd, err := m.sys.reaper(c.pid, c.cgroupPath())
		if err == nil && c.foreign != nil {
			spec := &c.foreign.spec
			cmd.Args = append(cmd.Args, spec.Dir, shellWords(spec.Resume), shellWords(spec.Stop), c.mark, strconv.Itoa(int(spec.StopLimit/reaperPoll)+1))
			cmd.Env = c.environ()
		}
		return cmd, err
	}}
	if r.start() {
		go r.keep()
	} else {
		close(r.done)
	}
	return r
}

// shellWords returns a command as a shell reads it.
func shellWords(argv []string) string {
	var words []string
	for _, arg := range argv {
		words = append(words, "'"+strings.ReplaceAll(arg, "'", `'\''`)+"'")
	}
	return strings.Join(words, " ")
}

// start starts a process, and reports whether it did.
func (r *reaper) start() bool {
	err := func() error {
		cmd, err := r.command()
		if err != nil {
			return err
		}
		in, out, err := os.Pipe()
		if err != nil {
			return err
		}
		defer in.Close()
		cmd.Stdin = in
		if err := cmd.Start(); err != nil {
			return errors.Join(err, out.Close())
		}
		r.cmd, r.in, r.began = cmd, out, time.Now()
		if err := r.write(); err != nil {
			cmd.Process.Kill()
			cmd.Wait()
			r.in = nil
			return errors.Join(err, out.Close())
		}
		return nil
	}()
	r.lacks.note(lackReaper, err)
	return err == nil
}

// keep replaces a process that exited though it was not ended. If one exits at once,
// there is none until the next engine starts.
func (r *reaper) keep() {
	defer close(r.done)
	for again := true; again; {
		err := r.cmd.Wait()
		r.mu.Lock()
		r.in.Close()
		again = !r.ended && time.Since(r.began) > reaperPatience
		if again {
			again = r.start()
		} else if !r.ended {
			r.lacks.note(lackReaper, fmt.Errorf("it exited: %w", cmp.Or(err, errors.New("exit status 0"))))
		}
		r.mu.Unlock()
	}
}

// tell names the processes of an engine that is not our child, to be killed as well.
func (r *reaper) tell(all []pinned) {
	var line strings.Builder
	for _, one := range all[:min(len(all), maxReaped)] {
		fmt.Fprintf(&line, "%d:%d ", one.Pid, one.Start)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = line.String() + "\n"
	if err := r.write(); err != nil {
		r.lacks.note(lackReaper, err)
	}
}

// maxReaped is how many processes of an engine the reaper is told of: a line that a
// pipe takes at once.
const maxReaped = 128

// write sends what was told. r.mu is held, or the reaper has just been made.
func (r *reaper) write() error {
	if r.told == "" || r.in == nil || r.ended {
		return nil
	}
	r.in.SetWriteDeadline(time.Now().Add(callLimit)) // one that stands still takes no more in the end
	_, err := r.in.WriteString(r.told)
	return err
}

// end ends the process, which kills nothing.
func (r *reaper) end() {
	r.mu.Lock()
	r.ended = true
	if r.cmd != nil {
		r.cmd.Process.Kill()
	}
	r.mu.Unlock()
	<-r.done
}

// endOrphans creates the folder of records and ends the engines that are recorded
// there and whose Mover has ended. It returns what it ended, in words; what fails is left
// to the next call, and delays no start.
func endOrphans(sys *system, dir string, log *slog.Logger) (ended []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the folder of engines: %w", err)
	}
	if sys.endOrphans == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	ended, err = sys.endOrphans(ctx, dir)
	for _, what := range ended {
		log.Warn("an orphaned engine was ended", "what", what)
	}
	if err != nil {
		log.Error("not all orphaned engines could be ended", "err", err)
		ended = append(ended, "failed: "+err.Error())
	}
	return ended, nil
}
