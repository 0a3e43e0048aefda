package safety

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modeltier/modeltier/tier"
)

const gib = "1073741824"

func stat2(inactive, active string) []string {
	return []string{"memory.stat", "anon 5\ninactive_file " + inactive + "\nactive_file " + active + "\nworkingset_refault_file 9\n"}
}

func TestMemory_Cgroups_TheTightestLimitedAncestorBounds(t *testing.T) {
	const root = "sys/fs/cgroup"
	for _, c := range []struct {
		name      string
		files     []map[string]string
		available tier.Bytes
		total     tier.Bytes
		source    string
		note      string
	}{
		{
			name:      "v2, no limit anywhere",
			files:     []map[string]string{cgroups("0::/a/b\n", v2Mount), v2(root+"/a", "", "5"), v2(root+"/a/b", "", "5")},
			available: 12 * tier.GiB, total: 16 * tier.GiB, source: "host",
		},
		{
			name:      "v2, file pages are not taken",
			files:     []map[string]string{cgroups("0::/a\n", v2Mount), v2(root+"/a", "8589934592", "4294967296", stat2(gib, gib)...)},
			available: 6 * tier.GiB, total: 8 * tier.GiB, source: "/sys/fs/cgroup/a",
		},
		{
			name: "v2, an ancestor is tighter than the own one",
			files: []map[string]string{
				cgroups("0::/a/b/c\n", v2Mount),
				v2(root+"/a", "8589934592", "6442450944"), v2(root+"/a/b", "", "6442450944"), v2(root+"/a/b/c", "4294967296", gib),
			},
			available: 2 * tier.GiB, total: 4 * tier.GiB, source: "/sys/fs/cgroup/a",
		},
		{
			name: "v2, the own one is tighter than an ancestor",
			files: []map[string]string{
				cgroups("0::/a/b\n", v2Mount), v2(root+"/a", "8589934592", gib), v2(root+"/a/b", "2147483648", gib),
			},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/sys/fs/cgroup/a/b",
		},
		{
			name:      "v2, memory.high bounds like memory.max",
			files:     []map[string]string{cgroups("0::/a\n", v2Mount), v2(root+"/a", "", gib, "memory.high", "2147483648\n")},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/sys/fs/cgroup/a",
		},
		{
			name:      "v2, use above the limit leaves nothing",
			files:     []map[string]string{cgroups("0::/a\n", v2Mount), v2(root+"/a", gib, "2147483648")},
			available: 0, total: 1 * tier.GiB, source: "/sys/fs/cgroup/a",
		},
		{
			name:      "v2, more file pages than use",
			files:     []map[string]string{cgroups("0::/a\n", v2Mount), v2(root+"/a", gib, "5", stat2("9223372036854775807", "9223372036854775807")...)},
			available: 1 * tier.GiB, total: 1 * tier.GiB, source: "/sys/fs/cgroup/a",
		},
		{
			name:      "v2, limit of nothing at all",
			files:     []map[string]string{cgroups("0::/a\n", v2Mount), v2(root+"/a", "0", "4096")},
			available: 0, total: 0, source: "/sys/fs/cgroup/a",
		},
		{
			name:      "v2, the controller is not enabled in the own group",
			files:     []map[string]string{cgroups("0::/a/leaf\n", v2Mount), v2(root+"/a", "2147483648", gib), {root + "/a/leaf/cgroup.procs": "1\n"}},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/sys/fs/cgroup/a",
		},
		{
			name:      "v2, the root of a cgroup namespace has the limit",
			files:     []map[string]string{cgroups("0::/\n", v2Mount), v2(root, "2147483648", gib)},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/sys/fs/cgroup",
		},
		{
			name: "v2, mounted elsewhere, with a blank in the path",
			files: []map[string]string{
				cgroups("0::/a b\n", "30 24 0:26 / /mnt/my\\040cgroups rw - cgroup2 none rw\n"),
				v2("mnt/my cgroups/a b", "2147483648", gib),
			},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/mnt/my cgroups/a b",
		},
		{
			name: "v2, mount root is the own group, as in a container without a namespace",
			files: []map[string]string{
				cgroups("0::/kubepods/pod1/c1\n", "30 24 0:26 /kubepods/pod1/c1 /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"),
				v2(root, "2147483648", gib),
			},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/sys/fs/cgroup",
		},
		{
			name: "v2, mount root is an ancestor's",
			files: []map[string]string{
				cgroups("0::/kubepods/pod1/c1\n", "30 24 0:26 /kubepods /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"),
				v2(root, "", gib), v2(root+"/pod1", "2147483648", gib), v2(root+"/pod1/c1", "", "1"),
			},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/sys/fs/cgroup/pod1",
		},
		{
			name: "v2, a name that only begins like the mount root's",
			files: []map[string]string{
				cgroups("0::/kubepods2/c1\n", "30 24 0:26 /kubepods /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"),
				v2(root, "", gib), v2(root+"2/c1", gib, gib), v2(root+"/c1", gib, gib),
			},
			available: 12 * tier.GiB, total: 16 * tier.GiB, source: "host", note: "outside of what it can see",
		},
		{
			name: "v2, the process is outside of its cgroup namespace",
			files: []map[string]string{
				cgroups("0::/../other\n", v2Mount), v2(root, "2147483648", gib), v2("sys/fs/other", gib, gib),
			},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/sys/fs/cgroup", note: "outside of what it can see",
		},
		{
			name: "v2, our group was deleted",
			files: []map[string]string{
				cgroups("0::/a/gone (deleted)\n", v2Mount), v2(root+"/a", "2147483648", gib),
			},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/sys/fs/cgroup/a", note: "outside of what it can see",
		},
		{
			name:      "v2, mounted nowhere that can be seen",
			files:     []map[string]string{cgroups("0::/a\n", "22 1 0:20 / /proc rw - proc proc rw\n")},
			available: 12 * tier.GiB, total: 16 * tier.GiB, source: "host", note: "outside of what it can see",
		},
		{
			name: "v2, two mounts: the one that shows more of our ancestors",
			files: []map[string]string{
				cgroups("0::/a/b\n", "29 24 0:26 /a/b /inner rw - cgroup2 cgroup2 rw\n"+v2Mount),
				v2("inner", "", gib), v2(root+"/a", "2147483648", gib), v2(root+"/a/b", "", gib),
			},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/sys/fs/cgroup/a",
		},
		{
			name: "v2, two mounts: the first shows another group",
			files: []map[string]string{
				cgroups("0::/a/b\n", "29 24 0:26 /x /other rw - cgroup2 cgroup2 rw\n30 24 0:26 /a/b /inner rw - cgroup2 cgroup2 rw\n"),
				v2("other", gib, gib), v2("inner", "2147483648", gib),
			},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/inner",
		},
		{
			name: "v1, no limit anywhere",
			files: []map[string]string{
				cgroups("4:memory:/a\n0::/\n", v1Mount), v1(root+"/memory", "", "5"), v1(root+"/memory/a", "", "5"),
			},
			available: 12 * tier.GiB, total: 16 * tier.GiB, source: "host",
		},
		{
			name: "v1, an old kernel's number for no limit",
			files: []map[string]string{
				cgroups("4:memory:/a\n", v1Mount), v1(root+"/memory/a", "18446744073709551615", "5"),
			},
			available: 12 * tier.GiB, total: 16 * tier.GiB, source: "host",
		},
		{
			name: "v1, totals with the groups below",
			files: []map[string]string{
				cgroups("9:cpu,cpuacct:/x\n4:hugetlb,memory:/a\n0::/y\n", v1Mount),
				v1(root+"/memory/a", "4294967296", "3221225472", "memory.stat", "inactive_file 1\nactive_file 2\nhierarchical_memory_limit 4294967296\ntotal_inactive_file "+gib+"\ntotal_active_file "+gib+"\n"),
			},
			available: 3 * tier.GiB, total: 4 * tier.GiB, source: "/sys/fs/cgroup/memory/a",
		},
		{
			name: "v1, an ancestor is tighter than the own one",
			files: []map[string]string{
				cgroups("4:memory:/a/b\n", v1Mount), v1(root+"/memory", "", "5"),
				v1(root+"/memory/a", "2147483648", gib), v1(root+"/memory/a/b", "4294967296", "5"),
			},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/sys/fs/cgroup/memory/a",
		},
		{
			name: "v1, the kernel knows of a limit that cannot be seen",
			files: []map[string]string{
				cgroups("4:memory:/docker/c1\n", "35 31 0:32 /docker/c1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"),
				v1(root+"/memory", "", gib, "memory.stat", "hierarchical_memory_limit 2147483648\ntotal_inactive_file 0\n"),
			},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/sys/fs/cgroup/memory",
		},
		{
			name: "v1, memory and swap together are tighter",
			files: []map[string]string{
				cgroups("4:memory:/a\n", v1Mount),
				v1(root+"/memory/a", "4294967296", gib, "memory.memsw.limit_in_bytes", "4294967296\n", "memory.memsw.usage_in_bytes", "3221225472\n"),
			},
			available: 1 * tier.GiB, total: 4 * tier.GiB, source: "/sys/fs/cgroup/memory/a",
		},
		{
			name: "hybrid: v2 is mounted, memory is in v1",
			files: []map[string]string{
				cgroups("4:memory:/a\n1:name=systemd:/s\n0::/s\n", "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"+v1Mount+
					"37 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"),
				v1(root+"/memory/a", "2147483648", gib),
				v2(root+"/unified/s", gib, gib), // no limits of memory: they are version 1's
			},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/sys/fs/cgroup/memory/a",
		},
		{
			name:      "no cgroups in this kernel",
			available: 12 * tier.GiB, total: 16 * tier.GiB, source: "host",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newTree(t, append([]map[string]string{machine()}, c.files...)...).read()
			if m.Available != c.available || m.Total != c.total || m.Source != c.source {
				t.Errorf("available %v of %v by %q, want %v of %v by %q", m.Available, m.Total, m.Source, c.available, c.total, c.source)
			}
			if got := notesContain(m, "outside"); got != (c.note != "") || c.note != "" && !notesContain(m, c.note) {
				t.Errorf("notes %q, want one with %q", m.Notes, c.note)
			}
			if m.Pressure.Level != tier.PressureLow {
				t.Errorf("pressure %+v", m.Pressure)
			}
		})
	}
}

