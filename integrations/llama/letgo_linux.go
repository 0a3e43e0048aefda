package llama

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// LetGo takes the weights out of this process's page tables. They stay mapped and
// in the page cache, and the next token faults in what it needs. The kernel evicts
// no page that two mappings have, so a mover can page the file out only once the
// engine has let go of it. It waits for the token that is computed.
func (m *Model) LetGo() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase == closed {
		return nil
	}
	var files []string
	for _, path := range shards(m.path) {
		path, err := filepath.EvalSymlinks(path)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err != nil {
			return err
		}
		files = append(files, path)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		// proc_pid_maps(5): range, rights, offset, device, number, path.
		line := lines.Text()
		f := strings.Fields(line)
		var from, to uintptr
		// Of a private mapping, or a writable one, MADV_DONTNEED would lose what was
		// written.
		ours := func(path string) bool { return strings.HasSuffix(line, " "+path) }
		if len(f) < 6 || f[1] != "r--s" || !slices.ContainsFunc(files, ours) {
			continue
		}
		if _, err := fmt.Sscanf(f[0], "%x-%x", &from, &to); err != nil {
			return err
		}
		// A mover in this process maps the file too: it is invalid to drop what that
		// has locked, and harmless to drop what it has not.
		_, _, errno := syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED)
		if errno != 0 && errno != syscall.EINVAL {
			return errno
		}
	}
	return lines.Err()
}

// ofMany is the name of the first shard of a model, as llama.cpp finds the others by it.
var ofMany = regexp.MustCompile(`^(.*)-00001-of-(\d{5})\.gguf$`)

// shards returns the files of the model that is opened by path.
func shards(path string) []string {
	match := ofMany.FindStringSubmatch(path)
	if match == nil {
		return []string{path}
	}
	n, _ := strconv.Atoi(match[2]) // five digits
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("%s-%05d-of-%s.gguf", match[1], i+1, match[2]))
	}
	return all
}
