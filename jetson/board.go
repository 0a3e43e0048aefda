package jetson

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"

	"github.com/modeltier/modeltier/tier"
)

// ErrNotJetson: the machine is not one of NVIDIA's Tegra boards.
var ErrNotJetson = errors.New("not a Jetson board")

// Options of detection. The zero value means the machine that the process runs on.
type Options struct {
	// Root is the folder that holds proc, sys and etc. "": the root folder.
	Root string
	// Tegrastats configures how tegrastats is run.
	Tegrastats TegrastatsConfig
}

// Board is what detection found. It does not change afterwards; its methods may
// be called from any goroutine.
type Board struct {
	// Model is the name in the device tree: "NVIDIA Jetson Orin Nano Developer
	// Kit", …. "": no device tree.
	Model string
	// Family is the kind of board, by the part number of its module.
	Family Family
	// SoC is the chip: "tegra234" (Orin), "tegra264" (Thor), ….
	SoC string
	// Memory is MemTotal: less than the module has, because firmware and devices
	// keep a part.
	Memory tier.Bytes
	// Release is the L4T release. Zero: not known, as in most containers.
	Release Release
	// Power is the current power mode and PowerModes are all modes, in the order of
	// nvpmodel.conf. Zero and empty: not known.
	Power      PowerMode
	PowerModes []PowerMode
	// Swaps are the active swap devices, zram included.
	Swaps []Swap
	// Root is the device of the root file system.
	Root Storage
	// NVMe reports an NVMe disk, the root or another.
	NVMe bool
	// Desktop reports that the board boots into its graphical desktop.
	Desktop bool
	// LockLimit is how many bytes this process may lock in memory; tier.Unlimited
	// for no bound. Not Known: /proc does not say.
	LockLimit Opt[tier.Bytes]
	// Faults are sentences about what could not be determined, and why.
	Faults []string

	root  string
	stats *Tegrastats
	slow  throttles
}

// standInInterval is used if tegrastats replaces a missing /proc/meminfo: its first
// line then arrives within the second that a Manager gives a probe.
const standInInterval = 250 * time.Millisecond

// Detect identifies the board. On any other machine the error unwraps to
// ErrNotJetson. It reads some files, runs nothing, and needs no privileges.
func Detect() (*Board, error) { return DetectIn(Options{}) }

// DetectIn is Detect with options.
func DetectIn(o Options) (*Board, error) {
	root := o.Root
	if root == "" {
		root = string(filepath.Separator)
	}
	b := &Board{root: root}
	if err := b.identify(); err != nil {
		return nil, err
	}
	m, err := readMemory(b.path("proc"))
	b.Memory = m.Total
	b.fault("memory", err)
	if absent(err) && o.Tegrastats.Interval == 0 {
		o.Tegrastats.Interval = standInInterval
	}
	b.stats = NewTegrastats(o.Tegrastats)
	b.fault("lock limit", b.readLockLimit())
	b.fault("power mode", b.readPower())
	b.Swaps, err = readSwaps(b.path("proc"))
	b.fault("swap", err)
	b.Root, err = b.StorageOf(string(filepath.Separator))
	b.fault("root device", err)
	b.NVMe = len(glob(root, "sys/class/nvme/nvme*")) > 0
	b.Desktop = b.graphical()
	b.slow = findThrottles(b.path("sys"))
	return b, nil
}

func (b *Board) path(names ...string) string {
	return filepath.Join(append([]string{b.root}, names...)...)
}

// fault notes why something is not known; a nil error is none.
func (b *Board) fault(what string, err error) {
	if err != nil {
		b.Faults = append(b.Faults, fmt.Sprintf("The %s is not known: %v.", what, err))
	}
}

// socPattern matches the chip in "compatible" of the device tree: strings that end in NUL.
var socPattern = regexp.MustCompile(`(?:^|\x00)nvidia,(tegra[^\x00]*)`)

