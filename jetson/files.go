package jetson

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// mostFile is the most that is read of any file that describes the board. The
// longest, nvpmodel.conf, is some 20 KiB.
const mostFile = 256 << 10

// readText returns a file's text, up to mostFile.
func readText(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, mostFile))
	return string(text), err
}

// readLine returns the first line of a file, without blanks around it and
// without the NUL that ends strings of the device tree.
func readLine(path string) (string, error) {
	text, err := readText(path)
	line, _, _ := strings.Cut(text, "\n")
	return strings.Trim(line, " \t\r\x00"), err
}

// glob returns the files below root that match, sorted. The root's own name is
// taken as it is, whatever it holds.
func glob(root, pattern string) []string {
	found, err := fs.Glob(os.DirFS(root), pattern)
	if err != nil {
		return nil
	}
	for i := range found {
		found[i] = filepath.Join(root, filepath.FromSlash(found[i]))
	}
	return found
}