// filesOf is a memory.stat: file pages on the two lists, and of them those that are
// dirty and those that are mapped.
func filesOf(unified bool, inactive, active, dirty, mapped string) []string {
	prefix, names := "total_", [...]string{"dirty", "mapped_file"}
	if unified {
		prefix, names = "", [...]string{"file_dirty", "file_mapped"}
	}
	return []string{"memory.stat", fmt.Sprintf("%[1]sinactive_file %[2]s\n%[1]sactive_file %[3]s\n%[1]s%[4]s %[5]s\n%[1]s%[6]s %[7]s\n",
		prefix, inactive, active, names[0], dirty, names[1], mapped)}
}

func TestMemory_FilePagesThatAreMapped_TheStrictestGroupSays(t *testing.T) {
	tr := newTree(t, machine(), cgroups("0::/a/b\n", v2Mount),
		v2("sys/fs/cgroup/a", "8589934592", "7516192768", filesOf(true, gib, "4294967296", "0", "4294967296")...), // 6 GiB, 2 not mapped
		v2("sys/fs/cgroup/a/b", "6442450944", "2147483648", filesOf(true, "0", gib, "0", gib)...))                 // 5 GiB, 4 not mapped
	if m := tr.read(); m.Available != 5*tier.GiB || m.Mapped != 3*tier.GiB {
		t.Errorf("%v available, %v of it mapped", m.Available, m.Mapped)
	}
}

