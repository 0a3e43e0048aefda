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

// names gives models names that no other has. It remembers for each name the number
// to try next, so that many models of one name cost no search each.
type names map[string]claimed

type claimed struct {
	taken bool
	next  int // after the name; all lower ones from 2 are taken
}

func (n names) take(name string) bool {
	c := n[name]
	if c.taken || len(name) > tier.MaxNameLength {
		return false
	}
	c.taken = true
	n[name] = c
	return true
}

// claim returns the name; if it is taken, the one with its folder; and if that is
// taken too, or too long, the one with the lowest free number.
func (n names) claim(name, dir string) string {
	const room = 16 // bytes for a number
	if n.take(name) {
		return name
	}
	if long := filepath.Base(dir) + "/" + name; n.take(long) {
		return long
	}
	if len(name) > tier.MaxNameLength-room {
		name = strings.ToValidUTF8(name[:tier.MaxNameLength-room], "")
	}
	for i := max(n[name].next, 2); ; i++ {
		if numbered := name + "-" + strconv.Itoa(i); n.take(numbered) {
			c := n[name]
			c.next = i + 1
			n[name] = c
			return numbered
		}
	}
}

// release makes the name free.
func (n names) release(name string) {
	c := n[name]
	c.taken = false
	n[name] = c
	if c.next == 0 {
		delete(n, name)
	}
	if at := strings.LastIndexByte(name, '-'); at >= 0 {
		base := n[name[:at]]
		if i, err := strconv.Atoi(name[at+1:]); err == nil && i >= 2 && i < base.next {
			base.next = i
			n[name[:at]] = base
		}
	}
}
