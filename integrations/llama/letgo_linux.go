package llama

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// span is a range of addresses at which a file is mapped to be read.
type span struct {
	file     string
	from, to uintptr
}

// spans returns where the files of a model are mapped in this process, by others as well.
func spans(path string) (all []span, err error) {
	var files []string
	for _, path := range shards(path) {
		path, err := filepath.EvalSymlinks(path)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err != nil {
			return nil, err
		}
		files = append(files, path)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		// proc_pid_maps(5): range, rights, offset, device, number, path.
		line := lines.Text()
		f := strings.Fields(line)
		// Of a private mapping, or a writable one, MADV_DONTNEED would lose what was
		// written.
		i := slices.IndexFunc(files, func(path string) bool { return strings.HasSuffix(line, " "+path) })
		if len(f) < 6 || f[1] != "r--s" || i < 0 {
			continue
		}
		s := span{file: files[i]}
		if _, err := fmt.Sscanf(f[0], "%x-%x", &s.from, &s.to); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, lines.Err()
}

// ownSpans returns where a load has mapped the files of its model: what is mapped now and
// was not before. llama.cpp maps each file once. Where that is not what is seen, as if
// another maps the file meanwhile, there is no telling whose it is, and the answer is none:
// what another unmaps may be other memory later.
func ownSpans(path string, before []span) []span {
	now, err := spans(path)
	if err != nil {
		return nil
	}
	now = slices.DeleteFunc(now, func(s span) bool {
		return slices.ContainsFunc(before, func(b span) bool { return b.from < s.to && s.from < b.to })
	})
	if len(now) != len(shards(path)) {
		return nil
	}
	for i, s := range now {
		if slices.ContainsFunc(now[:i], func(o span) bool { return o.file == s.file }) {
			return nil
		}
	}
	return now
}

// LetGo takes the weights out of this process's page tables. They stay mapped and
// in the page cache, and the next token faults in what it needs. The kernel evicts
// no page that two mappings have, so a mover can page the file out only once the
// engine has let go of it. It waits for the token that is computed. If it is not known
// where the weights are mapped, it is an errors.ErrUnsupported.
func (m *Model) LetGo() error {
	m.mu.Lock() // against Close: until then the addresses are the model's
	defer m.mu.Unlock()
	if m.phase == closed || m.takes.Mapped == 0 {
		return nil
	}
	if m.spans == nil {
		return fmt.Errorf("it is not known where %s is mapped: %w", m.path, errors.ErrUnsupported)
	}
	for _, s := range m.spans {
		_, _, errno := syscall.Syscall(syscall.SYS_MADVISE, s.from, s.to-s.from, syscall.MADV_DONTNEED)
		if errno != 0 && errno != syscall.EINVAL { // a program that has locked all of its memory keeps it
			return errno
		}
	}
	return nil
}