// A page cache that is warm with files that were read twice is on the active list,
// and no less there to be dropped.
func TestMemory_CleanFilePages_CountOnceUnlessTheKernelKeepsThem(t *testing.T) {
	const limit, use = "4294967296", "4294967296" // full to the brim
	for _, c := range []struct {
		name                     string
		v1, v2                   string
		available, mapped, dirty tier.Bytes
	}{
		{"active", "total_cache 3221225472\ntotal_active_file 3221225472\n",
			"file 3221225472\nactive_file 3221225472\n", 3 * tier.GiB, 0, 0},
		{"both lists", "total_cache 3221225472\ntotal_active_file 2147483648\ntotal_inactive_file 1073741824\n",
			"file 3221225472\nactive_file 2147483648\ninactive_file 1073741824\n", 3 * tier.GiB, 0, 0},
		{"dirty and being written", "total_active_file 3221225472\ntotal_dirty 1073741824\ntotal_writeback 1073741824\n",
			"active_file 3221225472\nfile_dirty 1073741824\nfile_writeback 1073741824\n", 1 * tier.GiB, 0, 2 * tier.GiB},
		{"mapped", "total_cache 3221225472\ntotal_active_file 3221225472\ntotal_mapped_file 1073741824\n",
			"file 3221225472\nactive_file 3221225472\nfile_mapped 1073741824\n", 3 * tier.GiB, 1 * tier.GiB, 0},
		{"shared memory, mapped", "total_cache 3221225472\ntotal_shmem 2147483648\ntotal_active_file 1073741824\ntotal_mapped_file 2147483648\n",
			"file 3221225472\nshmem 2147483648\nactive_file 1073741824\nfile_mapped 2147483648\n", 1 * tier.GiB, 0, 0},
		{"locked, and so mapped", "total_cache 3221225472\ntotal_unevictable 2147483648\ntotal_active_file 1073741824\ntotal_mapped_file 2147483648\n",
			"file 3221225472\nunevictable 2147483648\nactive_file 1073741824\nfile_mapped 2147483648\n", 1 * tier.GiB, 0, 0},
		{"of the group alone", "cache 3221225472\nactive_file 3221225472\n", "", 0, 0, 0},
	} {
		for _, version := range []string{"v1", "v2", "v2 by memory.high"} {
			files := []map[string]string{cgroups("4:memory:/a\n", v1Mount), v1("sys/fs/cgroup/memory/a", limit, use, "memory.stat", c.v1)}
			if version != "v1" {
				files = []map[string]string{cgroups("0::/a\n", v2Mount), v2("sys/fs/cgroup/a", limit, use, "memory.stat", c.v2)}
			}
			if version == "v2 by memory.high" {
				files[1] = v2("sys/fs/cgroup/a", "", use, "memory.stat", c.v2, "memory.high", limit+"\n")
			}
			m := newTree(t, append([]map[string]string{machine()}, files...)...).read()
			if m.Available != c.available || m.Mapped != c.mapped || m.Dirty != c.dirty {
				t.Errorf("%s, %s: %v available, %v of it mapped, %v dirty; want %v, %v, %v", c.name, version, m.Available, m.Mapped, m.Dirty, c.available, c.mapped, c.dirty)
			}
		}
	}
}

