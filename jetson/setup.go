package jetson

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"

	"github.com/modeltier/modeltier/tier"
)

// PowerMode is a power mode of nvpmodel. The ID of a mode differs between firmwares
// of the same board; the name does not.
type PowerMode struct {
	ID   int
	Name string // "15W", "25W", "MAXN_SUPER", …
}

// readPower reads nvpmodel's files: the modes in /etc/nvpmodel.conf and the current
// one in /var/lib/nvpmodel/status. It does not run nvpmodel, because some versions
// ask a question and wait for an answer.
func (b *Board) readPower() error {
	conf, err := readText(b.path("etc", "nvpmodel.conf"))
	if err != nil {
		return err
	}
	status, _ := readText(b.path("var", "lib", "nvpmodel", "status"))
	id := firstNumber(statusPattern, status)
	if id < 0 {
		id = firstNumber(defaultPattern, conf)
	}
	b.PowerModes = parsePowerModes(conf)
	for _, m := range b.PowerModes {
		if m.ID == id {
			b.Power = m
			return nil
		}
	}
	return fmt.Errorf("nvpmodel.conf has no mode %d", id)
}

var (
	modePattern    = regexp.MustCompile(`(?m)^<[ \t]*POWER_MODEL[ \t](?:.*[ \t])?ID=(\d+)[ \t](?:.*[ \t])?NAME=([^\s>]+)`)
	defaultPattern = regexp.MustCompile(`(?m)^<[ \t]*PM_CONFIG[ \t](?:.*[ \t])?DEFAULT=(\d+)`)
	statusPattern  = regexp.MustCompile(`pmode:(\d+)`)
	wattsPattern   = regexp.MustCompile(`(?:^|_)(\d{1,3})W(?:_|$)`) // "25W", "MODE_25W_6CORE"
)

// firstNumber returns the number that the first match has; -1: there is none.
func firstNumber(pattern *regexp.Regexp, text string) int {
	if m := pattern.FindStringSubmatch(text); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			return n
		}
	}
	return -1
}

// parsePowerModes reads the lines "< POWER_MODEL ID=0 NAME=15W >" of nvpmodel.conf.
func parsePowerModes(conf string) (modes []PowerMode) {
	for _, m := range modePattern.FindAllStringSubmatch(conf, -1) {
		if id, err := strconv.Atoi(m[1]); err == nil {
			modes = append(modes, PowerMode{ID: id, Name: strings.Clone(m[2])})
		}
	}
	return modes
}

// highestPower returns the mode without a power cap, otherwise the one with the
// highest cap. It reports false if no name states one.
func highestPower(modes []PowerMode) (PowerMode, bool) {
	best, highest := PowerMode{}, 0
	for _, m := range modes {
		power := firstNumber(wattsPattern, m.Name)
		switch {
		case m.Name == "MAXN_SUPER":
			power = 1 << 21
		case strings.HasPrefix(m.Name, "MAXN"):
			power = 1 << 20
		}
		if power > highest {
			best, highest = m, power
		}
	}
	return best, highest > 0
}

// Swap is an active swap device.
type Swap struct {
	Path string
	// Zram: compressed memory, which is no capacity for weights.
	Zram       bool
	Size, Used tier.Bytes
}

// readSwaps returns the active swap devices from the proc file system at proc.
func readSwaps(proc string) ([]Swap, error) {
	pfs, err := procfs.NewFS(proc)
	if err != nil {
		return nil, err
	}
	lines, err := pfs.Swaps()
	if err != nil {
		return nil, err
	}
	var out []Swap
	for _, s := range lines {
		size := kibibytes(s.Size)
		used := min(kibibytes(s.Used), size)
		out = append(out, Swap{Path: s.Filename, Zram: strings.HasPrefix(s.Filename, "/dev/zram"), Size: size, Used: used})
	}
	return out, nil
}

// kibibytes returns that many KiB, saturated; a negative number counts as none.
func kibibytes(n int) tier.Bytes {
	return tier.Bytes(min(max(int64(n), 0), math.MaxInt64>>10)) * tier.KiB
}

// sumSwaps returns the sums of size and use of swap on disk and of zram.
func sumSwaps(swaps []Swap) (disk, zram Swap) {
	for _, s := range swaps {
		sum := &disk
		if s.Zram {
			sum = &zram
		}
		sum.Size, sum.Used = sum.Size.Plus(s.Size), sum.Used.Plus(s.Used)
	}
	return disk, zram
}

// SwapOn returns the total size of swap on disk and of zram.
func (b *Board) SwapOn() (disk, zram tier.Bytes) {
	onDisk, compressed := sumSwaps(b.Swaps)
	return onDisk.Size, compressed.Size
}

// graphical reports whether systemd's default target is the desktop.
func (b *Board) graphical() bool {
	for _, folder := range [...]string{"etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"} {
		// The link is not followed: its target is absolute and ignores Options.Root.
		if target, err := os.Readlink(b.path(filepath.FromSlash(folder), "default.target")); err == nil {
			return filepath.Base(target) == "graphical.target"
		}
	}
	return false
}

