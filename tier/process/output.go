package process

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// Bounds on what is kept of an engine's output: 32 KiB at most.
const (
	keptLines = 64
	lineBytes = 512
)

// output keeps the last lines that an engine printed, and logs all of them.
type output struct {
	model string
	log   *slog.Logger

	mu    sync.Mutex // guards the rest
	lines []string   // a ring once it is full
	next  int
}

// read takes what comes from r until its end. A line that is too long is cut.
func (o *output) read(r io.Reader) {
	in := bufio.NewReaderSize(r, 4096)
	for {
		line, cut, err := readLine(in)
		if strings.TrimSpace(line) != "" {
			o.add(line)
			o.log.LogAttrs(context.Background(), slog.LevelDebug, "engine", slog.String("model", o.model), slog.String("line", line))
		}
		if cut && err == nil {
			err = skipLine(in)
		}
		if err != nil {
			return
		}
	}
}

// readLine returns the next line, without its end, or its first lineBytes.
func readLine(in *bufio.Reader) (line string, cut bool, err error) {
	var b strings.Builder
	for b.Len() < lineBytes {
		c, err := in.ReadByte()
		if err != nil || c == '\n' {
			return strings.TrimSuffix(b.String(), "\r"), false, err
		}
		b.WriteByte(c)
	}
	return b.String(), true, nil
}

func skipLine(in *bufio.Reader) error {
	for {
		_, err := in.ReadSlice('\n')
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

func (o *output) add(line string) {
	line = strings.ToValidUTF8(line, "�")
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.lines) < keptLines {
		o.lines = append(o.lines, line)
		return
	}
	o.lines[o.next] = line
	o.next = (o.next + 1) % keptLines
}

// last returns the kept lines, oldest first.
func (o *output) last() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]string, 0, len(o.lines))
	out = append(out, o.lines[o.next:]...)
	return append(out, o.lines[:o.next]...)
}