func TestMemory_TheMachinesFilePages_AsMemAvailableAndLessWhatIsDirty(t *testing.T) {
	m := newTree(t, machine(), map[string]string{"proc/meminfo": machine()["proc/meminfo"] +
		"Active(file): 4194304 kB\nInactive(file): 2097152 kB\nShmem: 1048576 kB\nMapped: 3145728 kB\nDirty: 524288 kB\nWriteback: 524288 kB\n"}).read()
	// Of the 8 GiB that are cached 6 are on the lists and 1 is shared memory: 1 is locked.
	if m.Available != 11*tier.GiB || m.Mapped != 1*tier.GiB || m.Dirty != 1*tier.GiB {
		t.Errorf("%v available, %v of it mapped, %v dirty", m.Available, m.Mapped, m.Dirty)
	}
}

func TestMemory_ZFSCache_CountsDownToItsFloor(t *testing.T) {
	const arcstats = "13 1 0x01 147 39984 7311166512 1184893218424\nname                            type data\nhits                            4    99\n" +
		"c                               4    4294967296\nc_min                           4    1073741824\nc_max                           4    8589934592\nsize                            4    %s\n"
	for size, want := range map[string]tier.Bytes{
		"3221225472":           14 * tier.GiB,
		"1073741824":           12 * tier.GiB,
		"5":                    12 * tier.GiB,
		"18446744073709551615": 16 * tier.GiB, // no more than there is
	} {
		m := newTree(t, machine(), map[string]string{"proc/spl/kstat/zfs/arcstats": fmt.Sprintf(arcstats, size)}).read()
		if m.Available != want || notesContain(m, "ZFS") != (want > 12*tier.GiB) {
			t.Errorf("a cache of %s bytes: %v available, want %v; notes %q", size, m.Available, want, m.Notes)
		}
	}
	p := newTree(t, machine(), map[string]string{"proc/spl/kstat/zfs/arcstats": "size 4 much\n"}).probe()
	if _, err := p.Memory(t.Context()); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("error is %v", err)
	}
}

