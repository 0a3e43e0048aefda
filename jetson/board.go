package jetson

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/prometheus/procfs"

	"github.com/modeltier/modeltier/tier"
)

// ErrNotJetson: the machine is none of NVIDIA's Tegra boards.
var ErrNotJetson = errors.New("not a Jetson board")

// Options say where a board is looked for. The zero value is the machine that
// the process runs on.
type Options struct {
	// Root stands before /proc, /sys, /etc and all else that is read. "": nothing.
	Root string
	// Tegrastats is how tegrastats is run.
	Tegrastats TegrastatsConfig
}

// Board is what was found out about the board when it was detected. It does not
// change afterwards; its methods may be called from any goroutine.
type Board struct {
	// Model is the name in the device tree: "NVIDIA Jetson Orin Nano Developer
	// Kit", …. "": there is no device tree to read.
	Model string
	// Family is what the board is, by the part number of its module.
	Family Family
	// SoC is the chip: "tegra234" (Orin), "tegra264" (Thor), ….
	SoC string
	// Memory is what the system sees: less than what the module has, since
	// firmware and devices keep a part.
	Memory tier.Bytes
	// Release is the L4T release. Zero: not known, as in most containers.
	Release Release
	// Power is the power mode in force and PowerModes are those to choose from, in
	// the order of nvpmodel.conf. Zero and empty: not known.
	Power      PowerMode
	PowerModes []PowerMode
	// Swaps are the swap devices in use, zram among them.
	Swaps []Swap
	// Root is the device of the root file system.
	Root Storage
	// NVMe says that there is an NVMe disk, the root or another.
	NVMe bool
	// Desktop says that the board boots into its graphical desktop.
	Desktop bool
	// LockLimit is how many bytes this process may lock in memory;
	// tier.Unlimited where there is no bound. Not Known: /proc does not say.
	LockLimit Opt[tier.Bytes]
	// Faults say in words what could not be found out, and why.
	Faults []string

	root  string
	stats *Tegrastats
	slow  throttles
}

// standInInterval is that of a tegrastats that stands in for /proc/meminfo. Its
// first line then comes in time for whoever gives a probe a second.
const standInInterval = 250 * time.Millisecond

// Detect finds out what board this is. On any other machine the error unwraps to
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
	b.measureMemory()
	if _, err := readMemory(b.path("proc"), time.Now()); absent(err) && o.Tegrastats.Interval == 0 {
		o.Tegrastats.Interval = standInInterval
	}
	b.stats = NewTegrastats(o.Tegrastats)
	if err := b.readPower(); err != nil {
		b.fault("power mode", err)
	}
	if err := b.readSwaps(); err != nil {
		b.fault("swap", err)
	}
	var err error
	if b.Root, err = b.StorageOf(string(filepath.Separator)); err != nil {
		b.fault("root device", err)
	}
	b.NVMe = len(glob(root, "sys/class/nvme/nvme*")) > 0
	b.Desktop = b.graphical()
	b.slow = findThrottles(b.path("sys"))
	return b, nil
}

func (b *Board) path(names ...string) string {
	return filepath.Join(append([]string{b.root}, names...)...)
}

func (b *Board) fault(what string, err error) {
	b.Faults = append(b.Faults, fmt.Sprintf("The %s is not known: %v.", what, err))
}

// identify reads the device tree and the release.
func (b *Board) identify() error {
	tree := b.path("proc", "device-tree")
	compatible, errTree := readText(filepath.Join(tree, "compatible"))
	if errTree != nil { // where the link in /proc leads, for a system without /proc
		tree = b.path("sys", "firmware", "devicetree", "base")
		if text, err := readText(filepath.Join(tree, "compatible")); err == nil {
			compatible, errTree = text, nil
		}
	}
	b.Model, _ = readLine(filepath.Join(tree, "model"))
	release, errRelease := readLine(b.path("etc", "nv_tegra_release"))

	var part string
	b.SoC, part = readCompatible(compatible)
	b.Family = familyOf(part, b.Model, b.SoC)
	switch {
	case errRelease == nil:
		if b.Release, errRelease = ParseRelease(release); errRelease != nil {
			b.fault("release", errRelease)
		}
	case b.SoC != "":
		b.fault("release", errRelease)
	case errTree != nil:
		return fmt.Errorf("jetson: %w: neither a device tree nor /etc/nv_tegra_release: %w; %w", ErrNotJetson, errTree, errRelease)
	default:
		return fmt.Errorf("jetson: %w: the device tree names no Tegra chip (%.100q)", ErrNotJetson, b.Model)
	}
	return nil
}

// measureMemory reads how much memory there is and how much may be locked.
func (b *Board) measureMemory() {
	pfs, err := procfs.NewFS(b.path("proc"))
	if err != nil {
		b.fault("memory", err)
		return
	}
	if info, err := pfs.Meminfo(); err != nil {
		b.fault("memory", err)
	} else if info.MemTotalBytes != nil {
		b.Memory = bytes(info.MemTotalBytes)
	}
	self, err := pfs.Self()
	if err != nil {
		b.fault("lock limit", err)
		return
	}
	limits, err := self.Limits()
	if err != nil {
		b.fault("lock limit", err)
		return
	}
	// "unlimited" reads as the largest number.
	b.LockLimit = Some(bytes(&limits.LockedMemory))
}

// Tegrastats returns the board's tegrastats, which its probes share.
func (b *Board) Tegrastats() *Tegrastats { return b.stats }

// Probe returns a probe of the board's memory. Probes of one board share one
// tegrastats. Close it; a Manager that was given it does so.
func (b *Board) Probe() *Probe { return b.ProbeWith(ProbeOptions{}) }

// ProbeWith is Probe with options.
func (b *Board) ProbeWith(o ProbeOptions) *Probe {
	return newProbe(b.stats, b.slow, ownBytes{proc: b.path("proc")}, o)
}
