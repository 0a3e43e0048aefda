package tier

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// The two measures of a Model's Version.
const (
	// VersionDigest begins a version that is told by the SHA-256 of all the content.
	VersionDigest = "sha256:"
	// VersionHeader begins one that is told by what can be read at once of each file: its
	// size, its header, and samples of the rest.
	VersionHeader = "header:"
)

var versionForm = regexp.MustCompile(`^(?:` + VersionDigest + `|` + VersionHeader + `)[0-9a-f]{64}$`)

const versionRule = `must be "` + VersionDigest + `" or "` + VersionHeader + `" and 64 hexadecimal digits in lower case`

// OtherVersion reports whether a and b are versions of different content. It reports
// false where that is not known: one of them is "", or they were told by different
// measures.
func OtherVersion(a, b string) bool {
	measure, _, _ := strings.Cut(a, ":")
	return a != b && a != "" && strings.HasPrefix(b, measure+":")
}

// A version is named by that many digits at least; modeltier itself names it by
// versionDigits of them.
const (
	minVersionDigits = 6
	versionDigits    = 12
)

// VersionName returns the name of a version of a model: NAME@ and the first twelve
// digits of the version. "" if that is not known, or the name would be too long.
func VersionName(name, version string) string {
	_, digits, known := strings.Cut(version, ":")
	if !known || len(name)+1+versionDigits > MaxNameLength {
		return ""
	}
	return name + "@" + digits[:min(len(digits), versionDigits)]
}

// cutVersion splits NAME@VERSION. ok is false where it is no such thing. version is in
// lower case, without its measure.
func cutVersion(s string) (name, version string, ok bool) {
	at := strings.LastIndexByte(s, '@')
	if at <= 0 {
		return s, "", false
	}
	name, version = s[:at], strings.ToLower(s[at+1:])
	version = strings.TrimPrefix(strings.TrimPrefix(version, VersionDigest), VersionHeader)
	return name, version, true
}

// isVersion reports whether digits, the part of a name behind the @, can be the beginning
// of a version.
func isVersion(digits string) bool {
	return len(digits) >= minVersionDigits && strings.Trim(digits, "0123456789abcdef") == ""
}

// begins reports whether the version of a model begins with the digits.
func (m *Model) begins(digits string) bool {
	_, all, _ := strings.Cut(m.Version, ":")
	return strings.HasPrefix(all, digits)
}

// Versions returns the indexes of the model at index i, or of the one that it is an older
// version of, first the current one, then the older ones, the last to have been current
// at the end.
func (l *Library) Versions(i int) []int {
	name := cmp.Or(l.models[i].VersionOf, l.models[i].Name)
	var all []int
	if j, there := l.Named(name); there {
		all = append(all, j)
	}
	return append(all, l.older[name]...)
}

// current returns the index of the model that the one at index i is an older version of,
// if it has become that version since, and else i.
func (l *Library) current(i int) int {
	if m := &l.models[i]; m.VersionOf != "" {
		if j, there := l.Named(m.VersionOf); there && l.models[j].Version == m.Version {
			return j
		}
	}
	return i
}

// version returns the index of the model that NAME@VERSION names: the version is one
// alone of the model that has the name or, unless own is set, the alias.
func (l *Library) version(ref string, own bool) (index int, ok bool) {
	name, digits, ok := cutVersion(ref)
	i, there := l.byName[name]
	if !ok || !there || own && l.models[i].Name != name || !isVersion(digits) {
		return 0, false
	}
	ok = false
	for _, j := range l.Versions(i) {
		switch m := &l.models[j]; {
		case !m.begins(digits):
		case !ok:
			index, ok = j, true
		case l.models[index].Version != m.Version:
			return 0, false
		}
	}
	return index, ok
}

// unknownVersion fills in what is said of NAME@VERSION, whose model there is.
func (l *Library) unknownVersion(err *NotFoundError) bool {
	name, digits, ok := cutVersion(err.Name)
	i, there := l.byName[name]
	if !ok || !there {
		return false
	}
	name = cmp.Or(l.models[i].VersionOf, l.models[i].Name)
	err.VersionOf = name
	for _, j := range l.Versions(i) {
		m := &l.models[j]
		if known := VersionName(name, m.Version); known != "" && !slices.Contains(err.Versions, known) {
			err.Versions = append(err.Versions, known)
			err.Ambiguous = err.Ambiguous || isVersion(digits) && m.begins(digits)
		}
	}
	return true
}