func TestLocate_PathsThatLeadOut_NeverFollowed(t *testing.T) {
	everything := func(mount, string) bool { return true }
	for _, own := range []string{"/..", "/../x", "/a/../../x", "/a/..", "/../../../../etc"} {
		p, _ := locate([]mount{{root: "/", point: "/m", unified: true}}, true, own, everything)
		if p.below != "" || p.whole {
			t.Errorf("%s: %+v", own, p)
		}
	}
	// Dots inside of a name are part of it.
	if p, _ := locate([]mount{{root: "/", point: "/m"}}, false, "/a..b/..c", everything); p.below != "/a..b/..c" {
		t.Errorf("%+v", p)
	}
	// The mount is above our namespace's root, and so are we.
	if p, _ := locate([]mount{{root: "/../pod", point: "/m"}}, false, "/../pod/c", everything); p.below != "/c" || !p.whole {
		t.Errorf("%+v", p)
	}
}

func TestParseMounts_ThisMachinesCapture_MemoryControllerFound(t *testing.T) {
	text := strings.Join([]string{
		"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755",
		"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory",
		"38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime shared:1 master:2 - cgroup cgroup rw,blkio",
		"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw",
		"50 1 0:50 / /mnt rw - fuse.odd -\\040x rw",
		"", "nonsense",
	}, "\n")
	got, err := parseMounts("mountinfo", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []mount{{"/", "/sys/fs/cgroup/memory", false}, {"/", "/sys/fs/cgroup/unified", true}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mount{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMemory_CgroupBoundsSwap(t *testing.T) {
	disk := map[string]string{"proc/swaps": "Filename Type Size Used Priority\n/dev/sda2 partition 8388608 0 -2\n/dev/zram0 partition 4194304 0 100\n"}
	for _, c := range []struct {
		name        string
		files       []map[string]string
		total, free tier.Bytes
	}{
		{"v2 swap limit", []map[string]string{
			cgroups("0::/a\n", v2Mount), v2("sys/fs/cgroup/a", "", "5", "memory.swap.max", "2147483648\n", "memory.swap.current", gib+"\n"),
		}, 2 * tier.GiB, 1 * tier.GiB},
		{"v2 no swap at all", []map[string]string{
			cgroups("0::/a\n", v2Mount), v2("sys/fs/cgroup/a", "", "5", "memory.swap.max", "0\n"),
		}, 0, 0},
		{"v2 without swap accounting", []map[string]string{
			cgroups("0::/a\n", v2Mount), {"sys/fs/cgroup/a/memory.max": "max\n", "sys/fs/cgroup/a/memory.current": "1\n"},
		}, 8 * tier.GiB, 8 * tier.GiB},
		{"v1 memory and swap", []map[string]string{
			cgroups("4:memory:/a\n", v1Mount),
			v1("sys/fs/cgroup/memory/a", "4294967296", gib, "memory.memsw.limit_in_bytes", "6442450944\n", "memory.memsw.usage_in_bytes", "2147483648\n"),
		}, 2 * tier.GiB, 1 * tier.GiB},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newTree(t, append([]map[string]string{machine(), disk}, c.files...)...).read()
			if m.SwapTotal != c.total || m.SwapFree != c.free {
				t.Errorf("swap %v free of %v, want %v of %v", m.SwapFree, m.SwapTotal, c.free, c.total)
			}
			if m.CompressedSwapTotal > 4*tier.GiB || c.total < 4*tier.GiB && m.CompressedSwapTotal > c.total {
				t.Errorf("compressed swap %v", m.CompressedSwapTotal)
			}
		})
	}
}

func TestMemory_StallsOfOwnGroup_CountWithOrWithoutALimit(t *testing.T) {
	group := func(limit string) tier.Pressure {
		return newTree(t, machine(), cgroups("0::/a\n", v2Mount), map[string]string{
			"proc/pressure/memory": "some avg10=1.00 avg60=9.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
		}, v2("sys/fs/cgroup/a", limit, gib, "memory.pressure", "some avg10=30.00 avg60=5.00 avg300=0.00 total=0\nfull avg10=8.00 avg60=2.00 avg300=0.00 total=0\n")).read().Pressure
	}
	want := tier.Pressure{HasPSI: true, Some10: 30, Some60: 9, Full10: 8, Full60: 2, Level: tier.PressureHigh, Stalled: tier.PressureHigh, Reading: true}
	for _, limit := range []string{"2147483648", "", "17179869185"} { // the last is more than the machine has
		if diff := cmp.Diff(want, group(limit)); diff != "" {
			t.Errorf("group with limit %q (-want +got):\n%s", limit, diff)
		}
	}
}

func TestMemory_GroupRunsIntoItsLimit_HighOnlyWithoutFilePages(t *testing.T) {
	type step struct {
		use, inactive, active string
		hits                  string
		want                  tier.PressureLevel
	}
	steps := []step{
		{gib, "0", "0", "5", tier.PressureLow},                      // full, but when that was is not known
		{gib, "0", "0", "5", tier.PressureLow},                      // and not again
		{gib, "500000000", "500000000", "316802", tier.PressureLow}, // reading files
		{gib, "30000000", "30000000", "316803", tier.PressureHigh},  // nothing left to drop
		{gib, "30000000", "30000000", "316803", tier.PressureLow},
	}
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			tr := newTree(t, machine())
			files := func(s step) map[string]string {
				if version == "v2" {
					return v2("sys/fs/cgroup/a", gib, s.use, append(stat2(s.inactive, s.active),
						"memory.events", "low 0\nhigh 0\nmax "+s.hits+"\noom 0\noom_kill 0\n")...)
				}
				return v1("sys/fs/cgroup/memory/a", gib, s.use, "memory.failcnt", s.hits+"\n", "memory.stat",
					"hierarchical_memory_limit 1073741824\ntotal_inactive_file "+s.inactive+"\ntotal_active_file "+s.active+"\n")
			}
			place := cgroups("0::/a\n", v2Mount)
			if version == "v1" {
				place = cgroups("4:memory:/a\n", v1Mount)
			}
			for name, text := range place {
				tr.write(name, text)
			}
			p := tr.probe()
			for i, s := range steps {
				for name, text := range files(s) {
					tr.write(name, text)
				}
				if m := mustRead(t, p); m.Pressure.Level != s.want {
					t.Errorf("step %d: level %v, want %v", i, m.Pressure.Level, s.want)
				}
			}
		})
	}
}

