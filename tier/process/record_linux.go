package process

import (
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

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
)

// A record is a file of its own, "engine-MARK.json". Its recorder holds a lock on
// it for as long as it lives, which the kernel lets go of however that ends: a
// record that can be locked is that of an engine nobody looks after. So it must
// never be without one under its own name, and is made under another.
const (
	recordPrefix = "engine-"
	recordSuffix = ".json"
	unfinished   = ".tmp" // suffix of a record that is being made
	maxRecord    = 1 << 20
	// recordTries is how often a record is made anew when a sweep of somebody else
	// took it for one that was left unfinished.
	recordTries = 100
)

type recordFile struct {
	f    *os.File
	path string
}

func record(dir string, id identity) (entry, error) {
	path := filepath.Join(dir, recordPrefix+id.Mark+recordSuffix)
	for range recordTries {
		// A new name each time: the sweep may be about to remove the last one.
		f, err := os.CreateTemp(dir, recordPrefix+id.Mark+".*"+unfinished)
		if err != nil {
			return nil, err
		}
		r := recordFile{f, f.Name()}
		locked, err := lockNamed(f)
		if locked {
			if err = r.update(id); err == nil {
				err = os.Rename(r.path, path)
			}
			if err == nil {
				return recordFile{f, path}, nil
			}
		}
		if err := errors.Join(err, r.forget()); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("somebody sweeps it all the time")
}

// lockNamed takes the lock of a file, and reports whether it got it and the file
// still goes by its name: between the opening and the lock it may have been
// removed by whom it belonged to.
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
		return false, unlessMissing(err)
	}
	return os.SameFile(locked, named), nil
}

func (r recordFile) update(id identity) error {
	b, err := json.Marshal(id)
	if err != nil {
		return err
	}
	if _, err := r.f.WriteAt(b, 0); err != nil {
		return err
	}
	return r.f.Truncate(int64(len(b)))
}

func (r recordFile) forget() error {
	return errors.Join(unlessMissing(os.Remove(r.path)), r.f.Close())
}

// parseRecord reads a record. One that was cut short by a crash still has its
// mark, in the name of its file.
func parseRecord(name string, b []byte) (identity, error) {
	mark, ok := strings.CutPrefix(strings.TrimSuffix(name, recordSuffix), recordPrefix)
	if !ok || mark == "" || !strings.HasSuffix(name, recordSuffix) {
		return identity{}, fmt.Errorf("%s is no record", quote(name))
	}
	var id identity
	err := json.Unmarshal(b, &id)
	switch {
	case err != nil:
		err = fmt.Errorf("the record %s cannot be read: %w", quote(name), err)
	case id.Mark != mark:
		err = fmt.Errorf("the record %s is about another engine, %s", quote(name), quote(id.Mark))
	case id.Pid < 0 || id.Pid == 1:
		err = fmt.Errorf("the record %s names the process %d", quote(name), id.Pid)
	case id.Cage != "" && !strings.HasPrefix(filepath.Base(filepath.Dir(id.Cage)), cagePrefix):
		err = fmt.Errorf("the record %s names a cgroup that is none of ours, %s", quote(name), quote(id.Cage))
	}
	if err != nil {
		id = identity{}
	}
	id.Mark = mark
	return id, err
}

// sweep ends all engines that are recorded in dir and that nobody looks after,
// and returns once they are gone.
func (p proc) sweep(ctx context.Context, dir string) (swept []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if !strings.HasPrefix(e.Name(), recordPrefix) || ext != recordSuffix && ext != unfinished || !e.Type().IsRegular() {
			continue
		}
		what, err := p.sweepOne(ctx, filepath.Join(dir, e.Name()))
		if what != "" {
			swept = append(swept, what)
		}
		errs = append(errs, err)
	}
	return swept, errors.Join(errs...)
}

func (p proc) sweepOne(ctx context.Context, path string) (swept string, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // its engine has just ended
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	if left, err := lockNamed(f); !left {
		return "", err // somebody looks after it, or did until its engine ended
	}
	if strings.HasSuffix(path, unfinished) {
		return "", unlessMissing(os.Remove(path)) // its engine was never started
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return "", err
	}
	id, bad := parseRecord(filepath.Base(path), b)
	pids, err := p.end(ctx, id)
	if len(pids) > 0 {
		swept = fmt.Sprintf("the engine of %s, processes %v", quote(id.Model), pids)
	}
	if err != nil {
		return swept, err // the record stays for the next sweep
	}
	return swept, errors.Join(bad, unlessMissing(os.Remove(path)))
}

// end kills what is left of a recorded engine, and returns what that was.
func (p proc) end(ctx context.Context, id identity) (killed []int, err error) {
	if id.Cage != "" {
		if pids, err := cgroup(id.Cage).pids(); err == nil {
			killed = pids
		}
		if err := cgroup(id.Cage).kill(); err != nil {
			return killed, err
		}
	}
	var wait backoff
	for {
		left := p.leftOf(id)
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
			return killed, &tier.StuckError{Model: id.Model, What: "The engine that was left behind", After: killLimit}
		}
	}
	if id.Cage == "" {
		return killed, nil
	}
	err = cgroup(id.Cage).remove()
	// The last of them takes the folder along; it is not empty while others are left.
	if e := os.Remove(filepath.Dir(id.Cage)); e != nil && !errors.Is(e, unix.EBUSY) && !errors.Is(e, unix.ENOTEMPTY) {
		err = errors.Join(err, unlessMissing(e))
	}
	return killed, err
}

// leftOf returns the living processes of a recorded engine: its leader, if the
// number still means that process, those of its session while it is, and those
// that carry its mark.
func (p proc) leftOf(id identity) []int {
	leader := 0
	if id.Pid != 0 && id.Started != 0 {
		if ticks, boot := p.started(id.Pid); ticks == id.Started && boot == id.Boot {
			leader = id.Pid
		}
	}
	if leader != 0 {
		return p.members(leader, id.Mark)
	}
	return p.members(-1, id.Mark)
}
