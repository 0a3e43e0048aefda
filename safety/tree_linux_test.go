package safety

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

const shared = "../../shared"

// tree is a fake root: files by path, read through a probe with its options.
type tree struct {
	t   testing.TB
	dir string
}

func newTree(t testing.TB, files ...map[string]string) tree {
	t.Helper()
	tr := tree{t, t.TempDir()}
	for _, m := range files {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			tr.write(name, m[name])
		}
	}
	return tr
}

func (tr tree) write(name, text string) {
	tr.t.Helper()
	name = filepath.Join(tr.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr tree) options() ProbeOptions {
	return ProbeOptions{Proc: tr.dir + "/proc", Sys: tr.dir + "/sys", Mounts: tr.dir}
}

func (tr tree) probe() *Probe {
	tr.t.Helper()
	p := newProbe(tr.options())
	tr.t.Cleanup(func() { p.Close() })
	return p
}

// read makes one reading with a probe of its own.
func (tr tree) read() tier.Memory {
	tr.t.Helper()
	return mustRead(tr.t, tr.probe())
}

func mustRead(t testing.TB, p tier.MemoryProbe) tier.Memory {
	t.Helper()
	m, err := p.Memory(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func captured(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(shared, name))
	if err != nil {
		t.Skipf("captures are not here: %v", err)
	}
	return string(text)
}

// machine is 16 GiB, of which 12 are available, without PSI.
func machine() map[string]string {
	return map[string]string{
		"proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 4194304 kB\nMemAvailable: 12582912 kB\nBuffers: 0 kB\nCached: 8388608 kB\nSwapTotal: 0 kB\n",
		"proc/swaps":   "Filename\tType\tSize\tUsed\tPriority\n",
		"proc/vmstat":  "pswpout 0\npgscan_direct 0\nworkingset_refault_file 0\nallocstall_normal 0\nallocstall_movable 0\noom_kill 0\n",
	}
}

const (
	v1Mount = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:13 - cgroup cgroup rw,memory\n"
	v2Mount = "30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
	v1None  = "9223372036854771712\n"
)

// cgroups places the process.
func cgroups(self, mountinfo string) map[string]string {
	return map[string]string{"proc/self/cgroup": self, "proc/self/mountinfo": mountinfo}
}

// v2 is a cgroup of version 2 at dir. An empty max means "max".
func v2(dir, max, current string, more ...string) map[string]string {
	if max == "" {
		max = "max"
	}
	files := map[string]string{
		"memory.max": max + "\n", "memory.high": "max\n", "memory.current": current + "\n",
		"memory.swap.max": "max\n", "memory.swap.current": "0\n",
		"memory.stat":   "anon 0\nfile 0\ninactive_file 0\nactive_file 0\n",
		"memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
	}
	return group1(dir, files, more)
}

// v1 is a cgroup of version 1 at dir. An empty limit means none.
func v1(dir, limit, usage string, more ...string) map[string]string {
	if limit == "" {
		limit = strings.TrimSpace(v1None)
	}
	files := map[string]string{
		"memory.limit_in_bytes": limit + "\n", "memory.usage_in_bytes": usage + "\n",
		"memory.stat":        "inactive_file 0\nactive_file 0\nhierarchical_memory_limit " + v1None + "total_inactive_file 0\ntotal_active_file 0\n",
		"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
		"memory.failcnt":     "0\n",
	}
	return group1(dir, files, more)
}

func group1(dir string, files map[string]string, more []string) map[string]string {
	for i := 0; i+1 < len(more); i += 2 {
		files[more[i]] = more[i+1]
	}
	out := make(map[string]string, len(files))
	for name, text := range files {
		out[strings.TrimPrefix(dir, "/")+"/"+name] = text
	}
	return out
}

func notesContain(m tier.Memory, part string) bool {
	return strings.Contains(string(m.Notes), part)
}