func TestMemory_KillsInOurGroups_CountedThereAndNotElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := func(oom, kills string) []string {
			return []string{"memory.events", "max 0\noom " + oom + "\noom_kill " + kills + "\n"}
		}
		tr := newTree(t, machine(), cgroups("0::/a/b\n", v2Mount),
			v2("sys/fs/cgroup/a", "4294967296", gib, events("7", "5")...), v2("sys/fs/cgroup/a/b", "2147483648", "1", events("2", "1")...))
		p := tr.probe()
		if m := mustRead(t, p); m.Pressure.OOMKills != 5 || m.Pressure.Level != tier.PressureLow {
			t.Fatalf("%+v", m.Pressure)
		}
		tr.write("proc/vmstat", "oom_kill 100\n") // elsewhere
		if m := mustRead(t, p); m.Pressure.OOMKills != 5 || m.Pressure.Level != tier.PressureLow {
			t.Errorf("a kill elsewhere counts: %+v", m.Pressure)
		}
		tr.write("sys/fs/cgroup/a/memory.events", "max 0\noom 8\noom_kill 5\n")
		if m := mustRead(t, p); m.Pressure.Level != tier.PressureHigh {
			t.Errorf("a failed allocation does not count: %+v", m.Pressure)
		}
		time.Sleep(2 * time.Minute)
		tr.write("sys/fs/cgroup/a/memory.events", "max 0\noom 8\noom_kill 6\n")
		if m := mustRead(t, p); m.Pressure.OOMKills != 6 || m.Pressure.Level != tier.PressureHigh {
			t.Errorf("a kill does not count: %+v", m.Pressure)
		}
	})
}

