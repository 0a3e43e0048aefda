package jetson

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sync/errgroup"

	"github.com/modeltier/modeltier/tier"
)

// StorageKind is a kind of storage device.
type StorageKind string

const (
	UnknownStorage StorageKind = ""
	NVMe           StorageKind = "NVMe"
	SD             StorageKind = "SD card"
	EMMC           StorageKind = "eMMC"
	USB            StorageKind = "USB"
	SATA           StorageKind = "SATA"
)

// String returns the name; "unknown storage" for UnknownStorage.
func (k StorageKind) String() string { return cmp.Or(string(k), "unknown storage") }

// Storage is the device below a file system.
type Storage struct {
	Kind StorageKind
	// Disk is the kernel's name of the whole device: "nvme0n1". "": no device, as
	// for a network file system.
	Disk string
	// Mount is the mount point of the file system, FileSystem its type ("ext4").
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
		// Of several file systems on one mount point, the last is visible.
		if within(path, m.MountPoint) && (on == nil || len(m.MountPoint) >= len(on.MountPoint)) {
			on = m
		}
	}
	if on == nil {
		return Storage{}, fmt.Errorf("nothing is mounted at %q", path)
	}
	s := Storage{Mount: on.MountPoint, FileSystem: on.FSType}
	// The device number of a file system over several devices leads nowhere; its
	// source then names one of them.
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

// diskOf follows a block device of sysfs to its disk: from a partition to the whole
// device, and through at most depth layers of device mapper.
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

// Loading tells how to read weights from a kind of storage. Load one model at a
// time: two loads from one device take as long as one after the other, and the first
// is late.
type Loading struct {
	// Readers is the number of reads to keep in flight.
	Readers int
	// Rate is the bytes a second to expect. It is a planning figure, on the low side;
	// measure with MeasureReadRate.
	Rate tier.Bytes
}

// Loading returns what to expect of a kind of storage. The rates: NVMe, 1 GB a
// second, as model servers see from a Gen3 disk that is sold with 2 to 3; SD, 80 MB
// of the 104 of its fastest bus mode; eMMC 5.1, 250 MB; USB 3, 300 MB; SATA, 450 MB.
// Unknown storage counts as a card.
func (k StorageKind) Loading() Loading { return cmp.Or(loadings[k], loadings[SD]) }

const mb = 1_000_000

var loadings = map[StorageKind]Loading{
	NVMe: {Readers: 4, Rate: 1000 * mb},
	SATA: {Readers: 4, Rate: 450 * mb},
	USB:  {Readers: 2, Rate: 300 * mb},
	EMMC: {Readers: 2, Rate: 250 * mb},
	SD:   {Readers: 1, Rate: 80 * mb},
}

// Bounds of a measurement. The chunk is the read size of the mover of mapped files;
// the time is long enough for a disk to leave its power saving.
const (
	rateChunk   = 4 << 20
	maxRateRead = 512 * tier.MiB
	maxRateTime = 1500 * time.Millisecond
)

// MeasureReadRate reads from the start of the file, past the page cache, with that
// many reads in flight (at least 1), and returns the bytes a second. It takes 1.5
// seconds or 512 MiB, whichever comes first, and 4 MiB of memory for each reader. Use
// one of the models.
//
// The error unwraps to errors.ErrUnsupported if the system or the file system cannot
// read past its cache: the figure would be that of memory.
func MeasureReadRate(ctx context.Context, file string, readers int) (rate tier.Bytes, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("jetson: measuring %s: %w", file, err)
		}
	}()
	f, err := openDirect(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var next, done atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for range max(readers, 1) {
		group.Go(func() error { return readChunks(ctx, f, &next, &done, began.Add(maxRateTime)) })
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	if done.Load() < rateChunk {
		return 0, errShort
	}
	return tier.Bytes(float64(done.Load()) / time.Since(began).Seconds()), nil
}

var errShort = errors.New("the file is smaller than 4 MiB")

// readChunks reads chunks, each one the next that no other reader has taken, up to
// the end of the file, maxRateRead, or the time.
func readChunks(ctx context.Context, f *os.File, next, done *atomic.Int64, until time.Time) error {
	buf, free, err := alignedBuffer(rateChunk)
	if err != nil {
		return err
	}
	defer free()
	for ctx.Err() == nil && time.Now().Before(until) {
		at := next.Add(rateChunk) - rateChunk
		if at >= int64(maxRateRead) {
			return nil
		}
		n, err := f.ReadAt(buf, at)
		done.Add(int64(n))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}
