package safety

import (
	"bytes"
	"fmt"
	"strings"
)

// deepest bounds the cgroups around a process that we follow.
const deepest = 128

// ownCgroups is where a process is in the hierarchies that can limit memory; ""
// where it is in none.
type ownCgroups struct {
	memory  string // of version 1, the hierarchy of the memory controller
	unified string // of version 2
}

// parseOwnCgroups reads the text of /proc/self/cgroup: lines of a hierarchy's
// number, its controllers and the path in it, parted by colons.
func parseOwnCgroups(file string, text []byte) (ownCgroups, error) {
	var own ownCgroups
	for l := (lines{text}); ; {
		line, ok := l.next()
		if !ok {
			return own, nil
		}
		if len(line) == 0 {
			continue
		}
		number, rest, ok1 := bytes.Cut(line, []byte{':'})
		controllers, where, ok2 := bytes.Cut(rest, []byte{':'})
		if !ok1 || !ok2 || len(where) == 0 || where[0] != '/' {
			return ownCgroups{}, invalid(file, line, "must be a number, controllers and a path, parted by colons")
		}
		if bytes.Count(where, []byte{'/'}) > deepest {
			return ownCgroups{}, invalid(file, line, fmt.Sprintf("must not be deeper than %d cgroups", deepest))
		}
		switch {
		case string(number) == "0" && len(controllers) == 0:
			own.unified = string(where)
		case lists(controllers, "memory"):
			own.memory = string(where)
		}
	}
}

func lists(commaSeparated []byte, name string) bool {
	for len(commaSeparated) > 0 {
		var item []byte
		item, commaSeparated, _ = bytes.Cut(commaSeparated, []byte{','})
		if string(item) == name {
			return true
		}
	}
	return false
}

// mount is a place where a hierarchy that can limit memory can be seen.
type mount struct {
	root    string // the cgroup that is seen there
	point   string
	unified bool
}

// parseMounts returns the mounts of cgroup hierarchies that can limit memory, of
// the text of /proc/self/mountinfo (proc_pid_mountinfo(5)).
func parseMounts(file string, text []byte) ([]mount, error) {
	var mounts []mount
	for l := (lines{text}); ; {
		line, ok := l.next()
		if !ok {
			return mounts, nil
		}
		// Six fields, any number of optional ones, a hyphen, then the type, the
		// source and the options of the file system. No field holds a blank.
		before, after, ok := bytes.Cut(line, []byte(" - "))
		kind, rest := word(after)
		unified := string(kind) == "cgroup2"
		if !ok || !unified && string(kind) != "cgroup" {
			continue
		}
		_, options := word(rest)
		if options, _ = word(options); !unified && !lists(options, "memory") {
			continue
		}
		var fields [5][]byte
		for i := range fields {
			fields[i], before = word(before)
		}
		root, point := unescape(fields[3]), unescape(fields[4])
		if !strings.HasPrefix(root, "/") || !strings.HasPrefix(point, "/") {
			return nil, invalid(file, line, "must hold the root and the mount point as absolute paths")
		}
		mounts = append(mounts, mount{root: root, point: point, unified: unified})
	}
}

// unescape undoes the kernel's \ooo for blanks, line ends and backslashes.
func unescape(text []byte) string {
	if bytes.IndexByte(text, '\\') < 0 {
		return string(text)
	}
	octal := func(c byte) bool { return '0' <= c && c <= '7' }
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) && text[i+1] <= '3' && octal(text[i+1]) && octal(text[i+2]) && octal(text[i+3]) {
			out = append(out, (text[i+1]-'0')<<6|(text[i+2]-'0')<<3|(text[i+3]-'0'))
			i += 3
			continue
		}
		out = append(out, text[i])
	}
	return string(out)
}

// place is a cgroup as one can see it: below, from the mount point down.
type place struct {
	mount
	below string // "" or a path that begins with a slash
	whole bool   // it is the process's own cgroup and not only an ancestor's
}

// locate finds the cgroup own among the mounts of its hierarchy. Where it can be
// seen at several, the one that shows most of its ancestors is taken. Where it
// can be seen at none (it is outside of the container's view), what comes
// nearest is. there tells whether a directory of a mount is there.
func locate(mounts []mount, unified bool, own string, there func(m mount, below string) bool) (place, bool) {
	best, found := place{}, false
	better := func(p place) bool {
		switch {
		case !found:
			return true
		case p.whole != best.whole:
			return p.whole
		}
		return depth(p.below) > depth(best.below)
	}
	for _, m := range mounts {
		if m.unified != unified {
			continue
		}
		p := place{mount: m}
		if below, ok := within(m.root, own); ok {
			p.below, p.whole = below, true
			for p.below != "" && !there(m, p.below) {
				p.below, p.whole = p.below[:strings.LastIndexByte(p.below, '/')], false
			}
		}
		if better(p) {
			best, found = p, true
		}
	}
	return best, found
}

// within returns the path of own as seen from root, and whether it can be seen
// from there. A path that leads out of a cgroup namespace has a "/..".
func within(root, own string) (below string, ok bool) {
	switch {
	case root == own:
		below = ""
	case root == "/":
		below = own
	case strings.HasPrefix(own, root+"/"):
		below = own[len(root):]
	default:
		return "", false
	}
	return below, !strings.Contains(below+"/", "/../")
}

func depth(below string) int { return strings.Count(below, "/") }