func TestMemory_KillsInVersion1_SumOfOurGroups(t *testing.T) {
	kills := func(n string) []string {
		return []string{"memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill " + n + "\n"}
	}
	m := newTree(t, machine(), cgroups("4:memory:/a/b\n", v1Mount),
		v1("sys/fs/cgroup/memory/a", "4294967296", gib, kills("3")...), v1("sys/fs/cgroup/memory/a/b", "2147483648", "1", kills("4")...)).read()
	if m.Pressure.OOMKills != 7 {
		t.Errorf("%d kills, want 7", m.Pressure.OOMKills)
	}
}

func TestMemory_LimitChanges_SeenAtOnce(t *testing.T) {
	tr := newTree(t, machine(), cgroups("0::/a\n", v2Mount), v2("sys/fs/cgroup/a", "", gib))
	p := tr.probe()
	if m := mustRead(t, p); m.Source != "host" {
		t.Fatalf("bounded by %q", m.Source)
	}
	tr.write("sys/fs/cgroup/a/memory.max", "2147483648\n")
	if m := mustRead(t, p); m.Available != tier.GiB {
		t.Errorf("available %v", m.Available)
	}
}

func TestMemory_MovedToAnotherCgroup_SeenAtOnce(t *testing.T) {
	tr := newTree(t, machine(), cgroups("0::/a\n", v2Mount),
		v2("sys/fs/cgroup/a", "4294967296", gib), v2("sys/fs/cgroup/b", "2147483648", gib))
	p := tr.probe()
	if m := mustRead(t, p); m.Available != 3*tier.GiB {
		t.Fatalf("available %v", m.Available)
	}
	tr.write("proc/self/cgroup", "0::/b\n")
	if err := os.RemoveAll(tr.dir + "/sys/fs/cgroup/a"); err != nil {
		t.Fatal(err)
	}
	if m := mustRead(t, p); m.Available != tier.GiB || m.Source != "/sys/fs/cgroup/b" {
		t.Errorf("available %v by %s", m.Available, m.Source)
	}
}

