package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// A record is a file, "engine-MARK.json". Its recorder holds a lock on it for as long
// as it lives, which the kernel releases however that ends: a record that can be
// locked is that of an orphan, or, while it is empty, one that is being made.
const (
	recordPrefix = "engine-"
	recordSuffix = ".json"
	maxRecord    = 1 << 20
	// maxRecordTries is how often a record is made if other processes take it for one
	// that was left unfinished.
	maxRecordTries = 100
)

func register(dir string, id identity) (remove func() error, err error) {
	for range maxRecordTries {
		f, err := os.OpenFile(filepath.Join(dir, recordPrefix+id.Mark+recordSuffix), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		locked, err := lockNamed(f)
		if locked {
			remove = func() error { return errors.Join(unless(fs.ErrNotExist, os.Remove(f.Name())), f.Close()) }
			if err := json.NewEncoder(f).Encode(id); err != nil {
				return nil, errors.Join(err, remove())
			}
			return remove, nil
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		time.Sleep(time.Millisecond) // another process is about to remove it
	}
	return nil, errors.New("other processes remove it again and again")
}

// recorded implements system.recorded.
func recorded(dir, mark string) bool {
	return exists(filepath.Join(dir, recordPrefix+mark+recordSuffix))
}

// remember adds a line with the processes of an engine to its record. A line that was
// cut by our end does not count.
func remember(dir, mark string, all []pinned) error {
	f, err := os.OpenFile(filepath.Join(dir, recordPrefix+mark+recordSuffix), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return unless(fs.ErrNotExist, err) // the engine has just ended
	}
	b, _ := json.Marshal(all[:min(len(all), maxReaped)]) // plain numbers
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Close())
}

// lockNamed takes the lock of a file, and reports whether it got it and the file still
// has its name: its owner may have removed it before it was locked.
func lockNamed(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	locked, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(f.Name())
	if err != nil {
		return false, unless(fs.ErrNotExist, err)
	}
	return os.SameFile(locked, named), nil
}

// parseRecord reads a record. One that was truncated by a crash still has its mark, in
// the name of its file.
func parseRecord(name string, b []byte) (identity, error) {
	mark, ok := strings.CutPrefix(strings.TrimSuffix(name, recordSuffix), recordPrefix)
	if !ok || mark == "" || !strings.HasSuffix(name, recordSuffix) {
		return identity{}, fmt.Errorf("%s is not a record", quote(name))
	}
	var id identity
	in := json.NewDecoder(bytes.NewReader(b))
	err := in.Decode(&id)
	for id.Foreign != nil {
		var all []pinned
		if in.Decode(&all) != nil {
			break
		}
		id.seen = all
	}
	switch {
	case err != nil:
		err = fmt.Errorf("the record %s cannot be read: %w", quote(name), err)
	case id.Mark != mark:
		err = fmt.Errorf("the record %s is about another engine, %s", quote(name), quote(id.Mark))
	case id.Cgroup != "" && !strings.HasPrefix(filepath.Base(id.Cgroup), cgroupPrefix):
		err = fmt.Errorf("the record %s names a cgroup that is not ours, %s", quote(name), quote(id.Cgroup))
	}
	if err != nil {
		id = identity{}
	}
	id.Mark = mark
	return id, err
}

// endOrphans implements system.endOrphans. It returns once none of them is left.
func (p proc) endOrphans(ctx context.Context, dir string) (ended []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all sync.WaitGroup
	var mu sync.Mutex // guards ended and err
	slots := make(chan struct{}, maxEnding)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), recordPrefix) || filepath.Ext(e.Name()) != recordSuffix || !e.Type().IsRegular() {
			continue
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			what, e := p.endOrphan(ctx, filepath.Join(dir, e.Name()))
			mu.Lock()
			defer mu.Unlock()
			if err = errors.Join(err, e); what != "" {
				ended = append(ended, what)
			}
		})
	}
	all.Wait()
	return ended, err
}

// maxEnding is how many orphans are ended at once: the commands that stop some may hang.
const maxEnding = 16

func (p proc) endOrphan(ctx context.Context, path string) (ended string, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // its engine has just exited
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	if left, err := lockNamed(f); !left {
		return "", err // its recorder lives, or did until the engine exited
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return "", err
	}
	if len(b) == 0 {
		return "", unless(fs.ErrNotExist, os.Remove(path)) // its engine was never started
	}
	id, bad := parseRecord(filepath.Base(path), b)
	var pids []int
	if id.Foreign != nil {
		sys := newSystem()
		sys.processes = p
		pids, err = endOrphan(ctx, sys, &id)
	}
	more, e := p.kill(ctx, id)
	if pids, err = append(pids, more...), errors.Join(err, e); len(pids) > 0 {
		ended = fmt.Sprintf("the engine of %s, processes %v", quote(id.Model), pids)
	}
	if err != nil {
		return ended, err // the record stays for the next New
	}
	return ended, errors.Join(bad, unless(fs.ErrNotExist, os.Remove(path)))
}

// kill kills what is left of a recorded engine, and returns what that was.
func (p proc) kill(ctx context.Context, id identity) (killed []int, err error) {
	if id.Cgroup != "" {
		if pids, err := cgroup2(id.Cgroup).pids(); err == nil {
			killed = pids
		}
		if err := cgroup2(id.Cgroup).kill(); err != nil {
			return killed, err
		}
	}
	var wait backoff
	for {
		left, err := p.members(-1, id.Mark)
		if err != nil {
			return killed, err // the record stays for the next New
		}
		for _, pid := range left {
			if !slices.Contains(killed, pid) {
				killed = append(killed, pid)
			}
			if err := send(pid, unix.SIGKILL); err != nil {
				return killed, err
			}
		}
		if len(left) == 0 {
			break
		}
		if !wait.sleep(ctx.Done()) {
			return killed, &tier.StuckError{Model: id.Model, What: "The orphaned engine", After: killLimit}
		}
	}
	if id.Cgroup == "" {
		return killed, nil
	}
	return killed, cgroup2(id.Cgroup).remove()
}