// identify reads the device tree and the release.
func (b *Board) identify() error {
	tree := b.path("proc", "device-tree")
	compatible, errTree := readText(filepath.Join(tree, "compatible"))
	if errTree != nil { // the target of the link in /proc, for a system without /proc
		tree = b.path("sys", "firmware", "devicetree", "base")
		if text, err := readText(filepath.Join(tree, "compatible")); err == nil {
			compatible, errTree = text, nil
		}
	}
	b.Model, _ = readLine(filepath.Join(tree, "model"))
	if soc := socPattern.FindStringSubmatch(compatible); soc != nil {
		b.SoC = strings.Clone(soc[1])
	}
	b.Family = familyOf(compatible, b.Model, b.SoC)
	release, err := readLine(b.path("etc", "nv_tegra_release"))
	switch {
	case err == nil:
		b.Release, err = ParseRelease(release)
	case b.SoC != "":
	case errTree != nil:
		return fmt.Errorf("jetson: %w: neither a device tree nor /etc/nv_tegra_release: %w; %w", ErrNotJetson, errTree, err)
	default:
		return fmt.Errorf("jetson: %w: the device tree names no Tegra chip (%.100q)", ErrNotJetson, b.Model)
	}
	b.fault("release", err)
	return nil
}

// readLockLimit reads the limit of locked memory.
func (b *Board) readLockLimit() error {
	pfs, err := procfs.NewFS(b.path("proc"))
	if err != nil {
		return err
	}
	self, err := pfs.Self()
	if err != nil {
		return err
	}
	limits, err := self.Limits()
	if err == nil {
		b.LockLimit = Some(bytes(&limits.LockedMemory)) // "unlimited" reads as the largest number
	}
	return err
}

// Tegrastats returns the board's tegrastats, which its probes share.
func (b *Board) Tegrastats() *Tegrastats { return b.stats }

// Probe returns a probe of the board's memory. Close it; a Manager closes the
// probe that it was given.
func (b *Board) Probe() *Probe {
	own := ownBytes{proc: b.path("proc")}
	return &Probe{family: b.Family, stats: b.stats, slow: b.slow, own: own, bytes: own}
}

// Limits returns limits for the board's memory: those of [LimitsFor].
func (b *Board) Limits() tier.Limits { return LimitsFor(b.Memory) }

// LimitsFor returns limits for a board with that MemTotal. On an 8 GB Orin Nano,
// under every release, they are 5 GiB of ram, 10 GiB of swap and 1 GiB reserved. For
// other boards, with module the memory of the module (MemTotal rounded up to a power
// of two):
//
//	Reserved = module/8, between 512 MiB and 4 GiB
//	RAM      = module − module/16 − 1.5 GiB − Reserved
//	           module/16: at most what firmware and devices keep back
//	           (measured: 8 GB 0.5, 16 GB 0.7, 64 GB 2.6, 128 GB 5.2 GiB);
//	           1.5 GiB: kernel, drivers and services without a desktop
//	           (an idle Orin Nano uses 1.2 to 1.3 GiB),
//	           and at most MemTotal − Reserved − 1 GiB, for boards whose
//	           firmware keeps back more; in steps of 256 MiB
//	Swap     = 2 × RAM
//	MaxModel = Swap + Swap/20
//
// Swap counts weights that stay in their files, so it needs no swap device, and
// zram adds nothing to it. An unknown size (zero or less) gives tier.DefaultLimits.
func LimitsFor(seen tier.Bytes) tier.Limits {
	if seen <= 0 {
		return tier.DefaultLimits()
	}
	const maxMemory, step tier.Bytes = 1 << 50, 256 * tier.MiB // maxMemory keeps the arithmetic from overflowing
	seen = min(seen, maxMemory)
	module := tier.Bytes(1) << bits.Len64(uint64(seen-1))
	reserved := min(max(module/8, 512*tier.MiB), 4*tier.GiB)
	ram := min(module-module/16-3*tier.GiB/2-reserved, seen-reserved-1*tier.GiB)
	ram = max(ram/step*step, step)
	swap := 2 * ram
	return tier.Limits{RAM: ram, Swap: swap, Reserved: reserved, MaxModel: swap + swap/20}
}

// Family is a kind of board.
type Family string

const (
	UnknownFamily Family = ""
	Thor          Family = "Jetson AGX Thor"
	AGXOrin       Family = "Jetson AGX Orin"
	OrinNX        Family = "Jetson Orin NX"
	OrinNano      Family = "Jetson Orin Nano"
	AGXXavier     Family = "Jetson AGX Xavier"
	XavierNX      Family = "Jetson Xavier NX"
	TX2           Family = "Jetson TX2"
	TX1           Family = "Jetson TX1"
	Nano          Family = "Jetson Nano"
)

