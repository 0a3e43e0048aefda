package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestOpen_NewestFileDamaged_PreviousIsUsedAndDamagedOneKept damages the newest
// of two generations in every way that a disk or a person can.
func TestOpen_NewestFileDamaged_PreviousIsUsedAndDamagedOneKept(t *testing.T) {
	good, err := encode(numbered(2), 2, fixedTime)
	if err != nil {
		t.Fatal(err)
	}
	newer := bytes.Replace(good, []byte(magic+" 1 "), []byte(magic+" 2 "), 1)
	cases := map[string][]byte{
		"empty":         {},
		"zeros":         make([]byte, len(good)),
		"foreign":       []byte("{\"some\": \"other program\"}\n"),
		"newer":         newer,
		"trailing":      append(bytes.Clone(good), ' '),
		"no generation": withBody(t, `{"models":[],"limits":{}}`),
		"not JSON":      withBody(t, `{"generation":9,`),
		"unknown home":  withBody(t, `{"generation":9,"models":[{"name":"a","size":1,"home":"attic"}]}`),
		"negative":      withBody(t, `{"generation":-9,"models":[]}`),
	}
	for n := range good {
		cases[fmt.Sprintf("cut at %d", n)] = good[:n]
		flipped := bytes.Clone(good)
		flipped[n] ^= 1 << (n % 8)
		cases[fmt.Sprintf("flipped at %d", n)] = flipped
	}
	for name, damaged := range cases {
		t.Run(name, func(t *testing.T) {
			d := newFakeDisk(0)
			s, _, _, _ := open("/state", d)
			for n := uint64(1); n <= 2; n++ {
				if err := save(s, n); err != nil {
					t.Fatal(err)
				}
			}
			newest := slots[s.newest]
			s.Close()
			d.live[newest].data = damaged
			d.live[newest].synced = damaged

			s, st, warnings, err := open("/state", d)
			if err != nil || number(t, st) != 1 {
				t.Fatalf("error %v, state %d; want the one before", err, number(t, st))
			}
			kept := d.named(".damaged-")
			if len(warnings) != 1 || len(kept) != 1 {
				t.Fatalf("warnings %v, kept %q", warnings, kept)
			}
			holdsIt := func() bool {
				got := d.live[kept[0]]
				return got != nil && bytes.Equal(got.data, damaged)
			}
			if !holdsIt() {
				t.Errorf("%q does not hold what was found", kept[0])
			}
			for _, part := range []string{"/state/" + newest, "/state/" + kept[0], "saved at"} {
				if text := warnings[0].Error(); !strings.Contains(text, part) {
					t.Errorf("the warning %q does not say %q", text, part)
				}
			}
			for n := uint64(3); n <= 5; n++ {
				if err := save(s, n); err != nil {
					t.Fatalf("save after damage: %v", err)
				}
			}
			s.Close()
			if _, st, warnings, _ := open("/state", d); number(t, st) != 5 || len(warnings) > 0 {
				t.Errorf("read %d with warnings %v, want 5", number(t, st), warnings)
			}
			if !holdsIt() {
				t.Errorf("%q was overwritten by later saves", kept[0])
			}
		})
	}
}

// TestOpen_PowerCutWhileSettingAside_DamagedFileIsSomewhere cuts the power at each
// step of a start that finds a damaged file and of the save after it.
func TestOpen_PowerCutWhileSettingAside_DamagedFileIsSomewhere(t *testing.T) {
	for at := 1; at < 60; at++ {
		for seed := range uint64(40) {
			d := newFakeDisk(seed)
			s, _, _, _ := open("/state", d)
			save(s, 1)
			save(s, 2)
			precious := &inode{data: []byte("precious"), synced: []byte("precious")}
			d.live[slots[s.newest]], d.durable[slots[s.newest]] = precious, precious
			s.Close()
			d.steps, d.trace, d.crashAt = 0, nil, at
			live(d, func(s *Store) { save(s, 3) })
			d.reboot()
			found := false
			for _, node := range d.live {
				found = found || string(node.data) == "precious"
			}
			if !found {
				t.Fatalf("cut at step %d, fate %d: the damaged file is gone\n%s", at, seed, strings.Join(d.trace, "\n"))
			}
		}
	}
}

