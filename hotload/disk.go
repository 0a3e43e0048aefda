package hotload

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// disk is the part of a file system that a Store needs, as an interface so that
// tests can cut the power at every step.
type disk interface {
	// MkdirAll makes the folder and what is missing above it, durably.
	MkdirAll(dir string) error
	// Lock takes the folder for this process until the Closer is closed or the
	// process ends. Where another has it, the error is a *HeldError.
	Lock(dir string) (io.Closer, error)
	// Lstat and Open read; Open does not wait for the other end of a pipe.
	Lstat(path string) (fs.FileInfo, error)
	Open(path string) (io.ReadCloser, error)
	// Create makes a file that was not there.
	Create(path string) (diskFile, error)
	Rename(from, to string) error
	Remove(path string) error
	// SyncDir makes what was made, renamed and removed in the folder durable.
	SyncDir(dir string) error
}

type diskFile interface {
	io.WriteCloser
	Sync() error
}

// State files are the owner's alone: a blob may hold what users asked for.
const (
	dirMode  = 0o700
	fileMode = 0o600
)

// osDisk is the disk of the operating system.
type osDisk struct{}

func (d osDisk) MkdirAll(dir string) error {
	switch info, err := os.Stat(dir); {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: dir, Err: errors.New("is a file")}
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := d.MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return d.SyncDir(parent) // a folder that is not durable loses all that is in it
}

func (osDisk) Lock(dir string) (io.Closer, error)     { return lockDir(dir) }
func (osDisk) Lstat(path string) (fs.FileInfo, error) { return os.Lstat(path) }
func (osDisk) Rename(from, to string) error           { return os.Rename(from, to) }
func (osDisk) Remove(path string) error               { return os.Remove(path) }

func (osDisk) Open(path string) (io.ReadCloser, error) { return openRegular(path) }

func (osDisk) Create(path string) (diskFile, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
}

func (osDisk) SyncDir(dir string) error { return syncDir(dir) }