// String returns the name; "Tegra board" for UnknownFamily.
func (f Family) String() string { return cmp.Or(string(f), "Tegra board") }

// modules maps part numbers of modules to families, longer names before those that they
// contain (Orin Nano, Nano). A table of memory sizes would be wrong for later modules: the
// kernel knows them.
var modules = []struct {
	part   string // the start of a part number
	family Family
}{
	{"p3834-", Thor},
	{"p3701-", AGXOrin},
	{"p3767-0000", OrinNX},
	{"p3767-0001", OrinNX},
	{"p3767-", OrinNano}, // 0003 8 GB, 0004 4 GB, 0005 the developer kit's
	{"p2888-", AGXXavier},
	{"p3668-", XavierNX},
	{"p3310-", TX2},
	{"p3489-", TX2},
	{"p3636-", TX2}, // TX2 NX
	{"p2180-", TX1},
	{"p3448-", Nano},
}

// familyOf returns the family by a known part number in "compatible" of the device
// tree, such as "nvidia,p3768-0000+p3767-0005-super" (carrier and module; a carrier takes
// several modules), otherwise by the name of the model.
func familyOf(compatible, model, soc string) Family {
	for _, m := range modules {
		if strings.Contains(compatible, m.part) {
			return m.family
		}
	}
	for _, m := range modules {
		if strings.Contains(model, strings.TrimPrefix(string(m.family), "Jetson ")) {
			return m.family
		}
	}
	if soc == "tegra264" {
		return Thor // the chip of no other family
	}
	return UnknownFamily
}

// Release is a release of L4T, NVIDIA's Linux for Tegra.
type Release struct {
	Major    int    // 36 of R36.4.7
	Revision string // "4.7"
}

// IsZero reports whether the release is unknown.
func (r Release) IsZero() bool { return r == Release{} }

// String returns "R36.4.7", or "unknown".
func (r Release) String() string {
	if r.IsZero() {
		return "unknown"
	}
	return "R" + strconv.Itoa(r.Major) + "." + r.Revision
}

// JetPack returns the major version of the release's JetPack; "" if it is not known.
func (r Release) JetPack() string {
	switch {
	case r.Major >= 38:
		return "7"
	case r.Major >= 36:
		return "6"
	case r.Major >= 34:
		return "5"
	case r.Major == 31 || r.Major == 32:
		return "4"
	}
	return ""
}

var releasePattern = regexp.MustCompile(`^\s*#?\s*R(\d{1,3})\b[^,]*,(?:.*,)?\s*REVISION:\s*([\d.]+)\s*(?:,|$)`)

// ParseRelease reads the first line of /etc/nv_tegra_release:
// "# R36 (release), REVISION: 4.7, GCID: …". The error unwraps to
// tier.ErrInvalid.
func ParseRelease(line string) (Release, error) {
	if m := releasePattern.FindStringSubmatch(line); m != nil {
		if major, err := strconv.Atoi(m[1]); err == nil && major > 0 {
			return Release{Major: major, Revision: strings.Clone(m[2])}, nil
		}
	}
	return Release{}, &tier.InvalidError{
		Field: "nv_tegra_release", Value: strconv.Quote(line[:min(len(line), 64)]),
		Rule: `must be "# R36 (release), REVISION: 4.7, …"`,
	}
}

// maxFile bounds the read of each file that describes the board. The longest,
// nvpmodel.conf, has about 20 KiB.
const maxFile = 256 << 10

// readText returns at most the first maxFile bytes of a file.
func readText(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	return string(text), err
}

// readLine returns the first line of a file, without the blanks around it and the
// NUL that ends strings of the device tree.
func readLine(path string) (string, error) {
	text, err := readText(path)
	line, _, _ := strings.Cut(text, "\n")
	return strings.Trim(line, " \t\r\x00"), err
}

// glob returns the files below root that match, sorted. Pattern characters in the
// root's own name have no meaning.
func glob(root, pattern string) []string {
	found, err := fs.Glob(os.DirFS(root), pattern)
	if err != nil {
		return nil
	}
	for i := range found {
		found[i] = filepath.Join(root, filepath.FromSlash(found[i]))
	}
	return found
}