func TestMemory_NewPlaceCannotBeFound_ErrorUntilItCan(t *testing.T) {
	tr := newTree(t, machine(), cgroups("0::/a\n", v2Mount),
		v2("sys/fs/cgroup/a", "4294967296", gib), v2("sys/fs/cgroup/b", "2147483648", gib))
	p := tr.probe()
	mustRead(t, p)
	tr.write("proc/self/cgroup", "0::/b\n")
	tr.write("proc/self/mountinfo", "30 24 0:26 - cgroup2 cgroup2 rw\n")
	for range 2 { // what is not known must not pass for no limit
		if m, err := p.Memory(t.Context()); !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("error is %v, reading %+v", err, m)
		}
	}
	tr.write("proc/self/mountinfo", v2Mount)
	if m := mustRead(t, p); m.Available != tier.GiB || m.Source != "/sys/fs/cgroup/b" {
		t.Errorf("available %v by %s", m.Available, m.Source)
	}
}

func TestMemory_LaidOutAgain_HitsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTree(t, machine(), cgroups("0::/a\n", v2Mount), v2("sys/fs/cgroup/a", gib, gib))
		p := tr.probe()
		mustRead(t, p)
		time.Sleep(layoutAge)
		tr.write("sys/fs/cgroup/a/memory.events", "max 1\noom 0\noom_kill 0\n")
		if m := mustRead(t, p); m.Pressure.Level != tier.PressureHigh {
			t.Errorf("%+v", m.Pressure)
		}
	})
}

func TestMemory_ControllerEnabledLater_SeenWithinHalfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTree(t, machine(), cgroups("0::/a\n", v2Mount), map[string]string{"sys/fs/cgroup/a/cgroup.procs": "1\n"})
		p := tr.probe()
		if m := mustRead(t, p); m.Source != "host" || !notesContain(m, "no pressure") {
			t.Fatalf("%+v", m)
		}
		for name, text := range v2("sys/fs/cgroup/a", "2147483648", gib) {
			tr.write(name, text)
		}
		tr.write("proc/pressure/memory", "some avg10=1.00 avg60=0.00 avg300=0.00 total=0\n")
		time.Sleep(layoutAge)
		if m := mustRead(t, p); m.Available != tier.GiB || m.Pressure.Some10 != 1 || notesContain(m, "no pressure") {
			t.Errorf("%+v", m)
		}
	})
}

func TestMemory_GroupVanishesWhileRead_FoundAgain(t *testing.T) {
	tr := newTree(t, machine(), cgroups("0::/a/b\n", v2Mount),
		v2("sys/fs/cgroup/a", "4294967296", gib), v2("sys/fs/cgroup/a/b", "", gib))
	p := tr.probe()
	mustRead(t, p)
	// The layout is fresh, but the group is gone.
	if err := os.RemoveAll(tr.dir + "/sys/fs/cgroup/a/b"); err != nil {
		t.Fatal(err)
	}
	m := mustRead(t, p)
	if m.Source != "/sys/fs/cgroup/a" || m.Available != 3*tier.GiB || !notesContain(m, "outside") {
		t.Errorf("%+v", m)
	}
}

func TestMemory_LimitMayNotBeRead_NotedAndTheRestCounts(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	tr := newTree(t, machine(), cgroups("0::/a/b\n", v2Mount), v2("sys/fs/cgroup/a", "4294967296", gib), v2("sys/fs/cgroup/a/b", "2147483648", gib))
	if err := os.Chmod(tr.dir+"/sys/fs/cgroup/a/b/memory.max", 0); err != nil {
		t.Fatal(err)
	}
	if m := tr.read(); m.Available != 3*tier.GiB || !notesContain(m, "may not be read") {
		t.Errorf("%+v", m)
	}
}
