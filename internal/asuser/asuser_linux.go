package asuser

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// variable names the file of Run to the user's process.
const variable = "MODELTIER_TEST_AS_USER"

// nobody is a user and a group that own nothing.
const nobody = 65534

// Run runs the tests that match again, as a user who has those capabilities and no
// others, and reports what fails. inside is true in that user's process; the one that
// called Run first has nothing more to do. file is readable to the user, but neither the
// user's own nor writable; it is the path that the first process gave. Run skips the test
// if that is not root's.
func Run(t *testing.T, match, file string, capabilities ...uintptr) (path string, inside bool) {
	t.Helper()
	if path := os.Getenv(variable); path != "" {
		return path, true
	}
	if os.Geteuid() != 0 {
		t.Skip("root alone can take another user")
	}
	dir := t.TempDir()
	bin, home := filepath.Join(dir, "test"), filepath.Join(dir, "home")
	err := errors.Join(copyFile(os.Args[0], bin, 0o755), os.Mkdir(home, 0o700), os.Chown(home, nobody, nobody), os.Chmod(file, 0o644), reach(bin), reach(file))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-test.v", "-test.run="+match)
	cmd.Dir = home
	cmd.Env = append(os.Environ(), variable+"="+file, "HOME="+home, "TMPDIR="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: capabilities}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: ")) {
		t.Errorf("as user %d: %v\n%s", nobody, err, out)
	}
	return file, false
}

// reach opens the folders of path, up to the folder of temporary files, to everyone: those
// of a test are its user's alone.
func reach(path string) (err error) {
	for {
		path = filepath.Dir(path)
		if below, e := filepath.Rel(os.TempDir(), path); e != nil || below == "." || !filepath.IsLocal(below) {
			return err
		}
		err = errors.Join(err, os.Chmod(path, 0o755))
	}
}

// copyFile copies a program: the folder that "go test" makes it in is its user's alone.
func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