func TestOpen_BothFilesDamaged_EmptyStateAndBothKept(t *testing.T) {
	d := newFakeDisk(0)
	s, _, _, _ := open("/state", d)
	for n := uint64(1); n <= 2; n++ {
		save(s, n)
	}
	s.Close()
	for _, slot := range slots {
		d.live[slot].data = []byte("torn")
	}
	s, st, warnings, err := open("/state", d)
	if err != nil || number(t, st) != 0 || len(warnings) != 2 {
		t.Fatalf("error %v, state %d, warnings %v", err, number(t, st), warnings)
	}
	if err := save(s, 3); err != nil {
		t.Fatal(err)
	}
	if kept := d.named(".damaged-"); len(kept) != 2 {
		t.Errorf("kept %q, want both", kept)
	}
}

// A file that cannot be read for a moment is not a damaged one: to set it aside and
// go by the other would undo what was acknowledged.
func TestOpen_StateFileCannotBeRead_ErrorAndNothingIsRenamed(t *testing.T) {
	for _, slot := range slots {
		for _, cause := range []error{syscall.EMFILE, syscall.EIO, syscall.EACCES} {
			d := newFakeDisk(0)
			s, _, _, _ := open("/state", d)
			save(s, 1)
			save(s, 2)
			s.Close()
			d.fail = func(what, path string) error {
				if what == "read" && path == slot {
					return cause
				}
				return nil
			}
			if _, _, warnings, err := open("/state", d); !errors.Is(err, cause) || len(warnings) > 0 || !strings.Contains(err.Error(), slot) {
				t.Errorf("%v for %s: error %v, warnings %v", cause, slot, err, warnings)
			}
			if kept := d.named(".damaged-"); len(kept) > 0 {
				t.Errorf("%v for %s: set aside as %q", cause, slot, kept)
			}
			d.fail = nil
			s, st, warnings, err := open("/state", d)
			if err != nil || len(warnings) > 0 || number(t, st) != 2 {
				t.Fatalf("%v for %s, when it is over: state %d, error %v, warnings %v", cause, slot, number(t, st), err, warnings)
			}
			s.Close()
		}
	}
}

func TestOpen_HugeOrSpecialStateFile_SetAsideUnread(t *testing.T) {
	dir := t.TempDir()
	huge, err := os.Create(filepath.Join(dir, slots[0]))
	if err != nil {
		t.Fatal(err)
	}
	if err := huge.Truncate(maxFileBytes + 1); err != nil { // sparse
		t.Fatal(err)
	}
	huge.Close()
	if err := os.MkdirAll(filepath.Join(dir, slots[1], "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, st, warnings, err := Open(dir)
	if err != nil || number(t, st) != 0 || len(warnings) != 2 {
		t.Fatalf("error %v, state %d, warnings %v", err, number(t, st), warnings)
	}
	defer s.Close()
	for n := uint64(1); n <= 2; n++ {
		if err := save(s, n); err != nil {
			t.Errorf("save: %v", err)
		}
	}
}

func TestOpen_DamagedFileCannotBeRenamed_ErrorAndFileStays(t *testing.T) {
	for _, failing := range []string{"rename", "syncdir"} {
		d := newFakeDisk(0)
		s, _, _, _ := open("/state", d)
		save(s, 1)
		save(s, 2)
		newest := slots[s.newest]
		d.live[newest].data = []byte("precious")
		d.fail = func(step, _ string) error {
			if step == failing {
				return syscall.EIO
			}
			return nil
		}
		if _, _, _, err := open("/state", d); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), newest) {
			t.Errorf("%s fails: %v", failing, err)
		}
		d.fail = nil
		s, st, _, err := open("/state", d)
		if err != nil || number(t, st) != 1 {
			t.Fatalf("%s works again: state %d, %v", failing, number(t, st), err)
		}
		if err := save(s, 3); err != nil {
			t.Error(err)
		}
		precious := 0
		for _, node := range d.live {
			if string(node.data) == "precious" {
				precious++
			}
		}
		if precious != 1 {
			t.Errorf("%s: the damaged file is there %d times", failing, precious)
		}
	}
}
