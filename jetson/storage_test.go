package jetson

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modeltier/modeltier/tier"
)

func TestStorageOf_Path_GoesByItsMount(t *testing.T) {
	b := fixtureOrinNano8.detect(t)
	for path, want := range map[string]Storage{
		"/":               {Kind: SD, Disk: "mmcblk0", Mount: "/", FileSystem: "ext4"},
		"/home/a/models":  {Kind: SD, Disk: "mmcblk0", Mount: "/", FileSystem: "ext4"},
		"/ssd":            {Kind: NVMe, Disk: "nvme0n1", Mount: "/ssd", FileSystem: "ext4"},
		"/ssd/models/":    {Kind: NVMe, Disk: "nvme0n1", Mount: "/ssd", FileSystem: "ext4"},
		"/ssdx":           {Kind: SD, Disk: "mmcblk0", Mount: "/", FileSystem: "ext4"},
		"/mnt/nas/models": {Mount: "/mnt/nas", FileSystem: "nfs4"},
	} {
		got, err := b.StorageOf(path)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

// An encrypted root is a device mapper over a partition; btrfs has a number of
// its own and names a device as its source.
func TestStorageOf_LayeredDevice_FindsTheDisk(t *testing.T) {
	f := fixtureOrinNX
	files := f.tree()
	files["proc/1/mountinfo"] = "21 1 253:0 / / rw shared:1 - ext4 /dev/mapper/root rw\n" +
		"22 21 0:50 / /data rw shared:2 - btrfs /dev/nvme0n1p1 rw\n"
	files["sys/devices/virtual/block/dm-0/slaves/nvme0n1p1"] = "-> ../../../../platform/bus@0/14160000.pcie/pci0004:00/nvme/nvme0/nvme0n1/nvme0n1p1"
	files["sys/dev/block/253:0"] = "-> ../../devices/virtual/block/dm-0"
	files["sys/class/block/nvme0n1p1"] = "-> ../../devices/platform/bus@0/14160000.pcie/pci0004:00/nvme/nvme0/nvme0n1/nvme0n1p1"
	root := t.TempDir()
	writeTree(t, root, files)
	b, err := DetectIn(Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", "/data"} {
		if s, err := b.StorageOf(path); err != nil || s.Kind != NVMe || s.Disk != "nvme0n1" {
			t.Errorf("%s: %+v, %v", path, s, err)
		}
	}
}

func TestLoading_EveryKind_PlausibleFigures(t *testing.T) {
	for _, k := range []StorageKind{UnknownStorage, NVMe, SD, EMMC, USB, SATA} {
		l := k.Loading()
		if l.Readers < 1 || l.Rate < 1_000_000 {
			t.Errorf("%v: %+v", k, l)
		}
		if l.Rate > NVMe.Loading().Rate {
			t.Errorf("%v is faster than NVMe", k)
		}
	}
	if NVMe.String() != "NVMe" || UnknownStorage.String() != "unknown storage" {
		t.Error("names")
	}
}

// sizedFile writes a file beside the tests, because the folder for temporary files may
// be in memory.
func sizedFile(t *testing.T, size int) string {
	t.Helper()
	dir, err := os.MkdirTemp(".", "rate-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "model.gguf")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func measured(t *testing.T, file string, readers int) (tier.Bytes, error) {
	t.Helper()
	rate, err := MeasureReadRate(t.Context(), file, readers)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("the file system cannot read past its cache: %v", err)
	}
	return rate, err
}

func TestMeasureReadRate_File_PlausibleRate(t *testing.T) {
	file := sizedFile(t, 40<<20+12345)
	for _, readers := range []int{0, 1, 4} {
		rate, err := measured(t, file, readers)
		if err != nil || rate < tier.MiB || rate > 1<<40 {
			t.Errorf("%d readers: %v a second, %v", readers, rate, err)
		}
	}
}

func TestMeasureReadRate_SmallOrMissingFile_Error(t *testing.T) {
	if rate, err := measured(t, sizedFile(t, 1<<20), 2); !errors.Is(err, errShort) || rate != 0 {
		t.Errorf("%v, %v", rate, err)
	}
	if _, err := measured(t, filepath.Join(t.TempDir(), "none"), 2); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestMeasureReadRate_Cancelled_ItsCause(t *testing.T) {
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	_, err := MeasureReadRate(ctx, sizedFile(t, 8<<20), 2)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}
