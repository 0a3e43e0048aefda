package jetson

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// Advice is one thing that the owner of the board could change.
type Advice struct {
	What    string // what to change
	Why     string // what is gained
	Command string // how; "" where it is no matter of a command
}

// Advise says what the owner could change about the board so that more and larger
// models fit or load faster, most useful first. It changes nothing. models is
// the folder of the model files; "" speaks of the root device.
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
			"It takes about 800 MB that models could have.",
			"sudo systemctl set-default multi-user.target && sudo reboot")
	}
	b.adviseSwap(add)
	b.adviseStorage(models, add)
	b.advisePower(add)
	if limit, ok := b.LockLimit.Get(); ok && limit < b.Limits().RAM {
		add("Raise the limit of locked memory.",
			fmt.Sprintf("This process may lock %v, the ram tier is %v: what is not locked, the kernel may drop while it is wanted.", limit, b.Limits().RAM),
			"in the systemd unit: LimitMEMLOCK=infinity; in a shell: a line \"<user> - memlock unlimited\" in /etc/security/limits.conf")
	}
	return out
}

// oldFirmware reports an Orin Nano that shows clearly less than the 7.1 to 7.5
// GiB that an 8 GB module shows under every release since JetPack 5.1. (The 4 GB
// module shows less than 4.)
func (b *Board) oldFirmware() bool {
	return b.Family == OrinNano && b.Memory > 5*tier.GiB && b.Memory < 6900*tier.MiB
}

func (b *Board) adviseSwap(add func(what, why, command string)) {
	disk, zram := b.SwapOn()
	if zram > 0 {
		add("Turn zram off.",
			fmt.Sprintf("%v of swap live in memory. Weights do not compress, so zram takes the memory that it gives, and time on top.", zram),
			"sudo systemctl disable nvzramconfig && sudo reboot")
	}
	if disk == 0 && b.NVMe {
		add("Put a swap file on the NVMe disk.",
			"It takes the memory of idle programs, never weights, and keeps a tight moment from ending in a killed process.",
			"sudo fallocate -l 16G /ssd/16GB.swap && sudo chmod 600 /ssd/16GB.swap && sudo mkswap /ssd/16GB.swap && sudo swapon /ssd/16GB.swap (and a line in /etc/fstab; /ssd is where the disk is mounted)")
	}
}

func (b *Board) adviseStorage(models string, add func(what, why, command string)) {
	on, place := b.Root, "the root device"
	if models != "" {
		if s, err := b.StorageOf(models); err == nil {
			on, place = s, models
		}
	}
	const mb = 1_000_000
	has, disk := on.Kind.Loading().Rate, NVMe.Loading().Rate
	switch {
	case slowFileSystem(on.FileSystem):
		add("Keep the models on ext4, on a disk of the board.",
			fmt.Sprintf("%s has %s: mapped files are read there in small pieces, over a network or through another program.", on.Mount, on.FileSystem),
			"")
	case on.Kind == NVMe, on.Kind == SATA, on.Kind == UnknownStorage:
	case b.NVMe:
		add("Move the models to the NVMe disk.",
			fmt.Sprintf("They are on %s (%s), which reads some %d MB/s; the disk reads %d or more.", on.Kind, place, has/mb, disk/mb),
			"")
	default:
		add("Add an NVMe disk for the models.",
			fmt.Sprintf("They are on %s (%s): 4 GB take about %d s to read, from NVMe about %d.", on.Kind, place, 4000*mb/has, 4000*mb/disk),
			"")
	}
}

func slowFileSystem(name string) bool {
	switch name {
	case "vfat", "exfat", "ntfs", "ntfs3", "nfs", "nfs4", "cifs", "smb3", "9p", "fuseblk":
		return true
	}
	return strings.HasPrefix(name, "fuse.")
}

func (b *Board) advisePower(add func(what, why, command string)) {
	best, ok := most(b.PowerModes)
	if !ok || b.Power.Name == "" || b.Power == best {
		return
	}
	why := "Memory is clocked higher, and how fast a model answers goes with that. Nothing more fits by it."
	if strings.HasPrefix(best.Name, "MAXN") {
		why += " On an Orin Nano, 25W gives the most tokens for the energy and MAXN is a little faster. A weak power supply will not carry it."
	}
	add(fmt.Sprintf("Use power mode %s instead of %s.", best.Name, b.Power.Name), why,
		fmt.Sprintf("sudo nvpmodel -m %d", best.ID))
}

// graphical reports that systemd's default target is the desktop.
func (b *Board) graphical() bool {
	for _, place := range [...]string{"etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"} {
		// The link itself is what counts: it may lead out of an injected root.
		if target, err := os.Readlink(b.path(filepath.FromSlash(place), "default.target")); err == nil {
			return filepath.Base(target) == "graphical.target"
		}
	}
	return false
}
