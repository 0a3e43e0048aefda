package llama

import (
	"strings"
	"unicode/utf8"
)

// outlet lets a text out piece by piece: whole characters, and nothing from a stop
// word on.
type outlet struct {
	stop []string // none is empty
	kept string   // what may be the beginning of a stop word or of a character
}

// add takes the next piece, and returns what can go out, and whether a stop word
// was met.
func (o *outlet) add(piece string) (out string, met bool) {
	all := o.kept + piece
	end := len(all)
	for _, word := range o.stop {
		if i := strings.Index(all, word); i >= 0 && i < end {
			end, met = i, true
		}
	}
	if met {
		o.kept = ""
		return strings.ToValidUTF8(all[:end], "\uFFFD"), true
	}
	end -= unfinished(all)
	for _, word := range o.stop {
		for n := min(len(word)-1, len(all)); n > len(all)-end; n-- {
			if strings.HasSuffix(all, word[:n]) {
				end = len(all) - n
				break
			}
		}
	}
	o.kept = all[end:]
	return strings.ToValidUTF8(all[:end], "\uFFFD"), false
}

// rest returns what was kept back, once nothing comes any more.
func (o *outlet) rest() string {
	out := strings.ToValidUTF8(o.kept, "\uFFFD")
	o.kept = ""
	return out
}

// unfinished returns how many bytes at the end are the beginning of a character.
func unfinished(s string) int {
	for n := 1; n < utf8.UTFMax && n <= len(s); n++ {
		if b := s[len(s)-n]; utf8.RuneStart(b) {
			if !utf8.FullRuneInString(s[len(s)-n:]) {
				return n
			}
			return 0
		}
	}
	return 0
}
