package safety

import (
	"strings"
	"testing"

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
			name: "v2, an ancestor is tighter than our own",
			files: []map[string]string{
				cgroups("0::/a/b/c\n", v2Mount),
				v2(root+"/a", "8589934592", "6442450944"), v2(root+"/a/b", "", "6442450944"), v2(root+"/a/b/c", "4294967296", gib),
			},
			available: 2 * tier.GiB, total: 4 * tier.GiB, source: "/sys/fs/cgroup/a",
		},
		{
			name: "v2, our own is tighter than an ancestor",
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
			name:      "v2, the controller is not enabled in our own group",
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
			name: "v2, mount root is our own group, as in a container without a namespace",
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
			name: "v2, we are outside of our cgroup namespace",
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
			name:      "v2, mounted nowhere that we see",
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
			name: "v1, an ancestor is tighter than our own",
			files: []map[string]string{
				cgroups("4:memory:/a/b\n", v1Mount), v1(root+"/memory", "", "5"),
				v1(root+"/memory/a", "2147483648", gib), v1(root+"/memory/a/b", "4294967296", "5"),
			},
			available: 1 * tier.GiB, total: 2 * tier.GiB, source: "/sys/fs/cgroup/memory/a",
		},
		{
			name: "v1, the kernel knows of a limit that we do not see",
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
				{root + "/unified/s/memory.pressure": "some avg10=99.00 avg60=0.00 avg300=0.00 total=0\n"},
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

func TestMemory_FilePagesInUse_TheStrictestGroupSays(t *testing.T) {
	tr := newTree(t, machine(), cgroups("0::/a/b\n", v2Mount),
		v2("sys/fs/cgroup/a", "8589934592", "7516192768", stat2(gib, "4294967296")...), // 6 GiB, strictly 2
		v2("sys/fs/cgroup/a/b", "6442450944", "2147483648", stat2("0", gib)...))        // 5 GiB, strictly 4
	if m := tr.read(); m.Available != 5*tier.GiB || m.Active != 3*tier.GiB {
		t.Errorf("%v available, %v in use", m.Available, m.Active)
	}
	if m := newTree(t, machine()).read(); m.Active != 0 {
		t.Errorf("%v in use without a limit", m.Active)
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
