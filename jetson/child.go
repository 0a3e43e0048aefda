package jetson

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"time"
)

// child is a running tegrastats and what it prints.
type child interface {
	io.Reader
	SetReadDeadline(time.Time) error
	// end ends the child, if it still runs, and all that it started, and waits until
	// they are gone. left says what could not be ended; reason how the child ended by
	// itself, nil if it had to be ended.
	end() (left, reason error)
}

// process is a child that is a process of its own.
type process struct {
	*os.File // the reading end of its output
	cmd      *exec.Cmd
	descent  *descent
}

func startProcess(path string, args ...string) (child, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = out, out
	descent := prepare(cmd)
	if err := cmd.Start(); err != nil {
		in.Close()
		return nil, err
	}
	descent.started(cmd.Process)
	return &process{File: in, cmd: cmd, descent: descent}, nil
}

func (p *process) end() (left, reason error) {
	p.descent.survey()
	// The pipe goes before the signals: a child that is blocked on it is free to see
	// them, and one that ignores them fails at its next line.
	p.Close()
	left = p.descent.end()
	reason = p.cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](reason); ok && killed(exit) {
		reason = nil
	}
	return left, reason
}

// lineReader cuts a stream into lines. It holds mostLine bytes, however long a
// line is.
type lineReader struct{ *bufio.Reader }

// mostLine is some sixty times the longest line known (Thor, 580 bytes and less
// than 1 KiB in any log).
const mostLine = 64 << 10

func newLineReader(r io.Reader) lineReader { return lineReader{bufio.NewReaderSize(r, mostLine)} }

// next returns the next line that ends in a newline. What is longer than mostLine
// is stepped over. A last line without its newline was cut off: it may have lost
// digits, so it is not given out.
func (l lineReader) next() (string, error) {
	for long := false; ; {
		line, err := l.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long = true
		case err != nil:
			return "", err
		case long:
			long = false
		default:
			return string(line[:len(line)-1]), nil
		}
	}
}
