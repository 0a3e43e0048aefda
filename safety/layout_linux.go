package safety

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// layoutAge is how long a layout is good for: after it, mounts, limits' places
// and files that were not there are looked for again. A move of the process to
// another cgroup is seen at once.
const layoutAge = 30 * time.Second

// layOut finds the cgroups around the process, where that is not known yet, is
// old, or the process was moved.
func (s *source) layOut(at time.Time) error {
	text, ok, err := s.cgroup.readIfThere(&s.buf)
	switch {
	case err != nil:
		return err
	case !ok:
		text = nil // a kernel without cgroups
	}
	fresh := !s.laidOut.IsZero() && at.Sub(s.laidOut) < layoutAge
	if fresh && bytes.Equal(text, s.ownText) {
		return nil
	}
	s.laidOut = time.Time{} // until this has gone well
	for _, f := range s.files() {
		f.forget()
	}
	own, err := parseOwnCgroups(s.cgroup.path, text)
	if err != nil {
		return err
	}
	s.ownText = append(s.ownText[:0], text...)

	var (
		mounts []mount
		large  []byte // the list may be of megabytes, which are not kept
	)
	text, ok, err = s.mountinfo.readIfThere(&large)
	if err == nil && ok {
		mounts, err = parseMounts(s.mountinfo.path, text)
	}
	if err != nil {
		return err
	}
	before := s.groups
	defer closeAll(before)
	s.groups, s.hidden, s.unreadable = nil, false, false
	if err := s.follow(mounts, own); err != nil {
		s.closeGroups()
		return err
	}
	for _, g := range s.groups {
		if i := slices.IndexFunc(before, func(b *group) bool { return b.name == g.name }); i >= 0 {
			g.hits = before[i].hits
		}
	}
	s.laidOut = at
	return nil
}

// follow adds the cgroups that can bound us, from our own up to the mount point.
// A controller is in one hierarchy at a time: memory is in version 1 where that
// has a line for it, whatever else is mounted.
func (s *source) follow(mounts []mount, cgroups ownCgroups) error {
	own, unified := cgroups.memory, false
	if own == "" {
		own, unified = cgroups.unified, true
	}
	if own == "" {
		return nil
	}
	p, found := locate(mounts, unified, own, func(m mount, below string) bool {
		_, err := os.Stat(s.options.Mounts + m.point + below)
		return err == nil
	})
	s.hidden = !p.whole
	if !found {
		return nil
	}
	for below, lowest := p.below, true; ; lowest = false {
		name := p.point + below
		g := newGroup(name, s.options.Mounts+name, unified, lowest)
		err := g.limit.reopen()
		switch {
		case err == nil:
			s.groups = append(s.groups, g)
		case errors.Is(err, fs.ErrPermission):
			s.unreadable = true
		case !missing(err): // the root of version 2 has none, nor has a group without the controller
			return err
		}
		if below == "" {
			return nil
		}
		below = below[:strings.LastIndexByte(below, '/')]
	}
}

func (s *source) closeGroups() {
	closeAll(s.groups)
	s.groups = nil
}

func closeAll(groups []*group) {
	for _, g := range groups {
		for _, f := range g.files() {
			f.close()
		}
	}
}
