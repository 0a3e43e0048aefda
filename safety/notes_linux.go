package safety

// note is something that a person should know about a reading.
type note uint8

const (
	noteNoPSI note = iota
	noteNoRates
	noteEstimated
	noteCMA
	noteZRAM
	noteZswap
	noteSwapUnknown
	noteHidden
	noteUnreadable
	noteCount
)

var noteTexts = [noteCount]string{
	noteNoPSI:       "The kernel has no pressure stall information: pressure is judged by refaults, direct reclaim and swap-out.",
	noteNoRates:     "The kernel's vmstat cannot be read: there are no rates.",
	noteEstimated:   "The kernel has no MemAvailable: it is estimated from free pages, page cache and watermarks.",
	noteCMA:         "A sixteenth or more of the memory is free CMA: memory of a device, and memory pinned for one, cannot be placed there.",
	noteZRAM:        "Swap on zram is memory again: it counts as no capacity.",
	noteZswap:       "Zswap keeps swapped pages in memory: its pool counts as no capacity.",
	noteSwapUnknown: "The list of swap devices cannot be read: all swap is taken for compressed memory.",
	noteHidden:      "The cgroup of this process is outside of what it can see: limits up there are not known.",
	noteUnreadable:  "The limit of a cgroup around this process may not be read: it is not known.",
}

// noteSet is a set of notes.
type noteSet uint16

func (s *noteSet) add(n note) { *s |= 1 << n }

// say returns the texts of the notes that hold. The slice is made anew only when
// they change.
func (s *source) say(now noteSet) []string {
	if s.hidden {
		now.add(noteHidden)
	}
	if s.unreadable {
		now.add(noteUnreadable)
	}
	if now == s.noted {
		return s.notes
	}
	s.noted, s.notes = now, nil
	for n, text := range noteTexts {
		if now&(1<<n) != 0 {
			s.notes = append(s.notes, text)
		}
	}
	return s.notes
}
