//go:build !linux

package jetson

import (
	"errors"
	"os"
)

func openDirect(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func alignedBuffer(int) ([]byte, func(), error) { return nil, nil, errors.ErrUnsupported }
