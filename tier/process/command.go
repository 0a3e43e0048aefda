package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

// runCommand runs a short command: no longer than limit, with bounded output, and killed
// with all of its session when it does not end in time or when we end. It returns what
// it printed to its standard output; the error has the last of all that it printed. in
// is the cgroup that it runs in, nil for ours.
func runCommand(ctx context.Context, sys *system, argv []string, dir string, env []string, in cgroup, limit time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not end within %v", limit))
	defer cancel()
	var out, all head
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, env
	cmd.Stdout, cmd.Stderr = &both{&out, &all}, &all
	cmd.WaitDelay = 100 * time.Millisecond // for what still holds its output
	sys.isolate(cmd)
	cmd.Cancel = func() error { return sys.kill(cmd.Process.Pid, nil) }
	err := guarded(ctx, "a command", func() error {
		// The kernel kills a child together with the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if in != nil {
			done, err := in.prepare(cmd)
			if err != nil {
				return err
			}
			defer done()
		}
		return cmd.Run()
	})
	if errors.Is(err, exec.ErrWaitDelay) { // it ended well, and what it has started prints on
		err = nil
	}
	if err == nil {
		return out.bytes(), nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if said := strings.TrimSpace(string(all.bytes())); said != "" {
		err = fmt.Errorf("%w; it printed %s", err, quote(said[max(len(said)-200, 0):]))
	}
	return nil, fmt.Errorf("%s: %w", quote(strings.Join(argv, " ")), err)
}

// head keeps the first that is written to it, as much as is read of process ids and one
// byte more. What reads it may do so before the writer has ended.
type head struct {
	mu   sync.Mutex // guards kept
	kept bytes.Buffer
}

func (h *head) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept.Write(b[:min(len(b), maxPidText+1-h.kept.Len())])
	return len(b), nil
}

func (h *head) bytes() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return bytes.Clone(h.kept.Bytes())
}

// both writes to two heads.
type both [2]*head

func (w *both) Write(b []byte) (int, error) {
	w[0].Write(b)
	return w[1].Write(b)
}
