package llama

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
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
	if m.closed {
		return nil
	}
	path, err := filepath.EvalSymlinks(m.path)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		// proc_pid_maps(5): range, rights, offset, device, number, path.
		f := strings.Fields(lines.Text())
		var from, to uintptr
		// Of a private mapping, or a writable one, MADV_DONTNEED would lose what was
		// written.
		if len(f) < 6 || f[1] != "r--s" || !strings.HasSuffix(lines.Text(), " "+path) {
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
