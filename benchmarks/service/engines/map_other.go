//go:build !unix

package engines

import "os"

func mapFile(path string) ([]byte, error) { return os.ReadFile(path) }
