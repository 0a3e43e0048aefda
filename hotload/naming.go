package hotload

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// shard is what a file name says about being one of several: "-00002-of-00003"
// before the extension, for GGUF and for safetensors.
type shard struct {
	stem   string // the name without it and without the extension
	no, of int    // counted from 1; of is 0 for a file that stands alone
}

var shardName = regexp.MustCompile(`^(.+)-([0-9]{5})-of-([0-9]{5})$`)

func shardOf(name string) shard {
	stem := strings.TrimSuffix(name, filepath.Ext(name))
	m := shardName.FindStringSubmatch(stem)
	if m == nil {
		return shard{stem: stem}
	}
	no, _ := strconv.Atoi(m[2])
	of, _ := strconv.Atoi(m[3])
	return shard{stem: m[1], no: no, of: of}
}

// fileName is the name of a model in a file of its own.
func fileName(path string) string {
	name := filepath.Base(path)
	if formatOf(name) == FormatUnknown {
		return name
	}
	return shardOf(name).stem
}

// folderName is the name of a model in a folder of its own. The cache of Hugging
// Face keeps "org/name" at models--org--name/snapshots/<revision>.
func folderName(dir string) string {
	up := filepath.Dir(dir)
	if filepath.Base(up) == "snapshots" {
		if name, ok := strings.CutPrefix(filepath.Base(filepath.Dir(up)), "models--"); ok {
			return strings.ReplaceAll(name, "--", "/")
		}
	}
	return filepath.Base(dir)
}

// names gives models names that no other has.
type names map[string]bool

// claim returns the name, where it is taken the one with its folder, and where
// that is taken too, or too long, one with a number.
func (n names) claim(name, dir string) string {
	const number = 16 // bytes to keep free for one
	try := name
	for i := 1; n[try] || len(try) > tier.MaxNameLength; i++ {
		if i == 1 {
			try = filepath.Base(dir) + "/" + name
			continue
		}
		if len(name) > tier.MaxNameLength-number {
			name = strings.ToValidUTF8(name[:tier.MaxNameLength-number], "")
		}
		try = name + "-" + strconv.Itoa(i)
	}
	n[try] = true
	return try
}
