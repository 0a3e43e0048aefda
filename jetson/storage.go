package jetson

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/procfs"
)

// StorageKind is what kind of device holds files.
type StorageKind uint8

const (
	UnknownStorage StorageKind = iota
	NVMe
	SD
	EMMC
	USB
	SATA
)

func (k StorageKind) String() string {
	switch k {
	case NVMe:
		return "NVMe"
	case SD:
		return "SD card"
	case EMMC:
		return "eMMC"
	case USB:
		return "USB"
	case SATA:
		return "SATA"
	}
	return "unknown storage"
}

// Storage is where a file system is.
type Storage struct {
	Kind StorageKind
	// Disk is the kernel's name of the whole device: "nvme0n1". "": there is none,
	// as for a network file system.
	Disk string
	// Mount is where the file system is mounted, FileSystem what it is ("ext4").
	Mount, FileSystem string
}

// StorageOf returns the storage that holds path, an absolute path that need not
// exist. A file system without a device of its own has UnknownStorage.
func (b *Board) StorageOf(path string) (Storage, error) {
	pfs, err := procfs.NewFS(b.path("proc"))
	if err != nil {
		return Storage{}, err
	}
	mounts, err := pfs.GetMounts()
	if err != nil {
		return Storage{}, err
	}
	path = filepath.ToSlash(filepath.Clean(path))
	var on *procfs.MountInfo
	for _, m := range mounts {
		// The last of those mounted on one place is the one that is seen.
		if within(path, m.MountPoint) && (on == nil || len(m.MountPoint) >= len(on.MountPoint)) {
			on = m
		}
	}
	if on == nil {
		return Storage{}, fmt.Errorf("nothing is mounted at %q", path)
	}
	s := Storage{Mount: on.MountPoint, FileSystem: on.FSType}
	// A file system over several devices has a number of its own that leads nowhere;
	// its source then names one of them.
	node := b.path("sys", "dev", "block", on.MajorMinorVer)
	if _, err := os.Stat(node); err != nil {
		node = b.path("sys", "class", "block", filepath.Base(on.Source))
	}
	s.Disk, s.Kind = diskOf(node, 4)
	return s, nil
}

func within(path, mount string) bool {
	return mount == "/" || path == mount || strings.HasPrefix(path, mount+"/")
}

// diskOf follows a block device of sysfs to the disk it is on: from a partition
// to the whole, and through at most depth layers of device mapper.
func diskOf(node string, depth int) (string, StorageKind) {
	dir, err := filepath.EvalSymlinks(node)
	if err != nil {
		return "", UnknownStorage
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	if below := glob(dir, "slaves/*"); len(below) > 0 && depth > 0 {
		return diskOf(below[0], depth-1)
	}
	name := filepath.Base(dir)
	return name, kindOf(name, dir)
}

func kindOf(name, dir string) StorageKind {
	switch {
	case strings.HasPrefix(name, "nvme"):
		return NVMe
	case strings.HasPrefix(name, "mmcblk"):
		switch card, _ := readLine(filepath.Join(dir, "device", "type")); card {
		case "SD":
			return SD
		case "MMC":
			return EMMC
		}
	case strings.HasPrefix(name, "sd"):
		if strings.Contains(filepath.ToSlash(dir), "/usb") {
			return USB
		}
		return SATA
	}
	return UnknownStorage
}