// Advice is one change that the owner of the board could make.
type Advice struct {
	What    string // what to change
	Why     string // what it gains
	Command string // how; "": not by a command
}

// Advise returns the changes that make room for more and larger models or load them
// faster, most useful first. It changes nothing. models is the folder of the model
// files; "" means the root device.
func (b *Board) Advise(models string) []Advice {
	var out []Advice
	add := func(what, why, command string) {
		out = append(out, Advice{What: what, Why: why, Command: command})
	}
	if b.oldFirmware() {
		add("Update the firmware of the module.",
			fmt.Sprintf("The system sees %v of 8 GB. Firmware of early Orin Nano kits keeps back over a gigabyte that newer firmware gives to the system.", b.Memory),
			"")
	}
	if b.Release.Major == 36 && b.Release.Revision == "4.7" {
		add("Update to L4T R36.5 (JetPack 6.2.2) or later.",
			"R36.4.7 refuses large single CUDA allocations although there is room (its fix of CVE-2025-33177); later releases relax that.",
			"sudo apt update && sudo apt dist-upgrade")
	}
	if b.Desktop {
		add("Boot without the desktop.",
			"It takes about 800 MB that models could use.",
			"sudo systemctl set-default multi-user.target && sudo reboot")
	}
	b.adviseSwap(add)
	b.adviseStorage(models, add)
	b.advisePower(add)
	if limit, ok := b.LockLimit.Get(); ok && limit < b.Limits().RAM {
		add("Raise the limit of locked memory.",
			fmt.Sprintf("This process may lock %v and the ram tier is %v: the kernel may drop weights that are in use but not locked.", limit, b.Limits().RAM),
			"in the systemd unit: LimitMEMLOCK=infinity; in a shell: a line \"<user> - memlock unlimited\" in /etc/security/limits.conf")
	}
	return out
}

// oldFirmware reports whether an Orin Nano shows clearly less than the 7.1 to 7.5
// GiB that an 8 GB module shows under every release since JetPack 5.1. (The 4 GB
// module shows less than 4.)
func (b *Board) oldFirmware() bool {
	return b.Family == OrinNano && b.Memory > 5*tier.GiB && b.Memory < 6900*tier.MiB
}

func (b *Board) adviseSwap(add func(what, why, command string)) {
	disk, zram := b.SwapOn()
	if zram > 0 {
		add("Turn zram off.",
			fmt.Sprintf("%v of swap is in memory. Weights do not compress, so zram takes as much memory as it gives, and costs time.", zram),
			"sudo systemctl disable nvzramconfig && sudo reboot")
	}
	if disk == 0 && b.NVMe {
		add("Put a swap file on the NVMe disk.",
			"It takes the memory of idle programs, never weights, and prevents a short peak from killing a process.",
			"sudo fallocate -l 16G /ssd/16GB.swap && sudo chmod 600 /ssd/16GB.swap && sudo mkswap /ssd/16GB.swap && sudo swapon /ssd/16GB.swap (and a line in /etc/fstab; /ssd is the mount point of the disk)")
	}
}

func (b *Board) adviseStorage(models string, add func(what, why, command string)) {
	on, place := b.Root, "the root device"
	if models != "" {
		if s, err := b.StorageOf(models); err == nil {
			on, place = s, models
		}
	}
	has, disk := on.Kind.Loading().Rate, NVMe.Loading().Rate
	switch {
	case slowFileSystem(on.FileSystem):
		add("Keep the models on ext4, on a disk of the board.",
			fmt.Sprintf("%s has %s, which reads mapped files in small pieces, over a network or through another program.", on.Mount, on.FileSystem),
			"")
	case on.Kind == NVMe, on.Kind == SATA, on.Kind == UnknownStorage:
	case b.NVMe:
		add("Move the models to the NVMe disk.",
			fmt.Sprintf("They are on %s (%s), which reads about %d MB/s; the disk reads %d or more.", on.Kind, place, has/mb, disk/mb),
			"")
	default:
		add("Add an NVMe disk for the models.",
			fmt.Sprintf("They are on %s (%s): 4 GB take about %d s to read, from NVMe about %d.", on.Kind, place, 4000*mb/has, 4000*mb/disk),
			"")
	}
}

func slowFileSystem(name string) bool {
	slow := []string{"vfat", "exfat", "ntfs", "ntfs3", "nfs", "nfs4", "cifs", "smb3", "9p", "fuseblk"}
	return slices.Contains(slow, name) || strings.HasPrefix(name, "fuse.")
}

func (b *Board) advisePower(add func(what, why, command string)) {
	best, ok := highestPower(b.PowerModes)
	if !ok || b.Power.Name == "" || b.Power == best {
		return
	}
	why := "Memory is clocked higher, and models answer faster in proportion. It makes no room."
	if strings.HasPrefix(best.Name, "MAXN") {
		why += " On an Orin Nano, 25W gives the most tokens for the energy and MAXN is a little faster. MAXN needs a strong power supply."
	}
	add(fmt.Sprintf("Use power mode %s instead of %s.", best.Name, b.Power.Name), why,
		fmt.Sprintf("sudo nvpmodel -m %d", best.ID))
}
